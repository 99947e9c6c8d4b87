"""Explanations that the report shows beside its plots and tables.

The equations are in docs/evaluation.md and docs/algorithms.md.
"""

from __future__ import annotations

GLOSSARY_TITLE = "Glossary"
EQUATIONS_NOTE = "The equation of every number is in docs/evaluation.md."
NEW_EPISODES_NOTE = (
    "Measured after training, on new episodes. The last point of the learning curve comes from "
    "other episodes."
)
NO_MODEL_NOTE = "This run trains no model, so there is none to look at."
PROBE_NOTE = (
    "R² of a linear regression from the agent's latent state to the simulator's state: 1 means "
    "that all of its variance is predicted, 0 none. The regression was fitted and tested on {} "
    "played for this purpose; every third episode was held out."
)
TWO_PROBES_NOTE = (
    'The plot "simulator state" above shows the mean over coordinates on the episodes of '
    'model.json, and continues into imagination. Only its line "closed loop" is the same measure '
    "as here. Both are in units of the state's variance over the test episodes. Where the state "
    "hardly varies, as in an agent that balances, R² is low or negative even though errors are "
    "small."
)
NO_ENDINGS_NOTE = (
    "No measured episode terminated, so the continuation predictions cannot be judged: their "
    "three plots are left out."
)
RETRAIN_NOTE = (
    "If the run's directory still exists, these commands resume it, or report that it is "
    "finished. To train from scratch next to it, add --run.name NAME. To train from scratch in "
    "its place, add --run.fresh true: this keeps the old directory under another name."
)

# The line below a plot's title; the key is the title up to its first comma.
PLOT_NOTES = {
    "picture MSE": "mean squared error of a pixel in [0, 1]",
    "picture PSNR in dB": "the same error in decibels",
    "SSIM": "structural similarity; 1 means identical pictures",
    "latent KL in nats": "from the imagined state to the posterior once the frame is seen",
    "reward error (RMSE)": "in units of the reward",
    "reward correlation": "between imagined and real rewards, over rollouts",
    "continuation (Brier score)": "squared error of the predicted probability of continuing",
    "calibration error of continuation": "predicted probability against observed frequency",
    "reliability": "one mark for each tenth of predicted probability",
    "returns of plans": "one mark for each plan, imagined and then executed in the simulator",
    "gap": "above 0 the model was too optimistic; the line is the 95 % interval",
    "returns of policies": "one mark for each policy: mean over starts, 95 % interval",
    "action sensitivity": "do actions change the imagined rollout as they change the world?",
    "simulator state": "mean over coordinates; below 0 is worse than predicting the mean state",
}
QUALITY_TERMS = {
    "open loop": "the model sees a few context frames. Then it predicts from the actions alone, "
    "without seeing another frame.",
    "copy, mean": "two baselines without a model: copy repeats the last seen picture or reward; "
    "mean predicts the average of these very episodes. A model is useful up to the step where a "
    "baseline becomes more accurate.",
    "closed loop": "the model predicts one step ahead and is corrected by every frame: a lower "
    "bound on the error of an imagined rollout.",
    "KL, nats": "a distance between two distributions; 0 means that they are equal. Here: from "
    "the state predicted before a frame to the posterior after it. With model.dynamics mlp it is "
    "the negative log-likelihood of what was observed, which may be below 0.",
    "Brier score": "mean squared error of a probability. 0 is perfect; always predicting 0.5 "
    "scores 0.25.",
    "calibration": "of all steps predicted to continue with probability 0.9, 90 % should "
    "continue.",
    "imagined and real return": "the sum of rewards that the model predicts for a plan or a "
    "policy, and the sum that the simulator pays.",
    "rank correlation": "whether imagined returns order plans correctly: 1 is the correct order, "
    "0 an unrelated one.",
    "exploitation": "how far the planner's own plans are overestimated. The part beyond the gap "
    "of random plans comes from the search, which finds the model's errors.",
    "action sensitivity": "for two plans from one state: how similar the imagined difference of "
    "pictures is to the true one (the model's line), how large it is compared with the true one "
    "(size of differences), and the similarity under wrong actions (shuffled).",
    "R² of the simulator state": "the share of the state's variance that a linear regression "
    "from the latent explains: 1 is all of it, 0 none. Errors are in units of the variance over "
    "these episodes. That variance is tiny where an agent balances: R² is then far below 0 even "
    "though errors are small.",
    "effective rank": "the number of directions in which the features vary; near 1 they have "
    "collapsed.",
}
RETURN_TERMS = {
    "return": "the sum of an episode's rewards.",
    "95 % interval": "the range in which the mean of other such episodes is expected (bootstrap).",
    "IQM": "interquartile mean: the mean of the middle half, without the lowest and the highest "
    "quarter.",
}
DRIVER_TERMS = {
    "actor": "the trained policy; it acts at once, without planning.",
    "shooting": "samples random plans and takes the one with the highest imagined return.",
    "cem, icem, mppi": "sample plans, then resample around the best ones for several iterations.",
    "gradient": "moves sampled plans along the gradient of their imagined return.",
    "ilqr": "linearises the model along one plan and solves for a better one, several times.",
    "critic, actor": "added to a planner: the critic values the state after the last planned "
    "step; the actor proposes some of the plans.",
    "the number": "candidate plans per iteration.",
}
IMAGINATION_TERMS = {
    "random draws": "samples of a stochastic model at every step. Other samples give another "
    "future of the same actions.",
    "useful horizon": "the step from which a rollout is no more accurate than the mean picture, "
    "three steps in a row.",
    "latent group": "one of the variables that make up the stochastic part of the state.",
}
# Shown beside a loss; other logged numbers have no explanation.
LOSS_NOTES = {
    "loss/image": "error of decoded pictures",
    "loss/reward": "reward prediction",
    "loss/cont": "prediction whether the episode continues",
    "loss/dyn": "KL between posterior (frame seen) and prior (not seen); trains the prior",
    "loss/rep": "the same KL; trains the posterior",
    "loss/overshoot": "the same KL, with a prior imagined over several steps",
    "loss/corrective": "the same KL, one step after states that imagination reached",
    "loss/ensemble": "squared error of the next latent, summed over the ensemble's heads",
    "loss/total": "weighted sum of the model's losses",
    "loss/actor": "policy loss; its sign and size mean little",
    "loss/critic": "return prediction",
    "loss/critic_replay": "return prediction along replayed episodes",
    "kl": "the KL before free nats; in the losses it counts as at least loss.free",
    "disagreement": "spread of the ensemble's predictions along replayed steps",
    "value": "mean return that the critic predicts",
    "entropy": "entropy of the policy; near 0 it is deterministic",
    "temperature": "weight of the entropy bonus where it learns, by actor.target_entropy",
    "embed/std": "spread of the encoder's output; near 0 it has collapsed",
    "feat/std": "spread of the model's state; near 0 it has collapsed",
    "fps/frames": "environment frames per second",
}

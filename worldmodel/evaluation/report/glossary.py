"""What the page's words mean, in plain ones; the equations are in docs/evaluation.md and
docs/algorithms.md.
"""

from __future__ import annotations

WHAT = "What these words mean"
MORE = "Every number's equation: docs/evaluation.md."
REPLAYED = (
    "Played after training, on episodes of their own; the learning curve's last point is of other "
    "episodes."
)
KNOWN = (
    "R² of a linear read-out of the simulator's state from what the model believes while it "
    "sees every frame: 1 is all "
    "of it, 0 nothing. Fitted and tested on {} played for this, every third of them held out."
)
BESIDE = (
    '"True state read off" in the part above is its mean over coordinates on the episodes of '
    "model.json, and "
    'goes on to dreams: only its line "every frame seen" is the same measure. Both are in units '
    "of the variance of the "
    "episodes they are tested on; where these hardly vary, as an agent's that balances, R² is "
    "low or below 0 though "
    "errors are small."
)
UNENDED = (
    "No measured episode ended for good, so nothing can be said of how well ends are foretold: "
    "the three plots of "
    "continuation are left out."
)
ANEW = (
    "Where the run's directory is still there, these go on with it, or say that it is done. To "
    "train it anew beside "
    "that one, add --run.name NAME; in its place, add --run.fresh true, which keeps the old "
    "directory under "
    "another name."
)

# A line below the title of a plot, by the title up to its first comma.
PLOTS = {
    "picture MSE": "squared error of a pixel in [0, 1], mean",
    "picture PSNR in dB": "the same error in decibels",
    "SSIM": "likeness of patterns, 1 is the same picture",
    "latent KL in nats": "from what is dreamt to what is believed once that frame is seen",
    "reward error (RMSE)": "in the unit of the reward",
    "reward correlation": "of dreamt and real rewards, over dreams",
    "continuation (Brier score)": "squared error of the probability that the episode goes on",
    "calibration error of continuation": "how far said probabilities are from what happened",
    "reliability": "a mark for each tenth of said probability",
    "returns of plans": "a mark for each plan, dreamt and then done in the simulator",
    "gap": "above 0: the dream was too good; line: 95 % interval",
    "returns of policies": "a mark for each policy, mean over starts with its 95 % interval",
    "action sensitivity": "do other actions change dreams as they change the world?",
    "true state read off": "mean over coordinates; below 0 is worse than to say the mean state",
}
QUALITY = {
    "dream": "the model's open loop: it sees a few frames, then goes on with the actions that "
    "were done, and sees "
    "nothing more.",
    "nothing changes, the mean": "two guessers without a model: the last seen picture or reward "
    "stays; the mean of "
    "just these episodes is said every time. A model is of use up to the step where one of them "
    "comes nearer.",
    "every frame seen": "the model one step ahead, corrected by each frame: what a dream can at "
    "best come near to.",
    "KL, nats": "how far two distributions are apart, 0 is the same. Here: what is believed "
    "after the frame, from what "
    "was dreamt before it.",
    "Brier score": "mean squared error of a probability: 0 is perfect, 0.25 is to say one half "
    "always.",
    "calibration": "of all the times 0.9 was said, it should come true in 90 %.",
    "imagined and real return": "the sum of rewards that the model expects of a plan or a "
    "policy, and what the "
    "simulator gives.",
    "rank correlation": "whether imagined returns put plans into the right order: 1 is the same "
    "order, 0 none.",
    "exploitation": "how much too good the planner's own plans are imagined; what is beyond the "
    "gap of random plans is "
    "owed to the search, which found where the model is wrong.",
    "action sensitivity": "two plans from one state: how alike the dreamt and the true "
    "difference of pictures are "
    "(the model's line), how large the dreamt one is beside the true one (size of differences), "
    "and what is left with "
    "wrong actions (shuffled).",
    "R² of the true state": "share of the state's variance that a linear map reads off the "
    "latent: 1 is all of it, 0 "
    "none. Errors are in units of the variance over these episodes, which is tiny where an "
    "agent balances: it then "
    "falls far below 0 though errors are small.",
    "effective rank": "in how many directions features vary; near 1 they have collapsed into one.",
}
RETURNS = {
    "return": "the sum of an episode's rewards.",
    "95 % interval": "where the mean of other such episodes would lie, by resampling these "
    "(bootstrap).",
    "IQM": "interquartile mean: the mean of the middle half, a quarter cut off at either end.",
}
WAYS = {
    "actor": "the trained policy; it acts at once, without planning.",
    "shooting": "of many random plans, the one whose dream has the highest return.",
    "cem, icem, mppi": "random plans that are drawn anew around the best ones, several times over.",
    "critic, actor": "added to a planner: the critic values what comes after the last planned "
    "step; the actor proposes "
    "some of the plans.",
    "the number": "plans that are tried in each round.",
}
DREAMS = {
    "luck": "what a stochastic model draws at every step of a dream: other draws, another "
    "future of the same actions.",
    "to break": "to be no nearer to the truth than the mean picture, three steps in a row.",
    "latent group": "one of the variables that the stochastic part of the state is made of.",
}
# Beside a loss; what else is in the logs has no line.
LOSSES = {
    "loss/image": "how far decoded pictures are from those seen",
    "loss/reward": "of predicting the reward",
    "loss/cont": "of predicting whether the episode goes on",
    "loss/dyn": "KL of the posterior (frame seen) from the prior (not seen), draws the prior to "
    "the posterior",
    "loss/rep": "the same KL, draws the posterior to the prior",
    "loss/overshoot": "that KL where the prior was dreamt over several steps",
    "loss/total": "the model's losses by their weights, summed",
    "loss/actor": "of the policy, in dreams; its sign and size say little",
    "loss/critic": "of predicting the return, in dreams",
    "loss/critic_replay": "the same, along replayed episodes",
    "kl": "that KL as it is; in losses it counts no less than the free nats (loss.free)",
    "value": "what the critic expects from dreamt states on, mean",
    "entropy": "of the policy's actions; near 0 it always does the same",
    "embed/std": "spread of what the encoder makes of a frame; near 0 it has collapsed",
    "feat/std": "spread of the model's state; near 0 it has collapsed",
    "fps/frames": "environment frames a second",
}

"""How long imagined rollouts should be in the Dyna agent."""

from __future__ import annotations

import numpy as np

from worldmodel.config.schema import Config
from worldmodel.ladder.learning_curves import (
    describe_prefill,
    match_seeds,
    plot_curves,
    plot_finals,
    read_curves,
)
from worldmodel.ladder.lesson import Lesson, Results
from worldmodel.ladder.material import Material
from worldmodel.ladder.references import SPINNING, only_spin
from worldmodel.ladder.statements import (
    Claim,
    Verdict,
    describe_count,
    describe_mean,
    join_words,
    judge,
    name_verdict,
    state_absence,
    state_finding,
)
from worldmodel.ladder.trainings import Study, label_rollouts

# By sign and by whether the mean is at least as high.
WORDS = {
    (1, False): "clearly less",
    (0, False): "less, but not clearly",
    (0, True): "no less",
    (-1, True): "clearly more",
}


def list_labels(study: Study) -> list[str]:
    return [label_rollouts(length) for length in study.rollout_lengths]


def measure(material: Material) -> Results:
    curves = {
        str(length): read_curves(material.runs[label])
        for length in material.study.rollout_lengths
        if material.runs.get(label := label_rollouts(length))
    }
    label = label_rollouts(int(next(iter(curves))))
    imagined = {
        length: count_imagined(material.open(label_rollouts(int(length))).config)
        for length in curves
    }
    references = material.measure_references(label)
    return {"curves": curves, "imagined": imagined, "references": references}


def count_imagined(config: Config) -> int:
    """The imagined steps of an update."""
    train = config.train
    rows = (train.policy_batch or config.replay.batch) * (
        train.policy_length or config.replay.length
    )
    return min(rows, config.imag.starts or rows) * config.dyna.rollout_length


def compare_lengths(curves: Results) -> dict[str, tuple[int, list[float], list[float]]]:
    """Each longer length against the shortest over the seeds that both have: 1 where it is clearly
    worse, 0 or -1, and the returns of the shortest and of the longer.
    """
    short, *longer = sorted(curves, key=int)
    found = {}
    for length in longer:
        pair = match_seeds({short: curves[short], length: curves[length]})
        ours, theirs = pair[short]["final"], pair[length]["final"]
        if ours:
            found[length] = judge(ours, theirs), ours, theirs
    return found


def summarize(results: Results) -> str:
    """The lengths are grouped by whether they are worse than the shortest."""
    curves = results["curves"]
    short, *longer = sorted(curves, key=int)
    steps = describe_count(int(short), "step")
    if not longer:
        return state_absence(f"only rollouts of {steps} are trained")
    compared = compare_lengths(curves)
    if not compared:
        return state_absence("no length has a seed in common with the shortest")
    is_idle = do_all_spin(results, compared)
    claims = []
    for (sign, is_more), what in WORDS.items():
        own = {
            length: found
            for length, found in compared.items()
            if found[0] == sign and (np.mean(found[2]) >= np.mean(found[1])) == is_more
        }
        if own:
            ours, theirs = (
                join_words([f"{np.mean(found[i]):.1f}" for found in own.values()]) for i in (1, 2)
            )
            said = f"{join_words(list(own))} returned {what} ({theirs} against {ours})"
            verdict = Verdict.UNCLEAR if is_idle else name_verdict(sign)
            claims.append(Claim(verdict, said))
    counts = sorted({len(ours) for _, ours, _ in compared.values()})
    seeds = describe_count(counts[-1], "seed")
    seeds = seeds if len(counts) == 1 else f"{counts[0]} to {seeds}"
    after = f", over {seeds}"
    if is_idle:
        after += f", all near spinning ({results['references'][SPINNING]:.1f})"
    return state_finding(claims, f"compared with {steps}, rollouts of ", after)


def do_all_spin(results: Results, compared: Results) -> bool:
    """Whether each return that is compared is about that of spinning, so that none is better."""
    scores = [float(np.mean(x)) for _, *pair in compared.values() for x in pair]
    return only_spin(results["references"], scores)


def describe(results: Results) -> str:
    curves = results["curves"]
    short, *longer = sorted(curves, key=int)
    if not longer:
        return f"Only rollouts of {describe_count(int(short), 'step')} are trained."
    words, verdicts = [], []
    compared = compare_lengths(curves)
    for length, (sign, ours, theirs) in compared.items():
        verdicts.append(sign)
        what = {1: "clearly worse", 0: "no clear difference", -1: "clearly better"}[sign]
        words.append(
            f"{length} steps got {describe_mean(theirs)} and {short} got {describe_mean(ours)} "
            f"over {describe_count(len(ours), 'seed')}: {what}"
        )
    if not words:
        return "No length has a seed in common with the shortest."
    if do_all_spin(results, compared):
        verdict = (
            f"All are about the return of spinning ({results['references'][SPINNING]:.1f}), so "
            "that this cannot show which length is better."
        )
    elif all(v == 1 for v in verdicts):
        verdict = "Every longer length does worse, as the lecture says."
    elif -1 in verdicts:
        verdict = "Some longer length does better, the opposite of what the lecture says."
    elif 1 in verdicts:
        verdict = "Only some longer lengths do worse, which is half of what the lecture says."
    else:
        verdict = "That does not show what the lecture says."
    return (
        f"Rollouts are compared with the shortest over the seeds that both have: "
        f"{'; '.join(words)}.\n{verdict}{describe_shape(curves)}\n"
        f"{describe_imagined(results['imagined'])}"
    )


def describe_imagined(imagined: Results) -> str:
    """Whether all lengths learn from as many imagined steps."""
    lengths = sorted(imagined, key=int)
    counts = [imagined[length] for length in lengths]
    if len(set(counts)) == 1:
        return f"All have {counts[0]} imagined steps in an update."
    return (
        f"Imagined steps in an update are not equal: {join_words([str(x) for x in counts])} for "
        f"lengths of {join_words(lengths)}, from fewer real states the longer they are."
    )


def describe_shape(curves: Results) -> str:
    """Whether returns fall steadily with the length, over the seeds that all lengths have."""
    shared = match_seeds(curves)
    lengths = sorted(shared, key=int)
    if len(lengths) < 3 or not shared[lengths[0]]["final"]:
        return ""
    means = [float(np.mean(shared[length]["final"])) for length in lengths]
    order = sorted(lengths, key=lambda length: -means[lengths.index(length)])
    over = describe_count(len(shared[lengths[0]]["final"]), "seed")
    steady = order == lengths
    return (
        f"\nFrom best to worst the lengths are {join_words(order)} over {over} that all have: "
        f"{'a steady fall' if steady else 'not a steady fall'} with length."
    )


def draw(results: Results) -> str:
    curves, levels = results["curves"], results["references"]
    named = {label_rollouts(int(length)): curve for length, curve in curves.items()}
    names = {label_rollouts(int(x)): describe_count(int(x), "step") for x in curves}
    note = "; ".join(
        filter(None, ("training episodes, mean of the seeds", describe_prefill(named)))
    )
    return plot_curves(
        "Returns by environment steps",
        named,
        "frames",
        note,
        levels,
        names,
    ) + plot_finals(
        "Returns of the closing evaluation, by length of rollouts", named, "", levels, names
    )


LESSON = Lesson(
    "rollout_length",
    "Short branched rollouts against long ones",
    "that a policy learns worse from long rollouts, which compound the model's error and lead to "
    "states that do not exist, than from short ones that start from real states.",
    list_labels,
    measure,
    summarize,
    describe,
    draw,
    needs_all=False,
)

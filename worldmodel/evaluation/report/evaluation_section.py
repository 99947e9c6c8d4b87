"""What eval.py has measured of a run, and its videos; what it has not is said, with the command
that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from worldmodel.evaluation.quality import summary_text as text
from worldmodel.evaluation.report import panels
from worldmodel.evaluation.report.gather import ODD, Seed, sure
from worldmodel.evaluation.report.glossary import (
    BESIDE,
    DREAMS,
    KNOWN,
    MORE,
    QUALITY,
    REPLAYED,
    RETURNS,
    WAYS,
    WHAT,
)
from worldmodel.evaluation.report.html import Pictures, command, listed, p, table, terms, together
from worldmodel.evaluation.report.svg import bars
from worldmodel.evaluation.returns.aggregates import AGGREGATES
from worldmodel.rollout.episodes import spoken

DREAM = (
    "a dream of {}: truth, model (green bar: frames seen; orange bar: actions alone), and their "
    "difference"
)
FUTURES = (
    "many futures from one state: with other luck (other draws), under other actions, under other "
    "drivers"
)
PARTING = "truth, the mean of several dreams of the same actions, and where those part"
EPISODES = (
    "the agent at the end of its training",
    *(
        f"the agent, as evaluated last: its {which} episode"
        for which in ("best", "median", "worst")
    ),
)
VIDEOS = {
    **dict(
        zip(
            ("videos/agent.gif", "eval/best.gif", "eval/median.gif", "eval/worst.gif"),
            EPISODES,
            strict=True,
        )
    ),
    "videos/imagined.gif": DREAM.format("the end of training"),
    "eval/imagine.gif": DREAM.format("eval.py imagine"),
    "eval/futures.gif": FUTURES,
    "eval/uncertainty.gif": PARTING,
}
ON_WHITE = (FUTURES, PARTING)
STILLS = {
    "long": "Dreams that go on until they break",
    "uncertainty": "Where dreams of the same actions part",
    "latents": "What single latent groups draw",
}


def videos(seeds: Sequence[Seed], pictures: Pictures, lacking: list[str]) -> str:
    found, dreams = [], ("eval/imagine.gif", "videos/imagined.gif")
    open_ = [
        next((name for name in names if (seeds[0].path / name).exists()), "")
        for names in (list(VIDEOS)[:2], dreams)
    ]
    for seed in seeds:
        clips = sorted(f"eval/{path.name}" for path in (seed.path / "eval").glob("play-*.gif"))
        named = {**VIDEOS, **{clip: "driven by hand: dreamt left, real right" for clip in clips}}
        for name, words in named.items():
            if (seed.path / name).exists():
                kind = ' class="strip"' if words not in EPISODES else ""
                # The same in a fraction of the bytes
                small = (seed.path / name).with_suffix(".webp")
                shown = small if small.exists() else seed.path / name
                told = f"{seed.name}, {shown.relative_to(seed.path)}"
                label = f"{told}: {words}"
                state = " open" * (seed is seeds[0] and name in open_)
                inside = pictures.embedded(shown, label, pixels=True, paper=words in ON_WHITE)
                title = f'{escape(words)} <span class="file">{escape(told)}</span>'
                found.append(f"<details{state}{kind}><summary>{title}</summary>{inside}</details>")
    if not found and not seeds[0].sees:
        return p(
            f"No videos: this run sees no pictures (env.obs {seeds[0].config.env.obs}).", "soft"
        )
    if not found:
        dream = f", {command(seeds[0].path, 'imagine')} one of a dream" if seeds[0].draws else ""
        lacking.append(f"no video yet: {command(seeds[0].path, '')} makes one of the agent{dream}")
        return p(lacking[-1], "lacking")
    return (
        p("Open a video to play it, close it to stop it.", "soft")
        + f'<div class="clips">{"".join(found)}</div>'
    )


def each(
    seeds: Sequence[Seed],
    file: str,
    what: str,
    lacking: list[str],
    show: Any,
    make: str | None = None,
) -> str:
    """A part for every seed that has a file of numbers, a line for one that has none or a damaged
    one.
    """
    parts = []
    for seed in seeds:
        title = f"<h3>{escape(seed.name)}</h3>" if len(seeds) > 1 else ""
        found = seed.measured(file)
        try:
            body = show(seed, found) if found is not None else ""
        except ODD:
            body, found = "", None
        if found is None:
            state = (
                "cannot be read"
                if (seed.path / "eval" / file).exists()
                else "has not been measured"
            )
            lacking.append(f"{seed.path}/eval/{file} {state}: {make or command(seed.path, what)}")
            short = (
                lacking[-1]
                if state == "cannot be read"
                else f"Not measured yet: {make or command(seed.path, what)}"
            )
            body = p(short, "lacking")
        parts.append(title + body)
    return "".join(parts)


def returns(seeds: Sequence[Seed], lacking: list[str]) -> str:
    def show(seed: Seed, x: dict[str, Any]) -> str:
        numbers = [sure(y) for y in x["scores"]]
        ends = spoken(x["eval/score_low"], x["eval/score_high"], len(numbers))
        episodes = f"{len(numbers)} episode{'s' * (len(numbers) != 1)}"
        about = f"{episodes} on new seeds (--seed {x['seed']}), after {x['frames']:,} frames"
        more = f"; middle half (IQM) {x['eval/iqm']:.1f}" if "eval/iqm" in x else ""
        more += f"; success in {x['eval/success']:.0%}" if "eval/success" in x else ""
        return p(f"{x['eval/score']:.1f}, {ends}{more}, over {about}")

    shown = over_seeds(seeds, lacking) + each(
        seeds, "returns.json", "--episodes 10", lacking, show
    )
    return p(REPLAYED, "soft") + shown + terms(WHAT, RETURNS)


def over_seeds(seeds: Sequence[Seed], lacking: list[str]) -> str:
    """What eval.py has made of several runs at once, which lies in the first."""
    if len(seeds) == 1 and not (seeds[0].path / "eval" / "seeds.json").exists():
        return ""

    def show(seed: Seed, x: dict[str, Any]) -> str:
        pages = {
            **x["tasks"],
            **({f"{len(x['tasks'])} tasks together": x["together"]} if "together" in x else {}),
        }
        parts = []
        for task, methods in pages.items():
            rows = [
                (name, str(sum(map(len, m["runs"]))), *(_interval(m[a]) for a in AGGREGATES))
                for name, m in methods.items()
            ]
            iqm = [
                (name, *(sure(m["iqm"][end]) for end in ("value", "low", "high")))
                for name, m in methods.items()
            ]
            head = (
                "run.name",
                "runs",
                *(f"{'IQM' if a == 'iqm' else a} (95 % interval)" for a in AGGREGATES),
            )
            parts.append(
                f'<div class="large">{bars(f"IQM over the runs of {task}, higher is better", iqm)}</div>'
            )
            parts.append(
                table(
                    f"{task}: over {len(x['runs'])} runs, each by the mean of its episodes",
                    head,
                    rows,
                )
            )
        return "".join(parts)

    return each(
        seeds[:1], "seeds.json", "", lacking, show, together([seed.path for seed in seeds])
    )


def _interval(x: dict[str, Any]) -> str:
    return f"{x['value']:.1f} ({x['low']:.1f} to {x['high']:.1f})"


def quality(seeds: Sequence[Seed], lacking: list[str]) -> str:
    """The numbers of eval.py model, in words and as panels."""

    def show(seed: Seed, x: dict[str, Any]) -> str:
        about = (
            f"{x['episodes']} {x['source']} episodes, {x['steps']} steps, after {x['frames']:,} "
            f"frames. {MORE}"
        )
        head = ("", *(f"step {h}" for h in text.horizons(x)), "which way is good")
        beside = text.BESIDE.replace("beside", "in brackets")
        numbers = table(f"by steps after the last seen frame ({beside})", head, text.rows(x))
        lines = [*text.singles(x), *text.omitted([str(line) for line in x["left_out"]])]
        names = ("policy", "imagined return", "real return", "imagined minus real")
        followed = (
            table("policies followed, 95 % intervals", names, rows)
            if (rows := text.policies(x))
            else ""
        )
        glossary = terms(WHAT, QUALITY)
        return (
            p(about, "soft")
            + glossary
            + panels.quality(x)
            + numbers
            + listed(lines, "soft")
            + followed
        )

    return each(seeds, "model.json", "model", lacking, show)


def dreams(seeds: Sequence[Seed], pictures: Pictures, lacking: list[str]) -> str:
    """What eval.py imagine has drawn, as stills."""
    found = []
    for seed in seeds:
        for name, title in STILLS.items():
            if (path := seed.path / "eval" / f"{name}.png").exists():
                alt = f"{seed.name}: {title}"
                found.append(f"<h3>{escape(title)}</h3>{pictures.embedded(path, alt, paper=True)}")
    if not found and not seeds[0].draws:
        return p("No dreams: this model cannot draw. It is measured all the same.", "soft")
    if not found:
        lacking.append(f"no dream has been drawn yet: {command(seeds[0].path, 'imagine')}")
        return p(lacking[-1], "lacking")
    return "".join([*found, terms(WHAT, DREAMS)])


def planners(seeds: Sequence[Seed], lacking: list[str]) -> str:
    def show(seed: Seed, x: dict[str, Any]) -> str:
        ways = sorted(x["drivers"].items(), key=lambda item: -sure(item[1]["eval/score"]))
        numbers = [
            (n, *(sure(r[f"eval/score{k}"]) for k in ("", "_low", "_high"))) for n, r in ways
        ]
        rows = [
            (
                n,
                f"{mean:.1f}",
                f"{low:.1f} to {high:.1f}" if len(r["scores"]) > 1 else "none of one",
                f"{r['ms_per_action']:.1f}",
                str(len(r["scores"])),
            )
            for (n, mean, low, high), (_, r) in zip(numbers, ways, strict=True)
        ]
        head = ("driven by", "mean return", "95 % interval", "ms per action", "episodes")
        drawn = f'<div class="large">{panels.planners(x["drivers"])}</div>'
        return drawn + table("one model, driven in several ways", head, rows) + terms(WHAT, WAYS)

    return each(seeds, "compare.json", "compare", lacking, show)


def state_known(seeds: Sequence[Seed], lacking: list[str]) -> str:
    def show(seed: Seed, x: dict[str, Any]) -> str:
        known = [f"{r2:.3f}" if r2 is not None else "never changes" for r2 in x["r2"]]
        rows = [f"coordinate {i}: {r2}" for i, r2 in enumerate(known)]
        about = f"{x['episodes']} episodes" if "episodes" in x else "episodes"
        beside = p(BESIDE, "soft") if (seed.path / "eval" / "model.json").exists() else ""
        return p(KNOWN.format(about), "soft") + listed(rows, "flow") + beside

    return each(seeds, "probe.json", "probe", lacking, show)

"""The report's sections on eval.py's results and on videos.

A section whose result is missing names the command that measures it.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from worldmodel.evaluation.quality import summary_text as text
from worldmodel.evaluation.report import panels
from worldmodel.evaluation.report.glossary import (
    DRIVER_TERMS,
    EQUATIONS_NOTE,
    GLOSSARY_TITLE,
    IMAGINATION_TERMS,
    NEW_EPISODES_NOTE,
    NO_MODEL_NOTE,
    PROBE_NOTE,
    QUALITY_TERMS,
    RETURN_TERMS,
    TWO_PROBES_NOTE,
)
from worldmodel.evaluation.report.html import (
    PictureEmbedder,
    format_command,
    format_joint_command,
    render_list,
    render_paragraph,
    render_table,
    render_terms,
)
from worldmodel.evaluation.report.reported_run import DAMAGE_ERRORS, ReportedRun, require_number
from worldmodel.evaluation.report.svg import plot_bars
from worldmodel.rollout.statistics import AGGREGATES, format_interval

OPEN_LOOP_CAPTION = (
    "imagined rollout from {}: truth, model (green bar: frames seen; orange bar: actions alone), "
    "and their difference"
)
FUTURES_CAPTION = (
    "many futures from one state: with other random draws, other actions, other policies"
)
UNCERTAINTY_CAPTION = (
    "truth, the mean of several imagined rollouts of the same actions, and their disagreement"
)
AGENT_CAPTIONS = (
    "the agent at the end of training",
    *(
        f"the agent in the last evaluation: {which} episode"
        for which in ("best", "median", "worst")
    ),
)
VIDEO_CAPTIONS = {
    **dict(
        zip(
            ("videos/agent.gif", "eval/best.gif", "eval/median.gif", "eval/worst.gif"),
            AGENT_CAPTIONS,
            strict=True,
        )
    ),
    "videos/imagined.gif": OPEN_LOOP_CAPTION.format("the end of training"),
    "eval/imagine.gif": OPEN_LOOP_CAPTION.format("eval.py imagine"),
    "eval/futures.gif": FUTURES_CAPTION,
    "eval/uncertainty.gif": UNCERTAINTY_CAPTION,
}
WHITE_CAPTIONS = (FUTURES_CAPTION, UNCERTAINTY_CAPTION)
STILL_TITLES = {
    "long": "Error of long imagined rollouts",
    "uncertainty": "Disagreement between imagined rollouts of the same actions",
    "latents": "What each latent group draws",
    "points": "Feature points of the encoder",
}


def render_videos(
    runs: Sequence[ReportedRun], pictures: PictureEmbedder, missing: list[str]
) -> str:
    """All videos, folded; one of the agent and one imagined rollout are open."""
    found = []
    open_ = [
        next((name for name in names if (runs[0].path / name).exists()), "")
        for names in (list(VIDEO_CAPTIONS)[:2], ("eval/imagine.gif", "videos/imagined.gif"))
    ]
    for run in runs:
        clips = sorted(f"eval/{path.name}" for path in (run.path / "eval").glob("play-*.gif"))
        named = {
            **VIDEO_CAPTIONS,
            **{clip: "driven by hand: imagined left, real right" for clip in clips},
        }
        for name, caption in named.items():
            if (run.path / name).exists():
                kind = ' class="strip"' if caption not in AGENT_CAPTIONS else ""
                # The WebP shows the same in a fraction of the bytes.
                small = (run.path / name).with_suffix(".webp")
                shown = small if small.exists() else run.path / name
                source = f"{run.name}, {shown.relative_to(run.path)}"
                label = f"{source}: {caption}"
                state = " open" * (run is runs[0] and name in open_)
                inside = pictures.embed(shown, label, pixels=True, paper=caption in WHITE_CAPTIONS)
                title = f'{escape(caption)} <span class="file">{escape(source)}</span>'
                found.append(f"<details{state}{kind}><summary>{title}</summary>{inside}</details>")
    if not found and not runs[0].has_pictures:
        return render_paragraph(
            f"No videos: this run observes no pictures (env.obs {runs[0].config.env.obs}).", "soft"
        )
    if not found:
        rollout = (
            f", {format_command(runs[0].path, 'imagine')} an imagined rollout"
            if runs[0].can_draw
            else ""
        )
        missing.append(
            f"no video yet: {format_command(runs[0].path, '')} makes one of the agent{rollout}"
        )
        return render_paragraph(missing[-1], "missing")
    return (
        render_paragraph("Open a video to play it; close it to stop it.", "soft")
        + f'<div class="clips">{"".join(found)}</div>'
    )


def render_each(
    runs: Sequence[ReportedRun],
    file: str,
    what: str,
    missing: list[str],
    show: Any,
    make: str | None = None,
) -> str:
    """One part per run: its result as `show` renders it, or a line if it is missing or damaged."""
    parts = []
    for run in runs:
        title = f"<h3>{escape(run.name)}</h3>" if len(runs) > 1 else ""
        found = run.read_result(file)
        try:
            body = show(run, found) if found is not None else ""
        except DAMAGE_ERRORS:
            body, found = "", None
        if found is None:
            damaged = (run.path / "eval" / file).exists()
            state = "cannot be read" if damaged else "has not been measured"
            remedy = make or format_command(run.path, what)
            missing.append(f"{run.path}/eval/{file} {state}: {remedy}")
            body = render_paragraph(
                missing[-1] if damaged else f"Not measured yet: {remedy}", "missing"
            )
        parts.append(title + body)
    return "".join(parts)


def render_returns(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    def show(run: ReportedRun, x: dict[str, Any]) -> str:
        numbers = [require_number(y) for y in x["scores"]]
        ends = format_interval(x["eval/score_low"], x["eval/score_high"], len(numbers))
        episodes = f"{len(numbers)} episode{'s' * (len(numbers) != 1)}"
        about = f"{episodes} on new seeds (--seed {x['seed']}), after {x['frames']:,} frames"
        more = f"; IQM {x['eval/iqm']:.1f}" if "eval/iqm" in x else ""
        more += f"; success rate {x['eval/success']:.0%}" if "eval/success" in x else ""
        return render_paragraph(f"{x['eval/score']:.1f}, {ends}{more}, over {about}")

    shown = render_aggregate(runs, missing) + render_each(
        runs, "returns.json", "--episodes 10", missing, show
    )
    return (
        render_paragraph(NEW_EPISODES_NOTE, "soft")
        + shown
        + render_terms(GLOSSARY_TITLE, RETURN_TERMS)
    )


def render_aggregate(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    """The aggregate over several runs, which eval.py wrote into the first one."""
    if len(runs) == 1 and not (runs[0].path / "eval" / "seeds.json").exists():
        return ""

    def show(run: ReportedRun, x: dict[str, Any]) -> str:
        pages = {
            **x["tasks"],
            **({f"{len(x['tasks'])} tasks together": x["together"]} if "together" in x else {}),
        }
        parts = []
        for task, methods in pages.items():
            rows = [
                (
                    name,
                    str(sum(map(len, m["runs"]))),
                    *(_format_interval(m[a]) for a in AGGREGATES),
                )
                for name, m in methods.items()
            ]
            iqm = [
                (name, *(require_number(m["iqm"][end]) for end in ("value", "low", "high")))
                for name, m in methods.items()
            ]
            head = (
                "run.name",
                "runs",
                *(f"{'IQM' if a == 'iqm' else a} (95 % interval)" for a in AGGREGATES),
            )
            parts.append(
                f'<div class="large">{plot_bars(f"IQM over the runs of {task}, higher is better", iqm)}</div>'
            )
            parts.append(
                render_table(
                    f"{task}: over {len(x['runs'])} runs; a run's score is the mean of its episodes",
                    head,
                    rows,
                )
            )
        return "".join(parts)

    return render_each(
        runs[:1],
        "seeds.json",
        "",
        missing,
        show,
        format_joint_command([run.path for run in runs]),
    )


def _format_interval(x: dict[str, Any]) -> str:
    return f"{x['value']:.1f} ({x['low']:.1f} to {x['high']:.1f})"


def render_quality(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    """The results of eval.py model as plots, tables and text."""

    def show(run: ReportedRun, x: dict[str, Any]) -> str:
        about = (
            f"{x['episodes']} {x['source']} episodes, {x['steps']} steps, after {x['frames']:,} "
            f"frames. {EQUATIONS_NOTE}"
        )
        head = ("", *(f"step {h}" for h in text.choose_horizons(x)), "better")
        numbers = render_table(
            f"by steps after the last seen frame ({text.BASELINES_NOTE})",
            head,
            text.format_rows(x),
        )
        lines = [
            *text.format_scalars(x),
            *text.format_omissions([str(line) for line in x["left_out"]]),
        ]
        names = ("policy", "imagined return", "real return", "imagined minus real")
        followed = (
            render_table("imagined and real returns of policies, 95 % intervals", names, rows)
            if (rows := text.format_policies(x))
            else ""
        )
        glossary = render_terms(GLOSSARY_TITLE, QUALITY_TERMS)
        return (
            render_paragraph(about, "soft")
            + glossary
            + panels.render_quality_plots(x)
            + numbers
            + render_list(lines, "soft")
            + followed
        )

    if not (runs[0].has_model or (runs[0].path / "eval" / "model.json").exists()):
        return render_paragraph(NO_MODEL_NOTE, "soft")
    return render_each(runs, "model.json", "model", missing, show)


def render_stills(
    runs: Sequence[ReportedRun], pictures: PictureEmbedder, missing: list[str]
) -> str:
    """The pictures that eval.py imagine wrote."""
    found = []
    for run in runs:
        for name, title in STILL_TITLES.items():
            if (path := run.path / "eval" / f"{name}.png").exists():
                alt = f"{run.name}: {title}"
                found.append(f"<h3>{escape(title)}</h3>{pictures.embed(path, alt, paper=True)}")
    if not found and not runs[0].has_model:
        return render_paragraph(NO_MODEL_NOTE, "soft")
    if not found and not runs[0].can_draw:
        return render_paragraph(
            "No pictures of imagined rollouts: this model has no decoder. Its quality is measured "
            "all the same.",
            "soft",
        )
    if not found:
        missing.append(f"no imagined rollout yet: {format_command(runs[0].path, 'imagine')}")
        return render_paragraph(missing[-1], "missing")
    return "".join([*found, render_terms(GLOSSARY_TITLE, IMAGINATION_TERMS)])


def render_drivers(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    """The results of eval.py compare: returns and times of actor and planners."""

    def show(run: ReportedRun, x: dict[str, Any]) -> str:
        drivers = sorted(
            x["drivers"].items(), key=lambda item: -require_number(item[1]["eval/score"])
        )
        numbers = [
            (n, *(require_number(r[f"eval/score{k}"]) for k in ("", "_low", "_high")))
            for n, r in drivers
        ]
        rows = [
            (
                n,
                f"{mean:.1f}",
                f"{low:.1f} to {high:.1f}" if len(r["scores"]) > 1 else "none: one episode",
                f"{r['ms_per_action']:.1f}",
                str(len(r["scores"])),
            )
            for (n, mean, low, high), (_, r) in zip(numbers, drivers, strict=True)
        ]
        head = ("driven by", "mean return", "95 % interval", "ms per action", "episodes")
        drawn = f'<div class="large">{panels.plot_drivers(x["drivers"])}</div>'
        return (
            drawn
            + render_table("one run, several ways to choose actions", head, rows)
            + render_terms(GLOSSARY_TITLE, DRIVER_TERMS)
        )

    if not (runs[0].can_plan or (runs[0].path / "eval" / "compare.json").exists()):
        return render_paragraph(NO_MODEL_NOTE, "soft")
    return render_each(runs, "compare.json", "compare", missing, show)


def render_state_probe(runs: Sequence[ReportedRun], missing: list[str]) -> str:
    """The results of eval.py probe: R² by coordinate of the simulator's state."""

    def show(run: ReportedRun, x: dict[str, Any]) -> str:
        cells = [f"{r2:.3f}" if r2 is not None else "constant" for r2 in x["r2"]]
        rows = [f"coordinate {i}: {cell}" for i, cell in enumerate(cells)]
        about = f"{x['episodes']} episodes" if "episodes" in x else "episodes"
        both = "probe" in (run.read_result("model.json") or {})
        return (
            render_paragraph(PROBE_NOTE.format(about), "soft")
            + render_list(rows, "flow")
            + (render_paragraph(TWO_PROBES_NOTE, "soft") if both else "")
        )

    return render_each(runs, "probe.json", "probe", missing, show)

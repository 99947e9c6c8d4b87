"""The report's sections on the environment, the versions and how to reproduce a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from worldmodel.evaluation.report.glossary import RETRAIN_NOTE
from worldmodel.evaluation.report.html import (
    format_command,
    format_joint_command,
    render_code,
    render_paragraph,
    render_table,
)
from worldmodel.evaluation.report.learning_section import format_train_command
from worldmodel.evaluation.report.reported_run import DAMAGE_ERRORS, ReportedRun
from worldmodel.system import provenance
from worldmodel.system.console import PROGRAM

RESULT_FILES = {
    "--episodes 10": "returns.json",
    "model": "model.json",
    "probe": "probe.json",
    "compare": "compare.json",
}
MAX_COLUMNS = 4  # entries of versions.json shown per run: the first and the last ones


def render_environment(runs: Sequence[ReportedRun]) -> str:
    e, state = runs[0].config.env, runs[0].state
    limit = f"{e.time_limit} frames" if e.time_limit else "the task's own"
    rows = [
        ("task", e.task),
        ("action repeat", str(e.repeat)),
        ("renderer", e.render),
        ("episode length", limit),
    ]
    lacks = ""
    try:
        if state is None:
            raise ValueError("no checkpoint")
        seen, acts = state["observation"], state["action"]
        rows += [
            ("observation", ", ".join(f"{k} {v}" for k, v in seen.items() if v)),
            (
                "actions",
                f"choices among {acts['groups']}"
                if acts["groups"]
                else f"{acts['size']} in [-1, 1]",
            ),
            ("updates", f"{state['learner']['updates']:,}"),
        ]
    except DAMAGE_ERRORS:
        lacks = render_paragraph("No checkpoint of this run can be read.", "missing")
    spent = [f"{run.minutes:.1f}" for run in runs if run.minutes is not None]
    rows += [("minutes of training", ", ".join(spent))] if spent else []
    return lacks + render_table("environment", ("", "value"), rows) + render_versions(runs)


def render_versions(runs: Sequence[ReportedRun]) -> str:
    """Versions and machine of each training; runs with equal entries share a table."""
    alike: dict[str, list[ReportedRun]] = {}
    for run in runs:
        alike.setdefault(
            repr([{k: v for k, v in x.items() if k != "words"} for x in run.versions]), []
        ).append(run)
    parts = []
    for group in alike.values():
        names, entries = ", ".join(run.name for run in group), group[0].versions
        if not entries:
            parts.append(
                render_paragraph(
                    f"{names}: versions are not known, because {provenance.FILE} is missing.",
                    "soft",
                )
            )
            continue
        shown = [*entries[:1], *entries[1:][-(MAX_COLUMNS - 1) :]]
        keys = dict.fromkeys(k for x in shown for k in x if k not in ("words", "frames"))
        rows = [(key, *(str(x.get(key, "")) for x in shown)) for key in keys]
        head = ("", *(f"from frame {x['frames']:,} on" for x in shown))
        parts.append(render_table(f"versions and machine: {names}", head, rows))
    return "".join(parts)


def list_missing_commands(runs: Sequence[ReportedRun]) -> list[str]:
    """The commands that measure what is missing, then write the report again."""
    found = []
    for run in runs:
        imagined = any((run.path / "eval").glob("imagine.*")) or not run.can_draw
        useful = {"model": run.has_model, "compare": run.can_plan}
        what = [
            name
            for name, file in RESULT_FILES.items()
            if useful.get(name, True) and not (run.path / "eval" / file).exists()
        ] + ["imagine"] * (not imagined)
        found += [format_command(run.path, name) for name in what]
    if len(runs) > 1 and not (runs[0].path / "eval" / "seeds.json").exists():
        found.append(format_joint_command([run.path for run in runs]))
    again = f"{format_joint_command([run.path for run in runs])} report"
    return [*found, again] if found else []


def render_reproduction(runs: Sequence[ReportedRun]) -> str:
    """The commands that train the runs again: as typed, and with every changed key."""
    typed = dict.fromkeys(
        f"{PROGRAM} train {shlex.join(x['words'])}".strip() for run in runs for x in run.versions
    )
    parts = (
        [
            render_paragraph("As typed, including resumes with other options:"),
            render_code("\n".join(typed)),
        ]
        if typed
        else []
    )
    trained = "\n".join(format_train_command(run.config) for run in runs)
    parts.append(render_paragraph("With every changed key, in a checkout of the same version:"))
    parts.append(render_code(f"{trained}\n{format_command(runs[0].path, 'report')}"))
    return "".join([*parts, render_paragraph(RETRAIN_NOTE, "soft")])

"""The whole report: one file, no script, nothing fetched."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from html import escape
from importlib import metadata
from pathlib import Path

from worldmodel.evaluation.report import learning, measured
from worldmodel.evaluation.report.gather import Seed, read_all
from worldmodel.evaluation.report.html import Pictures, code, command, p, table

STYLE = Path(__file__).with_name("style.css")
PACKAGES = ("torch", "numpy", "gymnasium", "dm-control", "mujoco")


def write(paths: Sequence[Path], target: Path) -> tuple[Path, list[str]]:
    """The report on one run, or on several seeds, as a file; and a line on each thing that it lacks."""
    seeds = read_all(list(paths))
    text, lacking = page(seeds)
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target, lacking


def page(seeds: Sequence[Seed]) -> tuple[str, list[str]]:
    lacking: list[str] = []
    pictures = Pictures()
    parts = [
        ("configuration", "Configuration", learning.configuration(seeds)),
        ("scores", "Learning curve", learning.scores(seeds, lacking)),
        ("returns", "Returns, measured again", measured.returns(seeds, lacking)),
        ("losses", "Losses over time", learning.losses(seeds, lacking)),
        ("model", "How good the world model is", measured.quality(seeds, pictures, lacking)),
        ("state", "What the latent knows", measured.state_known(seeds, lacking)),
        ("planners", "Actor and planners compared", measured.planners(seeds, pictures, lacking)),
        ("dreams", "Dreams, looked at closely", measured.dreams(seeds, pictures, lacking)),
        ("videos", "Videos", measured.videos(seeds, pictures, lacking)),
        ("environment", "Environment and versions", environment(seeds)),
        ("reproduce", "The same again", reproduce(seeds)),
    ]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in parts)
    body = "".join(
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{inside}</section>'
        for name, title, inside in parts
    )
    c = seeds[0].config
    title = f"{c.env.task}, {c.run.name}"
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f'<body><a class="skip" href="#main">to the report</a><header><h1>{escape(title)}</h1>{summary(seeds)}</header>'
        f'<nav aria-label="parts of this report"><ul>{links}</ul></nav><main id="main">{body}</main></body></html>\n'
    )
    return text, lacking


def summary(seeds: Sequence[Seed]) -> str:
    """What one wants to know first."""
    finals = [line for seed in seeds if (line := last_score(seed)) is not None]
    runs = "one run" if len(seeds) == 1 else f"{len(seeds)} seeds"
    text = f"{runs}, {max(s.frames for s in seeds):,} environment frames"
    if finals:
        text += f"; last evaluation: {', '.join(f'{x:.1f}' for x in finals)}"
        text += f", mean {sum(finals) / len(finals):.1f}" if len(finals) > 1 else ""
    open_ = [seed.name for seed in seeds if not seed.done]
    unfinished = (
        p(f"Not finished: {', '.join(open_)}; what is shown is how far it has come.", "lacking") if open_ else ""
    )
    return p(text + ".") + unfinished


def last_score(seed: Seed) -> float | None:
    known = [x["eval/score"] for x in seed.scores if isinstance(x.get("eval/score"), int | float)]
    return known[-1] if known else None


def environment(seeds: Sequence[Seed]) -> str:
    e, state = seeds[0].config.env, seeds[0].state
    limit = f"{e.time_limit} frames" if e.time_limit else "the task's own"
    rows = [("task", e.task), ("action repeat", str(e.repeat)), ("renderer", e.render), ("episode length", limit)]
    if state is not None:
        seen, acts = state["observation"], state["action"]
        rows += [("observation", ", ".join(f"{k} {v}" for k, v in seen.items() if v)),
                 ("actions", f"choices among {acts['groups']}" if acts["groups"] else f"{acts['size']} in [-1, 1]"),
                 ("updates", f"{state['learner']['updates']:,}")]  # fmt: skip
    versions = [(name, version(name)) for name in PACKAGES]
    here = [("Python", platform.python_version()), *versions, ("machine", machine())]
    lacks = "" if state is not None else p("No checkpoint of this run can be read.", "lacking")
    return (
        lacks
        + table("what it acts in", ("", "value"), rows)
        + table("what wrote this report; a run does not note with what it was trained", ("", "version"), here)
    )


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"


def reproduce(seeds: Sequence[Seed]) -> str:
    trained = "\n".join(learning.reproduce(seed.config) for seed in seeds)
    return p("In a checkout of the same version:") + code(f"{trained}\n{command(seeds[0].path, 'report')}")

"""The whole report: one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from worldmodel.evaluation.report import evaluation_section, learning_section, provenance_section
from worldmodel.evaluation.report.gather import ODD, Seed, read_all
from worldmodel.evaluation.report.html import Pictures, code, folded, p
from worldmodel.evaluation.report.provenance_section import to_measure
from worldmodel.evaluation.report.verdict import verdict
from worldmodel.system.console import Progress

STYLE = Path(__file__).with_name("style.css")
Part = tuple[str, str, Callable[[], str]]  # its name, its title, and what writes it


def write(paths: Sequence[Path], target: Path) -> tuple[Path, list[str]]:
    """The report on one run, or on several seeds, as a file; and a line on each thing that it
    lacks.
    """
    seeds = read_all(list(paths))
    text, lacking = page(seeds, quiet=False)
    target.parent.mkdir(exist_ok=True)
    partial = target.with_suffix(".tmp")
    # A path, or what a file says, may be no Unicode
    partial.write_bytes(text.encode("utf-8", "replace"))
    partial.replace(target)
    return target, lacking


def page(seeds: Sequence[Seed], quiet: bool = True) -> tuple[str, list[str]]:
    lacking = [line for seed in seeds for line in seed.odd]
    notes = "".join(p(line, "lacking") for line in lacking)
    pictures = Pictures()
    parts: list[Part] = [
        ("scores", "Learning curve", lambda: learning_section.scores(seeds, lacking)),
        ("returns", "Returns, measured again", lambda: evaluation_section.returns(seeds, lacking)),
        (
            "model",
            "How good the world model is",
            lambda: evaluation_section.quality(seeds, lacking),
        ),
        ("state", "What the latent knows", lambda: evaluation_section.state_known(seeds, lacking)),
        (
            "planners",
            "Actor and planners compared",
            lambda: evaluation_section.planners(seeds, lacking),
        ),
        ("videos", "Videos", lambda: evaluation_section.videos(seeds, pictures, lacking)),
        (
            "dreams",
            "Dreams, looked at closely",
            lambda: evaluation_section.dreams(seeds, pictures, lacking),
        ),
        ("losses", "Losses over time", lambda: learning_section.losses(seeds, lacking)),
        ("configuration", "Configuration", lambda: learning_section.configuration(seeds)),
        ("environment", "Environment and versions", lambda: provenance_section.environment(seeds)),
        ("reproduce", "The same again", lambda: provenance_section.reproduce(seeds)),
    ]
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in parts)
    body, bar = [], Progress(len(parts), "report", quiet=quiet)
    for number, part in enumerate(parts):
        bar.update(number, part[1])
        body.append(section(part, lacking))
    bar.update(len(parts))
    bar.close()
    c, first = seeds[0].config, f"{summary(seeds)}{verdict(seeds)}{notes}{rest(seeds)}"
    title = f"{c.env.task}, {c.run.name}"
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><link '
        f'rel="icon" href="data:,">'
        f"<style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f'<body><a class="skip" href="#main">to the '
        f"report</a><header><h1>{escape(title)}</h1>{first}"
        f'</header><nav aria-label="parts of this report"><ul>{links}</ul></nav><main '
        f'id="main">{"".join(body)}</main>'
        "</body></html>\n"
    )
    return text, lacking


def section(part: Part, lacking: list[str]) -> str:
    """One part of the page; what no file should hold, and one does, costs this part alone."""
    name, title, make = part
    try:
        inside = make()
    except ODD as error:
        why = " ".join(str(error).split())[:100]
        lacking.append(
            f"{title}: a file of this run holds what it should not ({type(error).__name__}: {why})"
        )
        inside = p(lacking[-1], "lacking")
    return (
        f'<section id="{name}" aria-labelledby="h-{name}"><h2 '
        f'id="h-{name}">{title}</h2>{inside}</section>'
    )


def summary(seeds: Sequence[Seed]) -> str:
    """What one wants to know first."""
    finals = [line for seed in seeds if (line := last_score(seed)) is not None]
    runs = "one run" if len(seeds) == 1 else f"{len(seeds)} seeds"
    text = f"{runs}, {max(s.frames for s in seeds):,} environment frames"
    if finals and len(seeds) > 1:  # of one alone the lines below say it
        text += f"; last evaluation: {', '.join(f'{x:.1f}' for x in finals)}"
        text += f", mean {sum(finals) / len(finals):.1f}"
    minutes = [seed.minutes for seed in seeds if seed.minutes is not None]
    text += f"; {', '.join(f'{x:.0f}' for x in minutes)} minutes of training" if minutes else ""
    open_ = [seed.name for seed in seeds if not seed.done]
    unfinished = (
        p(f"Not finished: {', '.join(open_)}; what is shown is how far it has come.", "lacking")
        if open_
        else ""
    )
    return p(text + ".") + unfinished


def rest(seeds: Sequence[Seed]) -> str:
    """All that could still be measured, to be copied at once."""
    lines = to_measure(seeds)
    return (
        folded(f"To measure everything: {len(lines)} commands", code("\n".join(lines)))
        if lines
        else ""
    )


def last_score(seed: Seed) -> float | None:
    known = [x["eval/score"] for x in seed.scores if "eval/score" in x]
    return known[-1] if known else None

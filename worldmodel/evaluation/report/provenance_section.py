"""What a run acts in, with what it was trained, and the commands that train the same again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from worldmodel.evaluation.report.gather import ODD, Seed
from worldmodel.evaluation.report.glossary import ANEW
from worldmodel.evaluation.report.html import code, command, p, table, together
from worldmodel.evaluation.report.learning_section import reproduce as full
from worldmodel.system import provenance

MEASURES = {
    "--episodes 10": "returns.json",
    "model": "model.json",
    "probe": "probe.json",
    "compare": "compare.json",
}
COLUMNS = 4  # entries of versions.json that are shown of a run: the first and the last ones


def environment(seeds: Sequence[Seed]) -> str:
    e, state = seeds[0].config.env, seeds[0].state
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
    except ODD:
        lacks = p("No checkpoint of this run can be read.", "lacking")
    spent = [f"{seed.minutes:.1f}" for seed in seeds if seed.minutes is not None]
    rows += [("minutes of training", ", ".join(spent))] if spent else []
    return lacks + table("what it acts in", ("", "value"), rows) + made_with(seeds)


def made_with(seeds: Sequence[Seed]) -> str:
    """Versions and machine of each training; seeds that were made alike are told of together."""
    alike: dict[str, list[Seed]] = {}
    for seed in seeds:
        alike.setdefault(
            repr([{k: v for k, v in x.items() if k != "words"} for x in seed.made_with]), []
        ).append(seed)
    parts = []
    for group in alike.values():
        names, entries = ", ".join(seed.name for seed in group), group[0].made_with
        if not entries:
            parts.append(
                p(
                    f"{names}: with what it was trained is not known, for want of {provenance.FILE}.",
                    "soft",
                )
            )
            continue
        shown = [*entries[:1], *entries[1:][-(COLUMNS - 1) :]]
        keys = dict.fromkeys(k for x in shown for k in x if k not in ("words", "frames"))
        rows = [(key, *(str(x.get(key, "")) for x in shown)) for key in keys]
        head = ("", *(f"from {x['frames']:,} frames on" for x in shown))
        parts.append(table(f"with what it was trained: {names}", head, rows))
    return "".join(parts)


def to_measure(seeds: Sequence[Seed]) -> list[str]:
    """The commands that measure what has not been, and show it."""
    found = []
    for seed in seeds:
        dreams = any((seed.path / "eval").glob("imagine.*")) or not seed.draws
        what = [
            name for name, file in MEASURES.items() if not (seed.path / "eval" / file).exists()
        ] + ["imagine"] * (not dreams)
        found += [command(seed.path, name) for name in what]
    if len(seeds) > 1 and not (seeds[0].path / "eval" / "seeds.json").exists():
        found.append(together([seed.path for seed in seeds]))
    again = f"{together([seed.path for seed in seeds])} report"
    return [*found, again] if found else []


def reproduce(seeds: Sequence[Seed]) -> str:
    """In full, and as it was typed."""
    typed = dict.fromkeys(
        f"./wm train {shlex.join(x['words'])}".strip() for seed in seeds for x in seed.made_with
    )
    parts = (
        [p("As it was typed, resumes with other words included:"), code("\n".join(typed))]
        if typed
        else []
    )
    trained = "\n".join(full(seed.config) for seed in seeds)
    parts.append(p("In full, in a checkout of the same version:"))
    parts.append(code(f"{trained}\n{command(seeds[0].path, 'report')}"))
    return "".join([*parts, p(ANEW, "soft")])

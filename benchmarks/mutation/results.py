"""The outcomes of mutants: one JSON line each, and the page of scores made of them."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.mutation.draw import PACKAGES, find_package
from benchmarks.mutation.operators import Mutant

Key = tuple[str, str, str, str, int]
KILLED, TIMEOUT, SURVIVED, NOT_RUN = "killed", "timeout", "survived", "not run here"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant, with the file's hash at that time."""

    path: str
    function: str
    line: str
    change: str
    number: int
    operator: str
    sha: str
    status: str
    test: str | None  # that failed
    test_seconds: float | None  # of that test, if it ended
    message: str
    seconds: float  # of the whole
    tests: int  # that were run or about to be

    @property
    def key(self) -> Key:
        return self.path, self.function, self.line, self.change, self.number


def read_outcomes(place: Path) -> dict[Key, Outcome]:
    """The newest outcome of each mutant."""
    lines = place.read_text().splitlines() if place.exists() else []
    return {found.key: found for found in (Outcome(**json.loads(line)) for line in lines)}


def append_outcome(place: Path, outcome: Outcome) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def write_outcomes(place: Path, outcomes: Iterable[Outcome]) -> None:
    text = "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes)
    place.write_text(text)


def read_equivalents(place: Path) -> dict[Key, str]:
    """Mutants that change nothing that can be observed, each with the reason."""
    return {
        (e["path"], e["function"], e["line"], e["change"], e["number"]): e["reason"]
        for e in json.loads(place.read_text())
    }


def render_page(
    mutants: Sequence[Mutant], outcomes: dict[Key, Outcome], equivalents: dict[Key, str]
) -> str:
    """docs/mutation.md's part that is generated: scores by package, survivors, equivalents."""
    rows = [
        "| package | mutants | killed | by time | survived | equivalent | not run here | score |"
    ]
    rows.append("|---" * 8 + "|")
    for package in (*PACKAGES, None):
        own = [m for m in mutants if package in (None, find_package(m.path))]
        rows.append(render_row(package, own, outcomes, equivalents))
    survivors = [
        m for m in mutants if status_of(m, outcomes) == SURVIVED and m.key not in equivalents
    ]
    listed = [describe(m) for m in survivors] or ["None."]
    reasons = [
        f"{describe(m)}\n{wrap_reason(equivalents[m.key])}"
        for m in mutants
        if m.key in equivalents and status_of(m, outcomes) == SURVIVED
    ]
    elsewhere = [describe(m) for m in mutants if status_of(m, outcomes) == NOT_RUN]
    return "\n".join(
        [*rows, "", "### Survivors", "", *listed, "", "### Equivalent mutants", ""]
        + [*(reasons or ["None."]), "", "### Not run here", "", *(elsewhere or ["None."]), ""]
    )


def status_of(mutant: Mutant, outcomes: dict[Key, Outcome]) -> str:
    return outcomes[mutant.key].status if mutant.key in outcomes else "missing"


def render_row(
    package: str | None,
    mutants: Sequence[Mutant],
    outcomes: dict[Key, Outcome],
    equivalents: dict[Key, str],
) -> str:
    found = [status_of(m, outcomes) for m in mutants]
    same = sum(
        status == SURVIVED and m.key in equivalents
        for m, status in zip(mutants, found, strict=True)
    )
    killed, late = found.count(KILLED), found.count(TIMEOUT)
    survived = found.count(SURVIVED) - same
    counted = killed + late + survived
    score = f"{100 * (killed + late) / counted:.1f} %" if counted else ""
    name = f"`{package.removeprefix('worldmodel/')}`" if package else "all"
    cells = [name, len(found), killed + late, late, survived, same, found.count(NOT_RUN), score]
    return "| " + " | ".join(map(str, cells)) + " |"


def wrap_reason(reason: str) -> str:
    """A paragraph below the mutant's bullet."""
    return textwrap.fill(reason, 100, initial_indent="  ", subsequent_indent="  ")


def describe(mutant: Mutant) -> str:
    where = f"{mutant.path.removeprefix('worldmodel/')}"
    function = f" `{mutant.function}`" if mutant.function else ""
    text = f"- {where}{function}, {mutant.operator}: `{mutant.change}` in `{mutant.line}`"
    return textwrap.fill(
        text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )

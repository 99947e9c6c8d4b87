"""The grid of a sweep: a training for every task, seed and value of the keys that vary."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worldmodel.config import loading
from worldmodel.config.key_reference import SHORT_NAMES
from worldmodel.config.rules import TaskFacts
from worldmodel.config.schema import Config, EnvConfig
from worldmodel.config.yaml_io import UNREADABLE, ConfigError, describe_value, parse_yaml
from worldmodel.errors import UsageError
from worldmodel.run_directory import RunDir, make_slug

Pair = tuple[str, str]  # a key and the text of its value
SEEDS = re.compile(r"(\d{1,10})(?:\.\.(\d{1,10}))?")
MOST_CELLS = 10_000
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.+=-]*")
LONGEST_NAME = 100
# Keys that the options of a sweep set.
OPTIONS = {"run.seed": "--seeds", "env.task": "--tasks"}


@dataclass(frozen=True, eq=False)
class Cell:
    """One training: the words of its command and the configuration that they make."""

    words: tuple[str, ...]
    config: Config

    @property
    def run(self) -> RunDir:
        return RunDir.for_config(self.config)

    @property
    def title(self) -> str:
        c = self.config
        return f"{c.env.task} {c.run.name} seed{c.run.seed}"


def parse_seeds(text: str) -> list[int]:
    """Seeds such as 0..4 (both ends count) or 0,3,7."""
    seeds: list[int] = []
    for part in text.split(","):
        found = SEEDS.fullmatch(part.strip())
        if not found:
            raise UsageError(f"--seeds {part!r}: give seeds as in 0..4 or 0,3,7")
        first, last = int(found[1]), int(found[2] or found[1])
        if not first <= last < first + MOST_CELLS:
            raise UsageError(
                f"--seeds {part!r}: the last seed must not be below the first; at most "
                f"{MOST_CELLS:,} seeds"
            )
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def parse_values(text: str) -> list[Pair]:
    """The values of one key, key=value,value; a comma within brackets does not divide."""
    key, equals, rest = text.partition("=")
    try:
        values = parse_yaml(f"[{rest}]") if equals else None
    except UNREADABLE:
        values = None
    if not isinstance(values, list) or not values:
        raise UsageError(f"--set {describe_value(text)}: give it as key=value,value")
    key = SHORT_NAMES.get(key, key)
    return [(key, loading.format_value(value)) for value in values]


def check_keys(words: Sequence[str], tasks: Sequence[str], varying: Sequence[str]) -> None:
    """UsageError for a key that is given in two ways, one of which would be ignored."""
    given = [key for key, _ in loading.split_arguments(words)[1]]
    for key, option in OPTIONS.items():
        if key in varying or (key in given and (tasks or key != "env.task")):
            raise UsageError(f"{key}: a sweep takes it from {option}, so give it there alone")
    if "run.name" in varying:
        raise UsageError(
            "--set run.name: names are made of the values that vary; --run.name is their beginning"
        )
    for key in varying:
        if [*given, *varying].count(key) > 1:
            raise UsageError(f"--set {key}: this key is given twice")


def shorten_name(name: str, longest: int) -> str:
    """The name if it is a plain one of this length, otherwise a slug with a hash of it."""
    if PLAIN_NAME.fullmatch(name) and len(name) <= longest:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{make_slug(name)[:longest].rstrip('_')}-{digest}"


def make_cells(
    words: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    varied: Sequence[Sequence[Pair]],
    check_task: Callable[[str], None],
    describe_task: Callable[[EnvConfig], TaskFacts] | None = None,
) -> list[Cell]:
    """A cell for each seed, task and combination of values, seeds outermost.

    A run is named after the values that vary. ConfigError lists the problems of all cells. Where
    rules choose values, `describe_task` says once for each environment what they need.
    """
    known: dict[str, TaskFacts] = {}

    def describe(env: EnvConfig) -> TaskFacts:
        assert describe_task is not None
        key = repr(loading.to_plain(env))
        if key not in known:
            known[key] = describe_task(env)
        return known[key]

    facts = describe if describe_task else None
    check_keys(words, tasks, [pairs[0][0] for pairs in varied])
    base = loading.parse(words, check_task)
    combinations = list(itertools.product(*varied))
    if len(seeds) * len(tasks or [""]) * len(combinations) > MOST_CELLS:
        raise UsageError(f"a sweep has at most {MOST_CELLS} trainings")
    cells, problems = [], list[str]()
    for seed, task, pairs in itertools.product(seeds, tasks or [base.env.task], combinations):
        own = [("env.task", loading.format_value(task)), *pairs, ("run.seed", str(seed))]
        if pairs:
            name = "-".join([base.run.name, *(f"{key}={value}" for key, value in pairs)])
            own.append(("run.name", loading.format_value(shorten_name(name, LONGEST_NAME))))
        made = (*words, *(word for key, value in own for word in (f"--{key}", value)))
        try:
            cells.append(Cell(made, loading.parse(made, check_task, facts)))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    check_distinct(cells)
    return cells


def check_distinct(cells: Sequence[Cell]) -> None:
    """UsageError if two trainings would write into one directory."""
    seen: dict[str, str] = {}
    for cell in cells:
        path = str(cell.run.path)
        if path in seen:
            raise UsageError(f"{seen[path]} and {cell.title} would both be trained in {path}")
        seen[path] = cell.title

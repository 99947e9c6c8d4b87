"""The house rules that a machine can hold: who imports whom, prints, paths, and
configuration keys in use.
"""

import ast
import json
import re
import subprocess
import sys
import typing
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from worldmodel.config import schema

ROOT = Path(__file__).resolve().parent.parent

# Who may import what beside the standard library and its own package. The first matching row
# counts.
MAY_IMPORT = {
    "envs/*": {"numpy", "gymnasium", "mujoco", "dm_control", "dm_env", "PIL", "imageio"},
    "worldmodel/kernels/*": {"torch", "worldmodel.spaces"},
    "worldmodel/model/networks.py": {
        "torch",
        "einops",
        "numpy",
        "worldmodel.spaces",
        "worldmodel.kernels",
    },
    "worldmodel/policy/action_distributions.py": {
        "torch",
        "einops",
        "numpy",
        "worldmodel.spaces",
        "worldmodel.model.networks",
    },
    "worldmodel/model/latents/*": {
        "torch",
        "einops",
        "numpy",
        "worldmodel.spaces",
        "worldmodel.model.networks",
        "worldmodel.policy.action_distributions",
        "worldmodel.kernels",
    },
    "worldmodel/model/mean_image.py": {"torch", "worldmodel.kernels"},
    "worldmodel/model/objectives/*": {
        "torch",
        "einops",
        "worldmodel.spaces",
        "worldmodel.config.ranges",
        "worldmodel.model.mean_image",
        "worldmodel.model.networks",
        "worldmodel.policy.action_distributions",
        "worldmodel.model.multi_step",
        "worldmodel.model.heads",
        "worldmodel.model.dynamics",
        "worldmodel.model.ema",
    },
    "worldmodel/policy/planners/*": {
        "torch",
        "worldmodel.spaces",
        "worldmodel.config.ranges",
        "worldmodel.config.schema",  # for type annotations
    },
    "worldmodel/distributed.py": {
        "torch",
        "worldmodel.config.loading",
        "worldmodel.config.schema",
    },
    "worldmodel/replay/shards.py": set(),
    "worldmodel/replay/samplers/*": {
        "numpy",
        "worldmodel.config.ranges",
        "worldmodel.replay.segments",
    },
}
# Who may never import what.
MAY_NOT_IMPORT = {
    "worldmodel/replay/buffer.py": {"torch.nn"},
    "worldmodel/replay/manifest.py": {"torch.nn"},
    "worldmodel/replay/chunk.py": {"torch.nn"},
    "worldmodel/rollout/collector.py": {"torch.nn"},
    "worldmodel/config/*": {"torch"},
    "worldmodel/registry.py": {"torch"},
    "worldmodel/system/doctor.py": {"torch", "numpy", "mujoco", "dm_control"},
}
# The one room that imports the environments; `envs` is their short name in a checkout.
IMPORTS_ENVIRONMENTS, ENVIRONMENTS = "worldmodel/command_line/", {"worldmodel.envs", "envs"}
# What stands behind a seam is named by build.py alone; these modules are the seams' own tools.
SEAMS = (
    "worldmodel.model.dynamics",
    "worldmodel.model.latents",
    "worldmodel.model.objectives",
    "worldmodel.policy.planners",
    "worldmodel.policy.plan_scores",
    "worldmodel.policy.behaviors",
    "worldmodel.replay.samplers",
    "worldmodel.log_writers",
)
SHARED = {"worldmodel.policy.planners.proposals"}

MAY_PRINT = {"worldmodel/system/console.py"}

# Written in two halves, so that this file passes its own test.
FORBIDDEN = [
    a + b for a, b in [("/wo", "rk/"), ("/ro", "ot/"), ("py", "pi.org"), ("python", "hosted.org")]
]
FORBIDDEN += [
    a + b for a, b in [("download.py", "torch.org"), ("ana", "conda.org"), ("npm", "js.org")]
]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def python_files(*places):
    found = [
        f
        for place in places
        for f in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*.py"))
    ]
    return sorted(found)


LIBRARY = python_files("worldmodel", "envs")
PROGRAM = LIBRARY + python_files("benchmarks", "train.py", "eval.py", "wm")


def imports(tree, path):
    """Every module a file imports, as (dotted name, line); `from a import b` gives a.b where that
    is a module.
    """
    package = list(path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join(above + ([node.module] if node.module else []))
            for alias in node.names:
                deeper = f"{module}.{alias.name}"
                yield (deeper if is_module(deeper) else module), node.lineno


def is_module(name):
    place = ROOT / re.sub(r"^worldmodel\.envs\b", "envs", name).replace(".", "/")
    return (
        name in ("torch.nn",)
        or place.with_suffix(".py").exists()
        or (place / "__init__.py").exists()
    )


def within(name, modules):
    return any(name == module or name.startswith(module + ".") for module in modules)


def first_row(table, name):
    return next((row for pattern, row in table.items() if fnmatch(name, pattern)), None)


def import_faults(source, path):
    """The rules that a file's imports break, one line each."""
    name, faults = name_of(path), []
    allowed = first_row(MAY_IMPORT, name)
    own = (
        {name.split("/")[0]}
        if name.startswith("envs/")
        else {name.rsplit("/", 1)[0].replace("/", ".")}
    )
    own = own - {"worldmodel"}
    for module, line in imports(ast.parse(source), path):
        if module.split(".")[0] in sys.stdlib_module_names:
            continue
        if allowed is not None and not within(module, allowed | own | {"worldmodel.errors"}):
            faults.append(
                f"{name}:{line} imports {module}; it may import {', '.join(sorted(allowed))}"
            )
        for pattern, never in MAY_NOT_IMPORT.items():
            if fnmatch(name, pattern) and within(module, never):
                faults.append(f"{name}:{line} imports {module}; it never may")
        core = name.startswith("worldmodel/") and not name.startswith(IMPORTS_ENVIRONMENTS)
        if core and within(module, ENVIRONMENTS):
            faults.append(f"{name}:{line} imports {module}; it is given the environments")
        behind = next((seam for seam in SEAMS if module.startswith(seam + ".")), None)
        if (
            behind
            and module not in SHARED
            and not within(name.replace("/", "."), {behind, "worldmodel.build"})
        ):
            faults.append(
                f"{name}:{line} imports {module}; only build.py names what stands behind a seam"
            )
    return faults


def test_imports():
    assert [fault for path in LIBRARY for fault in import_faults(path.read_text(), path)] == []


@pytest.mark.parametrize(
    "name, source",
    [
        ("envs/new.py", "import torch"),
        ("envs/new.py", "def f():\n    from worldmodel import types"),
        ("worldmodel/new.py", "import envs.dmc.raycast.renderer"),
        ("worldmodel/new.py", "from worldmodel import envs"),
        ("worldmodel/new.py", "if 0:\n    from worldmodel.envs import make"),
        ("worldmodel/replay/buffer.py", "from torch import nn"),
        ("worldmodel/rollout/collector.py", "import torch.nn.functional"),
        ("worldmodel/model/networks.py", "from worldmodel import rssm"),
        ("worldmodel/model/latents/new.py", "from ..rssm import RSSM"),
        (
            "worldmodel/policy/planners/new.py",
            "from worldmodel.model.world_model import WorldModel",
        ),
        ("worldmodel/model/objectives/new.py", "import worldmodel.training.learner"),
        ("worldmodel/policy/agent.py", "from worldmodel.policy.planners.cem import CEM"),
        ("worldmodel/policy/agent.py", "from worldmodel.model.latents import gaussian"),
    ],
)
def test_the_import_rule_catches(name, source):
    assert len(import_faults(source, ROOT / name)) >= 1


@pytest.mark.parametrize(
    "name, source",
    [
        (
            "envs/new.py",
            "import json, numpy as np\nfrom .tasks.canvas import Canvas\nfrom dm_control import suite",
        ),
        (
            "worldmodel/model/latents/new.py",
            "from torch import nn\nfrom . import gaussian\nfrom worldmodel.spaces import State",
        ),
        ("worldmodel/build.py", "from worldmodel.policy.planners.cem import CEM"),
        ("worldmodel/policy/agent.py", "from worldmodel.policy.planners import ScoreFn"),
    ],
)
def test_the_import_rule_lets_through(name, source):
    assert import_faults(source, ROOT / name) == []


def test_configuration_needs_no_torch():
    code = "import sys, worldmodel.config.loading, worldmodel.system.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def prints(tree):
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [
        call.lineno
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]


def swallowed(tree):
    """Handlers that name no exception, and those that catch everything and do nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            everything = isinstance(node.type, ast.Name) and node.type.id in (
                "Exception",
                "BaseException",
            )
            idle = all(isinstance(step, (ast.Pass, ast.Continue)) for step in node.body)
            if node.type is None or (everything and idle):
                yield node.lineno


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_the_library_neither_prints_nor_swallows(path):
    tree = ast.parse(path.read_text())
    assert name_of(path) in MAY_PRINT or prints(tree) == []
    assert list(swallowed(tree)) == []


def test_prints_and_swallowed_errors_are_caught():
    assert prints(ast.parse("def f():\n    print('x')")) == [2]
    tree = ast.parse(
        "try: f()\nexcept: g()\ntry: f()\nexcept Exception: pass\ntry: f()\nexcept KeyError: pass"
    )
    assert list(swallowed(tree)) == [2, 4]


def text_files():
    """What is or would be tracked, and is text."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = (
        subprocess.run(listing, cwd=ROOT, capture_output=True, text=True)
        if (ROOT / ".git").exists()
        else None
    )
    if found is not None and found.returncode == 0:
        paths = [ROOT / name for name in found.stdout.split("\0") if name]
    else:
        places = ("worldmodel", "envs", "configs", "tests", "docs", "benchmarks", ".ci")
        paths = [
            *ROOT.glob("*"),
            *(path for place in places for path in (ROOT / place).rglob("*")),
        ]
    for path in paths:
        if path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            yield path


def test_no_file_names_a_machine_or_a_registry():
    held = [
        (name_of(path), word)
        for path in text_files()
        for word in FORBIDDEN
        if word in read_text(path)
    ]
    assert held == []


def read_text(path):
    return path.read_text(encoding="utf-8", errors="replace")


# ---- configuration


def load_yaml(path):
    return YAML(typ="safe").load(path.read_text()) or {}


def tables():
    """The keys, section.key, that hold a table of free names; what such a table holds are
    no keys.
    """
    for section, kind in typing.get_type_hints(schema.Config).items():
        for key, hint in typing.get_type_hints(kind).items():
            if typing.get_origin(hint) is dict:
                yield f"{section}.{key}"


def leaves(config):
    return {f"{section}.{key}" for section, keys in config.items() for key in keys}


def reads():
    """Every (name, attribute) that a program reads, as in `config.model.deter` or `m.deter`."""
    for path in (path for path in PROGRAM if not path.name.startswith("schema")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                base = (
                    node.value.attr
                    if isinstance(node.value, ast.Attribute)
                    else getattr(node.value, "id", "")
                )
                yield base, node.attr


def unread(keys, found):
    """Keys read neither from their section, nor from its initial (`m.deter`), nor from a `config`
    of some kind.
    """
    for key in sorted(keys):
        section, name = key.split(".")
        if not any(
            (base, name) in found
            for base in (section, section[0], f"{section}_config", "settings", "config", "cfg")
        ):
            yield key


def test_every_key_is_read_somewhere():
    keys = leaves(load_yaml(ROOT / "configs" / "defaults.yaml"))
    assert len(keys) > 30
    assert list(unread(keys, set(reads()))) == []


def test_unread_keys_are_caught():
    found = {("model", "deter"), ("o", "lr"), ("log", "eval")}
    assert list(unread({"model.deter", "optim.lr", "model.eval", "log.every"}, found)) == [
        "log.every",
        "model.eval",
    ]


def test_defaults_hold_the_schema_exactly():
    sections = typing.get_type_hints(schema.Config)
    expected = {
        f"{section}.{key}"
        for section, kind in sections.items()
        for key in typing.get_type_hints(kind)
    }
    assert leaves(load_yaml(ROOT / "configs" / "defaults.yaml")) == expected


PRESETS = sorted(set((ROOT / "configs").rglob("*.yaml")) - {ROOT / "configs" / "defaults.yaml"})


@pytest.mark.parametrize("path", PRESETS, ids=name_of)
def test_presets_hold_only_known_keys(path):
    defaults = load_yaml(ROOT / "configs" / "defaults.yaml")
    assert leaves(load_yaml(path)) <= leaves(defaults)
    free = set(tables())
    for section, keys in load_yaml(path).items():
        deeper = [
            key
            for key, value in keys.items()
            if isinstance(value, dict) and f"{section}.{key}" not in free
        ]
        assert deeper == [], f"{section}: {deeper} is no table"


# Calls that open no file of a run: sources and pages of this package, the machine's own files,
# results in memory or in a private folder.
OTHER_FILES = {
    "checkpoint/store.py: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 420)",
    "config/component_settings.py: path.read_text(encoding='utf-8')",
    "config/preset_files.py: file.read_text(encoding='utf-8')",
    "evaluation/commands/play.py: PAGE.read_bytes()",
    "evaluation/plotting/media.py: made.read_bytes()",
    "evaluation/plotting/style.py: figure.savefig(content, format=target.suffix[1:])",
    "evaluation/plotting/style.py: os.open('.', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)",
    "evaluation/report/html.py: Image.open(BytesIO(data), formats=FORMATS)",
    "evaluation/report/page.py: STYLESHEET.read_text(encoding='utf-8')",
    "evaluation/report/reference.py: TABLE.open(newline='')",
    "policy/goal_files.py: Image.open(BytesIO(data), formats=FORMATS)",
    "programs/saved_runs.py: Path('/proc/locks').read_text(encoding='utf-8')",
    "replay/chunk.py: np.memmap(file, dtype, 'r', shape=(self.rows,))",
}
OWN_FILES = ("kernels/", "system/")  # folders that read no run, but files.py, which this is about
BARE_CALLS = (
    *("read_text", "read_bytes", "write_text", "write_bytes"),
    *("memmap", "fromfile", "tofile", "savefig"),
)


def bare_opens(tree):
    """Calls that open a file without the checks of system/files.py."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first = node.args[0] if node.args else None
        if isinstance(node.func, ast.Name):
            bare = node.func.id == "open" and "opener" not in {k.arg for k in node.keywords}
        elif isinstance(node.func, ast.Attribute):
            a_mode = isinstance(first, ast.Constant) and isinstance(first.value, str)
            known = ast.unparse(node.func.value) in ("os", "io", "Image")
            bare = node.func.attr in BARE_CALLS or (
                node.func.attr == "open" and (known or a_mode or first is None)
            )
        else:
            bare = False
        if bare:
            yield ast.unparse(node)


def test_files_of_runs_are_opened_by_the_functions_that_check_them():
    """`open(path, mode, opener=open_regular)`, `read_small_file`, `read_json`, `replace_file`."""
    root = ROOT / "worldmodel"
    found = {
        f"{path.relative_to(root)}: {call}"
        for path in root.rglob("*.py")
        if not str(path.relative_to(root)).startswith(OWN_FILES)
        for call in bare_opens(ast.parse(path.read_text()))
    }
    assert found == OTHER_FILES


@pytest.mark.parametrize(
    ("source", "bare"),
    [
        ("open(path)", True),
        ("open(path, 'ab', opener=open_regular)", False),
        ("path.open('w')", True),
        ("path.open()", True),
        ("os.open(path, flags)", True),
        ("self.path.write_text(text)", True),
        ("np.memmap(path)", True),
        ("run.open(config)", False),
    ],
)
def test_bare_opens_are_caught(source, bare):
    assert bool(list(bare_opens(ast.parse(source)))) == bare


def test_the_table_of_faults_is_that_of_the_tests():
    """After a change of a marker: `python benchmarks/reliability.py --run`."""
    marked = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            for call in getattr(node, "decorator_list", []):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                    row, injected, outcome = (ast.literal_eval(x) for x in call.args)
                    marked.add((row, injected, outcome, f"{path.name}::{node.name}"))
    lines = (ROOT / "docs" / "results" / "reliability.jsonl").read_text().splitlines()
    noted = [json.loads(line) for line in lines]
    assert {
        tuple(x[k] for k in ("row", "injected", "outcome", "test")) for x in noted if "row" in x
    } == marked
    assert {row for row, *_ in marked} == set(range(1, 40))

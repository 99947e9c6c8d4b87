"""The plan of the house: who imports whom, no circles, and what each room says of itself."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from worldmodel import registry

ROOT = Path(__file__).resolve().parent.parent

# From the ground up: a room imports only rooms that stand before it in this list.
FLOORS = (
    "errors",
    "registry",
    "config",
    "distributed",
    "system",
    "log_writers",
    "spaces",
    "kernels",
    "checkpoint",
    "model",
    "replay",
    "policy",
    "rollout",
    "run_directory",
    "build",
    "memory_estimate",
    "packing",
    "saved_run",
    "dreams",
    "evaluation",
    "training",
    "programs",
    "sweep",
    "ladder",
    "envs",
    "command_line",
)
MOST_MODULES = 12  # beside the rooms
LONGEST_CHAIN = 13  # files, each of which imports the next


def read_modules(root, packages):
    """Every module of some packages by its dotted name."""
    files = (f for package in packages for f in (root / package).rglob("*.py"))
    return {".".join(place_of(f, root)).removesuffix(".__init__"): f for f in files}


def place_of(path, root):
    """The parts of a module's dotted name; the folder envs/ is worldmodel.envs."""
    parts = path.relative_to(root).with_suffix("").parts
    return ("worldmodel", *parts) if parts[0] == "envs" else parts


def read_imports(modules, root):
    """For each module the modules of this project that it imports, wherever in it."""
    return {
        name: set(find_imports(ast.parse(f.read_text()), place_of(f, root)[:-1], modules)) - {name}
        for name, f in modules.items()
    }


def find_imports(tree, package, modules):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                deeper = f"{base}.{alias.name}"
                if deeper in modules or base in modules:
                    yield deeper if deeper in modules else base


def find_circle(imports):
    """One circle of imports as a list of modules, or None."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return None
        path.append(name)
        for other in sorted(imports[name]):
            if circle := visit(other):
                return circle
        done.add(path.pop())
        return None

    return next((circle for name in sorted(imports) if (circle := visit(name))), None)


def find_longest_chain(imports):
    """The longest list of modules of which each imports the next; there may be no circle."""

    @cache
    def chain_from(name):
        return (name, *max(map(chain_from, sorted(imports[name])), key=len, default=()))

    return max(map(chain_from, sorted(imports)), key=len)


def room_of(module):
    return module.split(".")[1] if module.startswith("worldmodel.") else module


def find_climbs(imports):
    """Imports that run from a lower floor to a higher one."""
    floor = {room: i for i, room in enumerate(FLOORS)}
    for name, others in sorted(imports.items()):
        for other in sorted(others):
            one, two = room_of(name), room_of(other)
            if one != two and name != "worldmodel" and floor[two] > floor[one]:
                yield f"{name} -> {other}"


MODULES = read_modules(ROOT, ["worldmodel", "envs"])
IMPORTS = read_imports(MODULES, ROOT)


def test_no_import_circle_is_left():
    assert find_circle(IMPORTS) is None


def test_a_circle_is_found():
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_no_chain_of_imports_grows_longer():
    """A longer one: look for the helper or dataclass that could move into a file further down."""
    above = ("command_line", "worldmodel")  # the package itself calls the command line
    below = {name: others for name, others in IMPORTS.items() if room_of(name) not in above}
    chain = find_longest_chain(below)
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def test_the_longest_chain_is_found():
    imports = {"a": {"b", "d"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"c"}}
    assert find_longest_chain(imports) == ("a", "b", "c", "d")


def test_rooms_import_only_what_stands_below_them():
    own = {name: others for name, others in IMPORTS.items() if name.startswith("worldmodel.")}
    assert list(find_climbs(own)) == []


def test_an_import_upwards_is_found():
    found = {"worldmodel.model.heads": {"worldmodel.policy.agent", "worldmodel.spaces"}}
    assert list(find_climbs(found)) == ["worldmodel.model.heads -> worldmodel.policy.agent"]


def test_environments_import_themselves_and_only_the_command_line_imports_them():
    for name, others in IMPORTS.items():
        rooms = {room_of(other) for other in others}
        if room_of(name) == "envs":
            assert rooms <= {"envs"}, name
        elif room_of(name) != "command_line":
            assert "envs" not in rooms, name


def test_every_room_and_module_has_a_floor():
    inside = (ROOT / "worldmodel").iterdir()
    found = {p.stem for p in inside if p.stem[0] not in "_." and p.name != "py.typed"}
    assert found == set(FLOORS) - {"envs"}  # a folder of its own


def test_few_modules_lie_beside_the_rooms():
    beside = sorted(f.name for f in (ROOT / "worldmodel").glob("*.py") if f.name[0] != "_")
    assert len(beside) <= MOST_MODULES, beside


ROOMS = sorted(
    f
    for package in ("worldmodel", "envs")
    for f in (ROOT / package).rglob("__init__.py")
    if f.parent != ROOT / "worldmodel"
)


@pytest.mark.parametrize("path", ROOMS, ids=lambda f: str(f.parent.relative_to(ROOT)))
def test_each_room_says_what_it_is_for_and_who_may_use_it(path):
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said, "no docstring"
    assert len(said.split("\n\n")) >= 2, "what it is for, an empty line, who may use it"


def read_file_list():
    """The files that docs/architecture.md lists, each with the names that its line mentions."""
    page = (ROOT / "docs" / "architecture.md").read_text().partition("## Every file")[2]
    found, folder = {}, ""
    for entry in re.split(r"\n(?=- `|`|\n)", page):
        if entry.startswith("`"):
            folder = entry.strip("`\n")
        elif entry.startswith("- `"):
            about, _, names = entry.partition(" Has ")
            found[folder + about.split("`")[1]] = re.findall(r"`([^`]+)`", names)
    return found


def test_the_architecture_page_lists_every_file_and_true_names():
    listed = read_file_list()
    files = [f for package in ("worldmodel", "envs") for f in (ROOT / package).rglob("*.py")]
    found = {str(f.relative_to(ROOT)): f for f in files if f.name != "__init__.py"}
    components = {place.partition(":")[0] for table in registry.TABLES for place in table.values()}
    optional = {module.replace(".", "/") + ".py" for module in components}
    assert listed.keys() <= found.keys()
    assert found.keys() - listed.keys() <= optional
    for path, names in listed.items():
        text = found[path].read_text()
        assert not [name for name in names if not re.search(rf"^(def|class) {name}\b", text, re.M)]

"""The files that describe the project to others agree with it."""

import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from worldmodel.envs.packages import PACKAGES

import worldmodel
from worldmodel.system import doctor

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


@pytest.fixture
def project():
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 reads no TOML")
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def load(path):
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def test_citation_and_changelog_are_of_this_version():
    assert load(ROOT / "CITATION.cff")["version"] == worldmodel.__version__
    titles = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    released = [title for title in titles if title != "## Unreleased"]
    assert released[0].startswith(f"## {worldmodel.__version__} ")
    assert titles[-len(released) :] == released


def test_the_sites_navigation_names_pages_once():
    def list_pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else list_pages(value)

    listed = list(list_pages(load(ROOT / "mkdocs.yml")["nav"]))
    assert len(set(listed)) == len(listed)
    assert set(listed) == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_issue_forms_have_what_their_host_requires(form):
    content = load(form)
    if form.stem == "config":
        return
    assert {"name", "description", "body"} <= content.keys()
    ids = [field["id"] for field in content["body"]]
    assert len(set(ids)) == len(ids) and all("label" in f["attributes"] for f in content["body"])


def test_hooks_are_local():
    assert [repo["repo"] for repo in load(ROOT / ".pre-commit-config.yaml")["repos"]] == ["local"]


@pytest.mark.parametrize("page", ["README.md", "docs/installation.md"])
def test_pages_name_the_release_of_dm_control_that_is_required(page):
    named = set(re.findall(r"dm-control==[\w.]+", (ROOT / page).read_text()))
    assert named == {doctor.read_requirements()["dm-control"]}


def test_extras_have_one_list(project):
    extras = project["optional-dependencies"]
    known = [(extra, package) for extra, (_, package) in doctor.EXTRAS.items()]
    known += [(package.extra, package.pip) for package in PACKAGES if package.extra]
    for extra, package in known:
        assert re.match(rf"{re.escape(package)}\b", extras[extra][0]), extra
    page = (ROOT / "docs" / "installation.md").read_text()
    table = page[page.index("| extra ") :].partition("\n\n")[0]
    named = {
        name
        for row in table.splitlines()
        for name in re.findall("`(.+?)`", row[: row.index("|", 1)])
    }
    assert named == {name for name in extras if name != "test" and not name.startswith("gym-")}


def test_classifiers_name_the_pythons_that_have_a_lock(project):
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    locks = [f.stem.removeprefix("python") for f in (ROOT / "requirements").glob("*.txt")]
    assert sorted(named) == sorted(locks)

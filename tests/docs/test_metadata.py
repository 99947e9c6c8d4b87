"""The files that describe the project to others agree with it."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

import worldmodel

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def load(path):
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def test_citation_and_changelog_are_of_this_version():
    assert load(ROOT / "CITATION.cff")["version"] == worldmodel.__version__
    titles = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert titles[0].startswith(f"## {worldmodel.__version__} ")


def test_the_sites_navigation_names_pages_once():
    def list_pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else list_pages(value)

    listed = list(list_pages(load(ROOT / "mkdocs.yml")["nav"]))
    assert len(set(listed)) == len(listed)
    assert set(listed) <= {page.name for page in (ROOT / "docs").glob("*.md")}


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

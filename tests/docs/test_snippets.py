"""The pages' Python runs: in a folder with small runs under the names that the pages use."""

import shutil
from pathlib import Path

import pytest

import runs
import snippets

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUNS = {  # what a page calls a run, and the task it is of
    "runs/pendulum/pendulum/seed0": "pendulum",
    "runs/dmc_cartpole_balance/quickstart/seed0": "dmc:cartpole_balance",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user stands after the trainings that the pages begin with."""
    root = tmp_path_factory.mktemp("pages")
    for place, task in RUNS.items():
        made = root / "made"
        words = ("--run.frames", "60", "--env.time_limit", "30", "--env.render", "ray")
        runs.train(made, "--env.task", task, *words)
        shutil.copytree(next(made.glob("*/debug/seed0")), root / place)
        shutil.rmtree(made)
    return root


@pytest.mark.parametrize(
    "page", [page for page in PAGES if snippets.read_snippets(page)], ids=lambda page: page.name
)
def test_a_pages_python_runs(page, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(shutil.copytree(folder, tmp_path / "here"))
    snippets.execute_snippets(page)


def test_a_block_that_is_marked_is_left_out_and_lines_are_those_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n\n```python\na = 1\n```\n\n<!-- not executed: it takes hours -->\n```python\n"
        "raise ValueError\n```\n\n```python\nb = a + 1\n```\n```\nno Python\n```\n"
    )
    assert snippets.execute_snippets(page)["b"] == 2
    page.write_text(page.read_text() + "\n```python\n\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        snippets.execute_snippets(page)
    place = error.traceback[-1]
    assert (Path(place.path).name, place.lineno + 1) == ("page.md", 21)

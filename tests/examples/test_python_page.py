"""The snippets of docs/python.md, one after the other."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


def test_the_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(snippets) >= 5
    names = {}
    for snippet in snippets:
        exec(snippet.replace('"quickstart"', '"debug"'), names)
    assert names["features"].shape == (names["run"].model.dynamics.feature_size,)

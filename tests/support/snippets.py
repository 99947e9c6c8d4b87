"""The Python of a page: its fenced blocks, executed in order in one namespace."""

import re

FENCE = re.compile(
    r"(?:<!-- not executed: (?P<reason>[^\n]+) -->\n)?^```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


def read_snippets(page):
    """(line, code) of each block of a page that may be executed."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start("code")) + 1, found["code"])
        for found in FENCE.finditer(text)
        if not found["reason"]
    ]


def execute_snippets(page):
    """Execute a page's blocks from its top; an error's traceback names the page and the line."""
    names = {"__name__": "__snippet__"}
    for line, code in read_snippets(page):
        # Empty lines before it, so that lines are counted as in the page.
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
    return names

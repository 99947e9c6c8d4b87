"""Pieces of the page, all of whose words are escaped."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from worldmodel.system.files import open_regular

MOST_PICTURES = 7_000_000  # bytes of the page that pictures may take
LONG = 12  # letters in the last cell beyond which it is given room
WIDE = 640  # pixels beyond which a picture keeps a readable width and scrolls
# What Pillow says of such
NO_PICTURE = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
)
KINDS = {".gif": "image/gif", ".png": "image/png", ".webp": "image/webp"}


def p(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def code(text: str) -> str:
    return f'<pre class="wrap" tabindex="0"><code>{escape(text)}</code></pre>'


def folded(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def terms(title: str, meanings: Mapping[str, str]) -> str:
    """Words and what they mean, folded."""
    inside = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in meanings.items()
    )
    return folded(title, f"<dl>{inside}</dl>")


def listed(lines: Sequence[str], kind: str = "") -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first cell of a row names it."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    long = ' class="long"' if any(len(row[-1]) > LONG for row in rows) else ""
    inside = f"<table{long}><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return scrolling(caption, inside)


def scrolling(label: str, inside: str) -> str:
    """What may be wider than the screen, in a box that scrolls by touch and by keys."""
    return (
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(label)}">{inside}</div>'
    )


def command(path: Path, what: str) -> str:
    """What to type to have something of a run measured."""
    return f"./wm eval {shlex.quote(str(path))} {what}".strip()


def together(paths: Sequence[Path]) -> str:
    """What to type to have the returns of several runs aggregated."""
    return f"./wm eval {shlex.join(map(str, paths))}"


class Pictures:
    """Pictures put into the page, until it would grow too large."""

    def __init__(self, most: int = MOST_PICTURES):
        self.left = most

    def embedded(self, path: Path, alt: str, pixels: bool = False, paper: bool = False) -> str:
        """The picture itself, or a line on where it lies; `paper` is one on a white ground."""
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                count = os.fstat(file.fileno()).st_size
                size = 4 * count // 3 + 200
                data = file.read(count) if size <= self.left else b""
            width = Image.open(BytesIO(data)).width if size <= self.left else 0
        except NO_PICTURE as error:
            why = getattr(error, "strerror", None)
            return p(f"{path} {f'cannot be read ({why})' if why else 'is no picture'}", "lacking")
        if size > self.left:
            return p(
                f"{path} ({count / 1e6:.1f} MB) would make this page too large: open it by itself",
                "lacking",
            )
        self.left -= size
        kinds = " ".join(["pixels"] * pixels + ["paper"] * paper + ["wide"] * (width > WIDE))
        source = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(data).decode()}"
        shown = f'<img src="{source}" alt="{escape(alt)}" class="{kinds}">'
        return scrolling(alt, shown) if width > WIDE else shown

"""HTML elements of the report; all text in them is escaped."""

from __future__ import annotations

import base64
import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from worldmodel.system.console import PROGRAM
from worldmodel.system.files import open_regular

MAX_PICTURE_BYTES = 7_000_000  # bytes of the page that pictures may take
LONG_CELL = 12  # a last column with more letters than this gets a minimum width
WIDE_PICTURE = 640  # a picture wider than this many pixels keeps its width and scrolls
# What Pillow raises for a damaged picture.
PICTURE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
)
MEDIA_TYPES = {".gif": "image/gif", ".png": "image/png", ".webp": "image/webp"}
FORMATS = ("GIF", "PNG", "WEBP")


def render_paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def render_code(text: str) -> str:
    return f'<pre class="wrap" tabindex="0"><code>{escape(text)}</code></pre>'


def render_details(title: str, inside: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def render_terms(title: str, meanings: Mapping[str, str]) -> str:
    """A folded list of terms and their meanings."""
    inside = "".join(
        f"<dt>{escape(word)}</dt><dd>{escape(meaning)}</dd>" for word, meaning in meanings.items()
    )
    return render_details(title, f"<dl>{inside}</dl>")


def render_list(lines: Sequence[str], kind: str = "") -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def render_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first cell of a row is its header."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    long = ' class="long"' if any(len(row[-1]) > LONG_CELL for row in rows) else ""
    inside = f"<table{long}><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return render_scroll_box(caption, inside)


def render_scroll_box(label: str, inside: str) -> str:
    """A box for what may be wider than the screen; it scrolls by touch and by keyboard."""
    return (
        f'<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{escape(label)}">{inside}</div>'
    )


def format_command(path: Path, what: str) -> str:
    """The command line that measures `what` of a run."""
    return f"{PROGRAM} eval {shlex.quote(str(path))} {what}".strip()


def format_joint_command(paths: Sequence[Path]) -> str:
    """The command line that aggregates the returns of several runs."""
    return f"{PROGRAM} eval {shlex.join(map(str, paths))}"


class PictureEmbedder:
    """Embeds pictures into the page until their bytes reach a limit."""

    def __init__(self, most: int = MAX_PICTURE_BYTES):
        self.bytes_left = most

    def embed(self, path: Path, alt: str, pixels: bool = False, paper: bool = False) -> str:
        """An image element, or a line with the file's path if it is unreadable or too large.

        `pixels` enlarges without smoothing; `paper` marks a picture with a white background.
        """
        try:
            with os.fdopen(open_regular(path), "rb") as file:
                count = os.fstat(file.fileno()).st_size
                size = 4 * count // 3 + 200
                data = file.read(count) if size <= self.bytes_left else b""
            width = (
                Image.open(BytesIO(data), formats=FORMATS).width if size <= self.bytes_left else 0
            )
        except PICTURE_ERRORS as error:
            why = getattr(error, "strerror", None)
            return render_paragraph(
                f"{path} {f'cannot be read ({why})' if why else 'is no picture'}", "missing"
            )
        if size > self.bytes_left:
            return render_paragraph(
                f"{path} ({count / 1e6:.1f} MB) would make this page too large: open it by itself",
                "missing",
            )
        self.bytes_left -= size
        kinds = " ".join(
            ["pixels"] * pixels + ["paper"] * paper + ["wide"] * (width > WIDE_PICTURE)
        )
        source = f"data:{MEDIA_TYPES[path.suffix]};base64,{base64.b64encode(data).decode()}"
        shown = f'<img src="{source}" alt="{escape(alt)}" class="{kinds}">'
        return render_scroll_box(alt, shown) if width > WIDE_PICTURE else shown

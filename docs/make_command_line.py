"""Write docs/command_line.md: the help screens as they are now. Run it after changing one."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("command_line.md")
sys.path.insert(0, str(PAGE.parents[1]))

from worldmodel.command_line import main as program  # noqa: E402 (in the checkout)

COLUMNS = "90"
START = """# The command line

`./wm` in a checkout and `wm` of an installed package take the same commands. Help needs nothing
but Python: it answers before anything is installed. Every mistake is one line on standard error,
with a suggestion where one is close. `docs/make_command_line.py` writes this page, and a test
fails if it is out of date.

Short examples:

```console
$ ./wm train pendulum --seed 1           # --seed, --task, --frames and --name need no section
$ ./wm train --help planner.horizon      # one key; a section, a preset and several work too
$ ./wm runs                              # what has been trained, the newest first
$ ./wm eval latest imagine               # the newest run in runs/; ROOT/latest in ROOT
$ ./wm runs /data/runs --json            # the same as JSON
```

| exit code | what it says |
|---|---|
| 0 | done |
| 2 | a wrong command, option, preset, key or value; nothing was begun |
| 3 | an environment or a package fails or is missing |
| 4 | a run or its data is damaged, missing or of another version |
| 5 | the training diverged |
| 74 | disk or memory |
| 75 | stopped and saved; the same command goes on |
| 130, 143, ... | 128 and the number of the signal that ended it before anything was begun |

The progress line is redrawn in place on a terminal and in a notebook. Elsewhere a line is printed
every 15 seconds. Lines about threads and the renderer are printed once, on standard error. Where
there is no display, `wm eval RUN play` prints the `ssh -L` command that reaches it, also from
inside a Slurm job.

A screen is as wide as the terminal; here all are 90 columns wide.
"""
SCREENS = [
    ["--help"],
    ["train", "--help"],
    ["train", "--help", "planner"],
    ["train", "--help", "goal.distance"],
    ["eval", "--help"],
    ["eval", "RUN", "imagine", "--help"],
    ["eval", "RUN", "play", "--help"],
]


def list_screens() -> list[list[str]]:
    """The screens of the page: those above, and that of every other command."""
    named = {words[0] for words in SCREENS}
    return [*SCREENS, *([name, "--help"] for name in program.COMMANDS if name not in named)]


def read_screen(words: list[str]) -> str:
    """What `wm` prints for these words."""
    said = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            program.main(words)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return said.getvalue().rstrip()


def format_page() -> str:
    """The whole page."""
    parts = [START]
    for words in list_screens():
        title = "`wm " + " ".join(words) + "`"
        parts += [f"## {title}\n", "```text", read_screen(words), "```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(format_page(), encoding="utf-8")

"""The command `wm`, installed with the package: wm train|eval|doctor [arguments]."""

import sys

from worldmodel.system.process_end import end_process
from worldmodel.system.process_start import prepare_process

USAGE = """usage: wm train|eval|doctor [arguments]

  wm train    train an agent: wm train [PRESET ...] [--section.key value ...]
  wm eval     evaluate a run: wm eval RUN
  wm doctor   report what this machine offers and what would improve it
"""


def run() -> None:
    """Run the command of this process, and end it; each imports only what it needs."""
    prepare_process()
    name, sys.argv[1:] = (sys.argv[1:] or ["--help"])[0], sys.argv[2:]
    if name == "train":
        from worldmodel.command_line.train import run as run_training

        run_training()
    elif name == "eval":
        from worldmodel.command_line.eval import run as run_evaluation

        run_evaluation()
    elif name == "doctor":
        from worldmodel.system.doctor import main

        end_process(main())
    elif name in ("-h", "--help", "help"):
        sys.stdout.write(USAGE)
    else:
        sys.stderr.write(f"wm: unknown command {name!r}; try wm --help\n")
        end_process(2)

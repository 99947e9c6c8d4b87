"""`wm pack`: a run as one directory, zip file or repository, to give to others."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from worldmodel.programs.eval_options import find_run
from worldmodel.programs.option_parser import OptionParser
from worldmodel.system.console import PROGRAM, say

DESCRIPTION = """Pack a run to share it: configuration, newest weights, spaces, a model card with
scores and command, and a golden observation with the model's outputs, which are compared when it
is opened. worldmodel.load and wm eval open the directory, the zip file, or hf://user/repo.
"""


def make_parser() -> OptionParser:
    parser = OptionParser(
        prog=f"{PROGRAM} pack",
        description=DESCRIPTION,
        usage=f"{PROGRAM} pack RUN [OUT] [--replay] [--push hf://user/repo]",
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="a run directory, latest, or a packed run")
    add("out", metavar="OUT", nargs="?", type=Path, help="a new directory, or a file OUT.zip")
    add("--replay", action="store_true", help="add the replay, so that training can go on")
    add("--push", metavar="hf://user/repo", help="upload it to the Hugging Face hub")
    return parser


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    parser = make_parser()
    args = parser.parse_words(argv)
    args.run = find_run(args.run, parser)
    return args


def main(argv: list[str]) -> int:
    args = parse_arguments(argv)  # help needs none of the following imports
    from worldmodel.programs.exit_codes import run_command

    return run_command(lambda: pack(args))


def pack(args: argparse.Namespace) -> int:
    from worldmodel.packing import hub
    from worldmodel.packing.pack import pack_run
    from worldmodel.run_directory import make_slug
    from worldmodel.saved_run import Run

    address = hub.parse_address(args.push) if args.push else None
    run = Run.open(args.run, "cpu")
    c = run.config
    name = "-".join([make_slug(c.env.task), make_slug(c.run.name), f"seed{c.run.seed}"])
    if address is None or args.out is not None:
        target = pack_run(run, args.out or Path(f"{name}.zip"), args.replay)
        say(f"packed {run.path} at {run.frames:,} frames into {target}")
    if address is not None:
        with tempfile.TemporaryDirectory() as folder:
            page = hub.upload(pack_run(run, Path(folder) / "packed", args.replay), address)
        say(f"pushed {run.path} to {page}")
    return 0

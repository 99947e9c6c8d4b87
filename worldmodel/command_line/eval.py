"""Open saved runs and evaluate them."""

import sys

from worldmodel import envs
from worldmodel.programs.eval_options import parse_eval_arguments
from worldmodel.system.cpu_cores import LoadMeter
from worldmodel.system.process_end import end_process


def main(argv: list[str]) -> int:
    args = parse_eval_arguments(argv)

    load = LoadMeter()
    from worldmodel.programs.evaluation import evaluate  # torch is imported from here on
    from worldmodel.programs.exit_codes import check_output, run_command

    return run_command(lambda: evaluate(args, envs, load)) or check_output()


def run() -> None:
    """Run the command of this process, and end it."""
    end_process(main(sys.argv[1:]))

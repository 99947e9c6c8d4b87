"""Open saved runs: python eval.py RUN [RUN ...] [COMMAND] [options] [--section.key value].

The commands are returns, imagine, compare, probe, model, play and report. What each of them does
stands in worldmodel/programs/evaluation.py.
"""

import sys

import envs
from worldmodel.programs.eval_options import parse_eval_arguments
from worldmodel.system.process_end import end_process


def main(argv: list[str]) -> int:
    args = parse_eval_arguments(argv)

    from worldmodel.programs.evaluation import evaluate  # torch is imported from here on
    from worldmodel.programs.exit_codes import run_command

    return run_command(lambda: evaluate(args, envs))


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))

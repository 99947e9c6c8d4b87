"""Open saved runs: python eval.py RUN [RUN ...] [COMMAND] [options] [--section.key value].

The commands are returns, imagine, compare, probe, model, play and report. What each of them does
stands in worldmodel/programs/evaluation.py.
"""

import sys

from worldmodel.system.process_start import prepare_process

if __name__ == "__main__":
    prepare_process()  # before the imports, which take seconds

import envs
from worldmodel.programs.eval_options import parse_eval_arguments
from worldmodel.system.cpu_cores import LoadMeter
from worldmodel.system.process_end import end_process


def main(argv: list[str]) -> int:
    args = parse_eval_arguments(argv)

    load = LoadMeter()
    from worldmodel.programs.evaluation import evaluate  # torch is imported from here on
    from worldmodel.programs.exit_codes import check_output, run_command

    return run_command(lambda: evaluate(args, envs, load)) or check_output()


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))

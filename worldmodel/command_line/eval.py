"""Open saved runs and evaluate them."""

from worldmodel.programs.eval_options import parse_eval_arguments
from worldmodel.system.cpu_cores import LoadMeter


def main(argv: list[str]) -> int:
    args = parse_eval_arguments(argv)  # help needs none of the following imports
    load = LoadMeter()
    from worldmodel import envs
    from worldmodel.programs.evaluation import evaluate  # torch is imported from here on
    from worldmodel.programs.exit_codes import check_output, run_command

    return run_command(lambda: evaluate(args, envs, load)) or check_output()

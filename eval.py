"""Open saved runs: python eval.py RUN [RUN ...] [COMMAND] [options] [--section.key value].

The commands are returns, imagine, compare, probe, model, play and report. What each of them does
stands in worldmodel/programs/evaluation.py.
"""

from worldmodel.system.process_start import prepare_process

if __name__ == "__main__":
    prepare_process()  # before the imports, which take seconds

from worldmodel.command_line.eval import run

if __name__ == "__main__":
    run()

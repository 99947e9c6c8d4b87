"""Open saved runs: python eval.py RUN [RUN ...] [COMMAND] [options] [--section.key value].

The commands are returns, imagine, compare, probe, model, play and report. What each of them does
stands in worldmodel/programs/evaluation.py.
"""

import sys

from worldmodel.system.process_start import prepare_process

if __name__ == "__main__":
    prepare_process()  # before the imports, which take seconds

from worldmodel.command_line.main import main
from worldmodel.system.process_end import end_process

if __name__ == "__main__":
    end_process(main(["eval", *sys.argv[1:]]))

"""Train a world-model agent from pixels: python train.py [PRESET ...] [--section.key value ...].

The training loop stands in worldmodel/command_line/train.py. Run the same command again to resume.
"""

import sys

from worldmodel.system.process_start import prepare_process

if __name__ == "__main__":
    prepare_process()  # before the imports, which take seconds

from worldmodel.command_line.main import main
from worldmodel.system.process_end import end_process

if __name__ == "__main__":
    end_process(main(["train", *sys.argv[1:]]))

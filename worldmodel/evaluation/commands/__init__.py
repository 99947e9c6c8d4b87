"""One module for each `eval.py RUN COMMAND`, and the closing evaluation of a training.

Only the programs and the trainer use it; it may import every other room of evaluation.
"""

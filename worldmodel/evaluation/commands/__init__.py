"""One module for each `eval.py RUN COMMAND`.

Only the programs use it; it may import every other room of evaluation.
"""

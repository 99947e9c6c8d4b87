"""What each `eval.py RUN COMMAND` does, one module a command.

Only eval.py and the end of a training call them.
"""

"""One HTML page about a run or several seeds of it, which opens from disk without a network.

Only eval.py uses it; it reads files and never loads a model.
"""

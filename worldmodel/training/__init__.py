"""A training run: the trainer, one gradient step, saving and resuming, logs, divergence.

Only the programs use it.
"""

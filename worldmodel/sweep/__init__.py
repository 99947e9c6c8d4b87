"""Sweeps: a grid of trainings, run side by side or by Slurm, and the table of their scores.

Each training is an ordinary run directory, made by the ordinary command. The command line uses it,
and benchmarks do.
"""

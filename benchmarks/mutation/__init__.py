"""Mutation testing: wrong equations, put into a copy of the code one at a time; a test must fail.

`python -m benchmarks.mutation --help` runs it; docs/mutation.md explains it and has the score.
"""

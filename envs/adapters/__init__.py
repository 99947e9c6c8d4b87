"""Environments of other packages that Gymnasium alone cannot make, or not as the field uses them.

Each module has a function `make(name, kwargs)`; `envs/packages.py` says whose ids it makes.
"""

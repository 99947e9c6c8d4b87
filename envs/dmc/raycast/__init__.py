"""A renderer for MuJoCo scenes in numpy, without a graphics library.

Only dmc/render.py chooses it.
"""

"""A ray-casting renderer for MuJoCo scenes in numpy, without a graphics library.

Only dmc/render.py uses it.
"""

"""Pictures, videos, grids and the style of plots, all without a display.

All of evaluation and the end of a training use it.
"""

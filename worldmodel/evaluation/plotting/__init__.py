"""Pictures, videos, grids and plot style, all without a display.

Every other room of evaluation uses it.
"""

"""The built-in tasks, simulated and drawn with numpy.

Only the registry imports them by name.
"""

"""The DeepMind Control suite and its renderers.

Only the registry makes its environments.
"""

"""DeepMind Control and its renderers.

Only the registry makes its environments.
"""

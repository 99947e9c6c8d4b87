"""The built-in tasks, drawn with numpy alone.

Only the registry names them.
"""

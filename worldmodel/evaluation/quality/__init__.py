"""How good a world model is, in numbers, on episodes it was not trained on.

Commands and report use it.
"""

"""Returns over whole episodes, of one run and of several seeds.

Commands and training use it.
"""

"""One page about a run, or about several seeds of it, that opens from the disk and asks nothing of
a network.
"""

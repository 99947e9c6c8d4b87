"""The quality of a world model in numbers, on episodes that it was not trained on.

Commands, imagination, play and report use it; it builds on returns and plotting.
"""

"""Experience: the buffer that training samples from, its files, and the states sequences start
from.

Training writes it; policy and evaluation read saved episodes. It never imports torch.nn.
"""

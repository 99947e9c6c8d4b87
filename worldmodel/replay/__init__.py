"""The replay buffer, its files, and the start states of replayed sequences.

Training writes it; policy and evaluation read saved episodes. It never imports torch.nn.
"""

"""Imagined rollouts as pictures: beside the truth, many futures, uncertainty, latents.

Commands and the end of a training use it; it builds on quality and plotting.
"""

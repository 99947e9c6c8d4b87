"""Imagined rollouts to look at: beside the truth, several futures, uncertainty, latents.

Commands, play and report use it.
"""

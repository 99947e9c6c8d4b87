"""Checkpoints: how they are written, found, verified and validated.

Training writes them; whoever opens a saved run reads them. Nothing in one is ever executed.
"""

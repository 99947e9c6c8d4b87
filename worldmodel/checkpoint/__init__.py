"""Checkpoints: writing, finding, verifying and validating them.

Training writes them; every program that opens a saved run reads them. No code in them is executed.
"""

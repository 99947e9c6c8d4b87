"""Checkpoints: store.py writes and finds them, format.py checks hashes, validate.py checks values.

Training writes them; every program that opens a saved run reads them. No code in them is executed.
"""

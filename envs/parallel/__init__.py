"""Environments side by side in supervised processes.

Training and evaluation are handed what it makes.
"""

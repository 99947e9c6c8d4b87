"""Environments side by side: vector.py steps and restarts them, worker.py runs in each process.

Training and evaluation are handed what it makes.
"""

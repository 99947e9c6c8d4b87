"""Runs to give away: packing one, checking and unpacking what comes from elsewhere, the hub.

A packed run is a run directory with a list of its files. Everything in it is data of anyone's:
read as such, checked, and never executed. saved_run opens packed runs; the command line makes
them.
"""

"""Driving a dream by hand, beside the simulator: a session, its server on this machine alone, and
the page.
"""

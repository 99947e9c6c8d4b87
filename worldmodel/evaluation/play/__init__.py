"""The page on which a model is driven by hand: a session, its server and the page.

Only the command `play` uses it. The server answers this machine alone.
"""

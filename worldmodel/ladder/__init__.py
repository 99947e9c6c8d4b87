"""The ladder of model-based RL: trains every rung and measures the lesson of each step between.

The command `wm ladder` uses it. One file per lesson lies in `lessons/`; `page.py` writes the page.
"""

"""One file per lesson of the ladder, each with a `LESSON`; `catalog.py` lists them in order.

The page and the command take them from the catalog alone.
"""

"""Files, processor cores, threads, console output, versions and fault injection.

Any package may import it; it imports no model code.
"""

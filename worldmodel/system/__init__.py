"""Files, processor cores, threads, console output, exit codes, versions and fault injection.

Any package may import it; it imports no model code.
"""

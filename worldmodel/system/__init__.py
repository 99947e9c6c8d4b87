"""The machine: files, cores, threads, console, versions, fault injection for tests.

Any room may import it. It knows nothing of models.
"""

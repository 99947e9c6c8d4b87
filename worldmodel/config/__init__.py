"""The configuration: types and ranges of every key, layering of presets, YAML as plain data.

Any room may import it. It never imports torch: a wrong configuration is answered at once.
"""

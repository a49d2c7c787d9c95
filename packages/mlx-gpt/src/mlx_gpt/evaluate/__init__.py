"""Metrics and benchmarks of models: bits per byte, CORE, multiple choice, GSM8K.

`evaluation` runs all of them on a model folder; the other modules are usable alone.
"""

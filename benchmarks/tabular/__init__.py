"""The tables, the worker and the page of `benchmarks/tabular.py`."""

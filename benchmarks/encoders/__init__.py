"""The variants of `benchmarks/encoders_finetune.py`, and the page of its results."""

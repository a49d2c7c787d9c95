"""What `benchmarks/heads.py` compares, one table a module."""

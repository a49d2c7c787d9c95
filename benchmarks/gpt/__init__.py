"""What `benchmarks/gpt.py` measures, each variant in a process of its own."""

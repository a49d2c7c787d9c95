"""What `benchmarks/cpu.py` measures, each variant in a process of its own."""

"""What `benchmarks/muon.py` measures, each variant in a process of its own."""

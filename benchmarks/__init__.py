"""Measurements, side by side with the real servers in one run. `python -m benchmarks` prints the tables."""

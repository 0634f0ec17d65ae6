"""What a guarded call costs, as ratios in one run: `python -m tests.benchmarks`."""

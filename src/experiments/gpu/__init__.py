"""What `python -m experiments.bench gpu` measures, a file a part; torch, triton and numpy alone."""

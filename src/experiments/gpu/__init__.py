"""What `python -m experiments.gpu_check` measures, a file a part; torch, triton and numpy alone."""

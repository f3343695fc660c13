"""Parts of `python -m experiments.bench gpu`, a file each; torch, triton and numpy alone."""

"""Parts that the benchmarks and gpu_check share; torch and numpy alone."""

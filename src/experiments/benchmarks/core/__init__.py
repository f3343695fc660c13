"""Parts that the benchmarks and the check of a GPU share; torch and numpy alone."""

"""What a model costs, and what a budget buys. Arithmetic: no torch."""

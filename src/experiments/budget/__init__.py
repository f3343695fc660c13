"""Cost of a model, and the training that a budget allows. Arithmetic, no torch."""

"""Best learning rates of a table's cells, and how they go with size, length and batch."""

"""The shape of conf/, how it is read, and what its values may be."""

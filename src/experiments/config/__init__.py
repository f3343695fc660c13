"""Shape of conf/, its reading, and the constraints on its values."""

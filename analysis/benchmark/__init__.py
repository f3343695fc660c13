"""How long the fits take, and how well they extrapolate beside published scores."""

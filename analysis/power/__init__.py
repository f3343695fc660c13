"""How many seeds a difference between models needs, by the noise of pairs of one seed."""

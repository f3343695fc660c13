"""IsoFLOP curves, their minima, and power laws of compute."""

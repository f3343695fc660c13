"""Lowest losses of layers and their differences, by curves that are fitted together."""

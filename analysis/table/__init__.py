"""Runs as one checked pandas table, whatever they come from."""

"""Processes, files, signals, ranks and machines."""

"""Speeds, measured side by side in one run: a file each, found by itself. No test reads them."""

"""Speeds, measured side by side in one run. No test reads them."""

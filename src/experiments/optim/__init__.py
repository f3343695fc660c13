"""Optimizers: groups and their rates, schedules, AdamW by rows, Muon."""

"""Measurements of `python -m experiments.bench gpu`: a file a part, found by itself.

Each has `run(job)`, SECONDS, its time at most, and WORTH: the most valuable is measured first. The
first line of its docstring is its help.
"""

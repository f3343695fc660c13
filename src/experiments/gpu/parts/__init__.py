"""Measurements of `python -m experiments.gpu_check`: a file a part, found by itself.

Each has `run(job)`, SECONDS, its time at most, and WORTH: the most valuable is measured first. The
first line of its docstring is its help.
"""

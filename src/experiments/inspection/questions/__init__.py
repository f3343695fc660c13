"""Further questions of `python -m experiments.inspect NAME RUN`: a file each, found by itself.

Each has a QUESTION (inspection/command.py). The first line of its docstring is its help.
"""

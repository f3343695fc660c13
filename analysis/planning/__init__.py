"""Plans of the next runs, and the questions of `python -m analysis plan` (questions/)."""

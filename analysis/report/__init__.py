"""A study as one page, with figures and fits."""

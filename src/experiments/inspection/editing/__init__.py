"""Edits of single experts of a finished run, in a small file of their own: a patch."""

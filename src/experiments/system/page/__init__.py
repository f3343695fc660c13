"""Pages that are one file: their style, their script and their data are in it, and no network."""

"""Commands of `python -m analysis`: each file here is one, under its name, with a COMMAND."""

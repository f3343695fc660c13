"""Questions of `python -m analysis plan`: each file here is one, with a QUESTION."""

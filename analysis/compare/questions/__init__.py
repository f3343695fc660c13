"""Questions of `python -m analysis compare`: each file here is one, with a QUESTION."""

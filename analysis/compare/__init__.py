"""Questions of `python -m analysis compare`: every file of questions/ is one."""

"""What `python -m analysis compare` asks of a table: every file of questions/ is a question."""

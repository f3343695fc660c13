"""A report's tables and figures as a paper takes them: LaTeX, and PDF in the widths of columns."""

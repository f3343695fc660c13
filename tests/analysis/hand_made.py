"""A table as one would write it in a notebook."""

import pandas as pd


def runs(n=3, **columns):
    """A hand-made table: n sizes of one budget, with 6 N D exact; columns=None drops one."""
    sizes = [1e6 * 2**i for i in range(n)]
    frame = pd.DataFrame(
        {
            "budget": 6e15,
            "n_params": sizes,
            "n_tokens": [1e15 / size for size in sizes],
            "loss": [4.0 + 0.1 * i for i in range(n)],
        }
    )
    for name, value in columns.items():
        if value is None:
            frame = frame.drop(columns=name)
        else:
            frame[name] = value
    return frame

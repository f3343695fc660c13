"""How long the fits take, and how well they extrapolate beside published scores.

`python -m analysis.benchmark [times]`, or `python -m analysis.benchmark sld FOLDER`.
"""

import sys


def main() -> None:
    """Times the fits; with sld first, scores them on held-out rows."""
    from analysis.benchmark import sld, times

    typed = sys.argv[1:]
    if typed[:1] == ["sld"]:
        sld.main(typed[1:])
    else:
        times.main(typed[1:] if typed[:1] == ["times"] else typed)

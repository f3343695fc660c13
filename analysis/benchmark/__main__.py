"""`python -m analysis.benchmark [times]`, or `python -m analysis.benchmark sld FOLDER`."""

import sys

from analysis.benchmark import sld, times


def main() -> None:
    """Times the fits; with sld first, scores them on held-out rows."""
    typed = sys.argv[1:]
    if typed[:1] == ["sld"]:
        sld.main(typed[1:])
    else:
        times.main(typed[1:] if typed[:1] == ["times"] else typed)


if __name__ == "__main__":
    main()

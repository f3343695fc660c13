"""Where conf/ lies, from a checkout and from an installed wheel alike. Standard library only."""

from pathlib import Path


def conf_dir() -> Path:
    """The folder of config.yaml: the wheel's own copy, else the checkout's.

    Raises FileNotFoundError naming both places if neither holds it.
    """
    here = Path(__file__).resolve().parent
    places = (here / "conf", here.parents[1] / "conf")
    for place in places:
        if (place / "config.yaml").exists():
            return place
    raise FileNotFoundError(f"no config.yaml in {places[0]} or {places[1]}")

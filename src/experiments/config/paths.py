"""Where conf/ and sbatch/ are, in a checkout or in a wheel. Standard library only."""

from pathlib import Path


def conf_dir() -> Path:
    """Folder of config.yaml: the wheel's own copy, else the checkout's.

    Raises FileNotFoundError naming both places if neither holds it.
    """
    return _beside("conf", "config.yaml")


def sbatch_dir() -> Path:
    """Folder of point.sh, found and raising likewise."""
    return _beside("sbatch", "point.sh")


def _beside(folder: str, file: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    places = (package / folder, package.parents[1] / folder)
    for place in places:
        if (place / file).exists():
            return place
    raise FileNotFoundError(f"no {file} in {places[0]} or {places[1]}")

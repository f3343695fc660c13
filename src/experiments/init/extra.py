"""The packages of the extra `hf`, imported where they are needed and nowhere else."""

import importlib
from typing import Any


def from_extra(package: str, purpose: str) -> Any:
    """The module. Raises ValueError, naming the extra, where it is not installed.

    purpose: what needs it, as the message begins.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs the package {package.partition('.')[0]} ({error}): "
            "pip install 'expert-isoflops[hf]'"
        ) from None

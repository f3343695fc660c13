"""Nursery, whose import begins a diary: how processes that are not forked here keep one."""

import os
from pathlib import Path

from tests.conftest import Nursery
from tests.soak import diary

PLACE = "SOAK_DIARY"  # the variable with the diary's path

__all__ = ["PLACE", "Watched"]


class Watched(Nursery):
    """Same texts."""


if PLACE in os.environ:
    diary.keep(Path(os.environ[PLACE]))

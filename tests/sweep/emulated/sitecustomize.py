"""Workers on GPUs that are not there: each notes the one that it was told, and trains on the CPU.

Python imports this file when it starts in a process whose PYTHONPATH has its folder.
"""

import os
from pathlib import Path

from experiments.system import cards

NOTES, DEAD = (Path(os.environ["EMULATED_GPUS"]) / name for name in ("notes", "dead"))


def _why_not_open(devices: int = 1) -> str | None:
    card = os.environ.get(cards.VISIBLE)
    with NOTES.open("a") as notes:
        notes.write(f"{card}\n")
    return "its GPU does not compute" if card in DEAD.read_text().split() else None


cards.why_not_open = _why_not_open

"""Mass of a layer's experts as a map: rows and columns are sub-keys, or else a strip."""

from dataclasses import dataclass

import numpy as np

SIDE = 256  # cells of a map's side, at most
LENGTH = 1024  # of a strip


@dataclass(frozen=True, kw_only=True, eq=False)
class MassMap:
    """mass (D, rows, columns) of D texts. A cell is `tall` sub-keys of the first half by `wide` of
    the second, fewer at the ends; n_columns: sub-keys of the second half in all. Without product
    keys (sub_keys false) there is one row, and a cell is `wide` experts.
    """

    mass: np.ndarray
    tall: int
    wide: int
    n_columns: int
    sub_keys: bool


def mass_map(mass: np.ndarray, grid: tuple[int, int] | None) -> MassMap:
    """That of masses (D, N), with expert i in row i // columns of a grid (rows, columns)."""
    rows, columns = grid or (1, mass.shape[1])
    side = (SIDE, SIDE) if grid else (1, LENGTH)
    tall, wide = (-(-n // most) for n, most in zip((rows, columns), side, strict=True))
    square = mass.reshape(len(mass), rows, columns)
    padded = np.pad(square, ((0, 0), (0, -rows % tall), (0, -columns % wide)))
    cells = padded.reshape(len(mass), -(-rows // tall), tall, -(-columns // wide), wide)
    return MassMap(
        mass=cells.sum((2, 4)),
        tall=tall,
        wide=wide,
        n_columns=columns,
        sub_keys=grid is not None,
    )

"""How a curve's lowest point is found."""

from typing import Literal

Method = Literal["slice", "parabola", "akima"]
Single = Literal["parabola", "akima"]  # of one curve by itself
METHODS = ("slice", "parabola", "akima")
Outliers = Literal["exclude", "keep"]
OUTLIERS = ("exclude", "keep")

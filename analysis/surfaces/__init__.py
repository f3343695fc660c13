"""Loss surfaces over size and tokens beside E + A/N^alpha + B/D^beta, compared by hold-out."""

from analysis.surfaces.compare import SurfaceComparison, compare_surfaces
from analysis.surfaces.fit import SurfaceFit, fit_surface

__all__ = ["SurfaceComparison", "SurfaceFit", "compare_surfaces", "fit_surface"]

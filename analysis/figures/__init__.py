"""Figures take tables and results and return a Figure; they neither fit nor read files.

with analysis.figures.style(dark=True):
    analysis.figures.draw_isoflop(table, fit).savefig("isoflop.png")
"""

from analysis.figures.adaptation import draw_adaptation
from analysis.figures.adapters import draw_libraries
from analysis.figures.experts import draw_experts
from analysis.figures.forgetting import draw_forgetting
from analysis.figures.growth import draw_growth
from analysis.figures.isoflop import draw_isoflop
from analysis.figures.laws import draw_frontier, draw_laws
from analysis.figures.multipliers import draw_forest, draw_multipliers
from analysis.figures.palette import MODEL_COLOURS
from analysis.figures.parametric import draw_contours
from analysis.figures.rate_curves import draw_rate_curves
from analysis.figures.rates import draw_rates
from analysis.figures.residuals import draw_residuals
from analysis.figures.retrieval import draw_active, draw_usage
from analysis.figures.scales import relabel
from analysis.figures.seconds import draw_seconds
from analysis.figures.style import style

__all__ = [
    "MODEL_COLOURS",
    "draw_active",
    "draw_adaptation",
    "draw_contours",
    "draw_experts",
    "draw_forest",
    "draw_forgetting",
    "draw_frontier",
    "draw_growth",
    "draw_isoflop",
    "draw_laws",
    "draw_libraries",
    "draw_multipliers",
    "draw_rate_curves",
    "draw_rates",
    "draw_residuals",
    "draw_seconds",
    "draw_usage",
    "relabel",
    "style",
]

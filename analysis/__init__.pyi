# Names of the package, and where each is defined: it is loaded when it is first used.
from . import figures
from .adaptation import Adaptation, compare_adaptations
from .adapters import Libraries, compare_libraries
from .contrast.compute import compute_contrasts
from .contrast.held import Held, hold_to
from .contrast.parts import ContrastsByPart, contrast_parts
from .contrast.preregistration import read_registration
from .contrast.result import Contrasts
from .curves.compare import Curves, compare_curves
from .curves.fit import CurveFit, fit_curves
from .differences.by_column import DifferencesBy, compare_by
from .differences.correction import Corrected, holm
from .differences.models import Differences, SeedNoise, compare_models, seed_noise
from .differences.multipliers import BudgetMultipliers, budget_multipliers
from .experts.compare import LawComparison, compare_laws
from .experts.fit import fit_expert_law, size_slopes
from .experts.law import ExpertLawFit
from .figures.adaptation import draw_adaptation
from .figures.adapters import draw_libraries
from .figures.contrast import draw_contrasts, draw_parts
from .figures.curves import draw_curves
from .figures.experts import draw_experts
from .figures.forgetting import draw_forgetting
from .figures.forms import draw_forms
from .figures.growth import draw_growth
from .figures.isoflop import draw_isoflop
from .figures.laws import draw_frontier, draw_laws
from .figures.multipliers import draw_forest, draw_multipliers
from .figures.parametric import draw_contours
from .figures.rate_curves import draw_rate_curves
from .figures.rates import draw_rates
from .figures.residuals import draw_residuals
from .figures.retrieval import draw_active, draw_usage
from .figures.seconds import draw_seconds
from .fitting.intervals import Estimate, Prediction
from .fitting.power_law import (
    FrontierFit,
    PowerLaw,
    fit_frontier,
    fit_power_law,
)
from .fitting.results import Fit, Result
from .fitting.status import FitError, FitStatus
from .flatness import Flatness, compute_flatness
from .forgetting.compare import Forgetting, compare_forgetting
from .forgetting.equal import EqualLearning, compare_at_learning
from .growth import Growth, compare_growth
from .isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from .isoflop.fit import fit_isoflop
from .isoflop.flags import Flag
from .isoflop.laws import ModelLaws
from .multiplier.fit import compute_multipliers
from .multiplier.result import ComputeMultipliers
from .parametric import ParametricFit, fit_parametric
from .planning.runs import NextRuns, next_runs
from .planning.seed_power import SeedPower
from .planning.seeds import seed_power
from .planning.size import Plan, plan
from .rates.fit import Rates, fit_rates
from .rates.law import RateLaw
from .rates.moves import RateMoves, compare_rates
from .surfaces.columns import load_columns
from .surfaces.compare import SurfaceComparison, compare_surfaces
from .surfaces.fit import SurfaceFit, fit_surface
from .surfaces.form_compare import FormComparison, compare_forms
from .surfaces.form_fit import FormFit
from .table.load import best_of_cells, check_table, finished, load_table
from .table.sources import read_source
from .validation.agreement import Agreement, compare_approaches
from .validation.hold_out import HoldOut, hold_out_budgets
from .validation.influence import Influence, compute_influence
from .validation.residuals import compute_residuals

__all__ = [
    "Adaptation",
    "Agreement",
    "BudgetMultipliers",
    "ComputeMultipliers",
    "Contrasts",
    "ContrastsByPart",
    "Corrected",
    "CurveFit",
    "Curves",
    "Differences",
    "DifferencesBy",
    "EqualLearning",
    "Estimate",
    "ExpertLawFit",
    "Fit",
    "FitError",
    "FitStatus",
    "Flag",
    "Flatness",
    "Forgetting",
    "FormComparison",
    "FormFit",
    "FrontierFit",
    "Growth",
    "Held",
    "HoldOut",
    "Influence",
    "IsoFLOPCurve",
    "IsoFLOPFit",
    "LawComparison",
    "Libraries",
    "ModelLaws",
    "NextRuns",
    "ParametricFit",
    "Plan",
    "PowerLaw",
    "Prediction",
    "RateLaw",
    "RateMoves",
    "Rates",
    "Result",
    "SeedNoise",
    "SeedPower",
    "SurfaceComparison",
    "SurfaceFit",
    "best_of_cells",
    "budget_multipliers",
    "check_table",
    "compare_adaptations",
    "compare_approaches",
    "compare_at_learning",
    "compare_by",
    "compare_curves",
    "compare_forgetting",
    "compare_forms",
    "compare_growth",
    "compare_laws",
    "compare_libraries",
    "compare_models",
    "compare_rates",
    "compare_surfaces",
    "compute_contrasts",
    "compute_flatness",
    "compute_influence",
    "compute_multipliers",
    "compute_residuals",
    "contrast_parts",
    "draw_active",
    "draw_adaptation",
    "draw_contours",
    "draw_contrasts",
    "draw_curves",
    "draw_experts",
    "draw_forest",
    "draw_forgetting",
    "draw_forms",
    "draw_frontier",
    "draw_growth",
    "draw_isoflop",
    "draw_laws",
    "draw_libraries",
    "draw_multipliers",
    "draw_parts",
    "draw_rate_curves",
    "draw_rates",
    "draw_residuals",
    "draw_seconds",
    "draw_usage",
    "figures",
    "finished",
    "fit_curves",
    "fit_expert_law",
    "fit_frontier",
    "fit_isoflop",
    "fit_parametric",
    "fit_power_law",
    "fit_rates",
    "fit_surface",
    "hold_out_budgets",
    "hold_to",
    "holm",
    "load_columns",
    "load_table",
    "next_runs",
    "plan",
    "read_registration",
    "read_source",
    "seed_noise",
    "seed_power",
    "size_slopes",
]

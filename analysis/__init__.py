"""From records to fitted laws with intervals, diagnostics, figures and a report. Without torch.

import analysis
table = analysis.load_table("results/demo")
fit = analysis.fit_isoflop(table)
print(fit)
analysis.draw_isoflop(table, fit).savefig("isoflop.png")
"""

from analysis.adaptation import Adaptation, compare_adaptations
from analysis.adapters import Libraries, compare_libraries
from analysis.contrast.compute import contrast
from analysis.contrast.held import Held, hold_to
from analysis.contrast.parts import ContrastsByPart, contrast_parts
from analysis.contrast.preregistration import read_registration
from analysis.contrast.result import Contrasts
from analysis.curves.compare import Curves, compare_curves
from analysis.curves.fit import CurveFit, fit_curves
from analysis.differences.by_column import DifferencesBy, compare_by
from analysis.differences.correction import Corrected, holm
from analysis.differences.models import Differences, SeedNoise, compare_models, seed_noise
from analysis.differences.multipliers import BudgetMultipliers, budget_multipliers
from analysis.experts.compare import LawComparison, compare_laws
from analysis.experts.fit import fit_expert_law, size_slopes
from analysis.experts.law import ExpertLawFit
from analysis.figures.adaptation import draw_adaptation
from analysis.figures.adapters import draw_libraries
from analysis.figures.contrast import draw_contrasts, draw_parts
from analysis.figures.curves import draw_curves
from analysis.figures.experts import draw_experts
from analysis.figures.forgetting import draw_forgetting
from analysis.figures.forms import draw_forms
from analysis.figures.growth import draw_growth
from analysis.figures.isoflop import draw_isoflop
from analysis.figures.laws import draw_frontier, draw_laws
from analysis.figures.multipliers import draw_forest, draw_multipliers
from analysis.figures.parametric import draw_contours
from analysis.figures.rate_curves import draw_rate_curves
from analysis.figures.rates import draw_rates
from analysis.figures.residuals import draw_residuals
from analysis.figures.retrieval import draw_active, draw_usage
from analysis.figures.seconds import draw_seconds
from analysis.fitting.intervals import Estimate, Prediction
from analysis.fitting.power_law import (
    FrontierFit,
    PowerLaw,
    fit_frontier,
    fit_power_law,
)
from analysis.fitting.results import Fit, Result
from analysis.fitting.status import FitError, FitStatus
from analysis.flatness import Flatness, flatness
from analysis.forgetting.compare import Forgetting, compare_forgetting
from analysis.forgetting.equal import EqualLearning, compare_at_learning
from analysis.growth import Growth, compare_growth
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from analysis.isoflop.laws import ModelLaws
from analysis.multiplier.fit import compute_multipliers
from analysis.multiplier.result import ComputeMultipliers
from analysis.parametric import ParametricFit, fit_parametric
from analysis.planning.runs import NextRuns, next_runs
from analysis.planning.seed_power import SeedPower
from analysis.planning.seeds import seed_power
from analysis.planning.size import Plan, plan
from analysis.rates.fit import Rates, fit_rates
from analysis.rates.law import RateLaw
from analysis.rates.moves import RateMoves, compare_rates
from analysis.surfaces.columns import load_columns
from analysis.surfaces.compare import SurfaceComparison, compare_surfaces
from analysis.surfaces.fit import SurfaceFit, fit_surface
from analysis.surfaces.form_compare import FormComparison, compare_forms
from analysis.surfaces.form_fit import FormFit
from analysis.table.load import best_of_cells, check_table, finished, load_table
from analysis.table.sources import read_source
from analysis.validation.agreement import Agreement, compare_approaches
from analysis.validation.hold_out import HoldOut, hold_out_budgets
from analysis.validation.influence import Influence, compute_influence
from analysis.validation.residuals import compute_residuals

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
    "compute_influence",
    "compute_multipliers",
    "compute_residuals",
    "contrast",
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
    "finished",
    "fit_curves",
    "fit_expert_law",
    "fit_frontier",
    "fit_isoflop",
    "fit_parametric",
    "fit_power_law",
    "fit_rates",
    "fit_surface",
    "flatness",
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

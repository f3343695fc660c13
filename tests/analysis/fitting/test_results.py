"""Every result has one face, and every fit a larger one; a new class is picked up by itself."""

import dataclasses
import functools
import inspect
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis
from analysis import study
from analysis.experts.compare import compare_laws
from analysis.fitting.intervals import Prediction
from analysis.fitting.power_law import fit_frontier, fit_power_law
from analysis.fitting.results import Fit, Result
from analysis.fitting.status import FitStatus
from analysis.isoflop.fit import fit_isoflop
from analysis.parametric import fit_parametric
from analysis.study import Study
from analysis.synthetic import ChinchillaSurface, ClarkSurface, simulate_experts, simulate_isoflop
from tests.analysis.contrast import test_documents as of_documents
from tests.analysis.curves.made import annealed
from tests.analysis.hand_made import of_few_draws
from tests.analysis.test_adapters import three, written
from tests.analysis.test_forgetting import stream_run


def classes(of):
    """All that can be made: those without an abstract method."""
    own = set() if inspect.isabstract(of) else {of}
    return own.union(*map(classes, of.__subclasses__()))


KINDS = ("cosine", "wsd")
RESULTS = sorted(classes(Result), key=lambda c: c.__name__)
FITS = [c for c in RESULTS if issubclass(c, Fit)]


@functools.cache
def table():
    """Two models at four budgets, two seeds, and five numbers of experts of one of them."""
    runs = simulate_isoflop(ChinchillaSurface(), (1e17, 1e18, 1e19, 1e20), 7, span=8, noise=0.003)
    parts = []
    for model, gain in (("dense", 0.0), ("peer", 0.1)):
        for seed in (0, 1):
            noise = np.random.default_rng(seed).normal(0, 0.002, len(runs))
            loss = runs["loss"] - gain + noise
            parts.append(runs.assign(model=model, series=model, seed=seed, loss=loss, run_id=None))
    return pd.concat(parts, ignore_index=True)


@functools.cache
def results():
    """One of each class."""
    with of_few_draws():
        return made()


def made():
    runs = table()
    n_examples = 2.0 ** np.arange(4, 17)
    noise = np.random.default_rng(0).normal(0, 0.01, len(n_examples))
    tuned_losses = 60 / (40 + n_examples**0.7) + 1.2 + noise
    forms = analysis.compare_forms(
        {"n_examples": n_examples}, tuned_losses, "fine_tuning", n_draws=20
    )
    dense = runs[(runs["model"] == "dense") & (runs["seed"] == 0)]
    isoflop = fit_isoflop(runs, n_draws=20)
    experts = simulate_experts(ClarkSurface(), [1e7, 1e8, 1e9], [1, 4, 16, 64, 256], noise=0.01)
    compared = compare_laws(experts, ["power_floor"], n_draws=20)
    rates = analysis.fit_rates(tuned())
    both = pd.concat([tuned(), tuned().assign(model="peer", series="peer")], ignore_index=True)
    used = both[both["lr"] == 2.0**-7]
    surface = fit_parametric(dense["n_params"], dense["n_tokens"], dense["loss"], n_draws=20)
    differences = analysis.compare_models(runs, budget=1e19)
    law = fit_power_law([1e17, 1e18, 1e19, 1e20], [1e6, 3e6, 1e7, 3.2e7])
    histories = [annealed(kind, 400, noise=0.01, rng=np.random.default_rng(0)) for kind in KINDS]
    curves = analysis.compare_curves(histories, ["annealing"], n_draws=20)
    found = [
        isoflop,
        isoflop.curves[0],
        isoflop.laws[0],
        surface,
        law,
        fit_frontier([1e17, 1e18, 1e19, 1e20, 1e21], [4.0, 3.5, 3.2, 3.0, 2.9]),
        compared,
        compared.fits[0],
        differences,
        differences.noise,
        analysis.holm(differences),
        analysis.seed_power(runs, target=0.01),
        analysis.compute_contrasts(runs, "n_params"),
        held(runs),
        by_domain(),
        analysis.next_runs(runs, "peer-dense@1e19", 2e19),
        analysis.budget_multipliers(
            {C: analysis.compare_models(runs, budget=C) for C in (1e18, 1e19)}
        ),
        analysis.compare_by(
            runs.assign(n_layers=runs.groupby("budget").cumcount() % 7),
            "n_layers",
            budget=1e19,
            noise=differences.noise,
        ),
        analysis.compare_approaches(dense),
        analysis.hold_out_budgets(dense),
        analysis.compute_multipliers(
            {model: isoflop.frontier(model) for model in ("dense", "peer")}, "dense"
        ),
        analysis.plan(1e20, isoflop, model="dense"),
        analysis.compute_flatness(isoflop, baseline="dense"),
        analysis.compute_influence(dense["n_params"], dense["n_tokens"], dense["loss"], n_draws=20),
        analysis.fit_surface(
            dense["n_params"], dense["n_tokens"], dense["loss"], "over_trained", n_draws=20
        ),
        analysis.compare_surfaces(
            *(dense[name] for name in ("n_params", "n_tokens", "loss")), ["chinchilla"], n_draws=20
        ),
        analysis.compare_adaptations(adapted()),
        analysis.compare_growth(grown()),
        analysis.compare_forgetting(streamed()),
        analysis.compare_at_learning(streamed()),
        chosen(),
        rates,
        analysis.compare_rates(analysis.fit_rates(both), used),
        rates.forms[0].law,
        curves,
        curves.fits[0],
        study_of(isoflop, surface, differences),
        forms,
        forms.chosen,
    ]
    return {type(one): one for one in found}


def tuned():
    """Five rates at three sizes and two lengths of one model."""
    N, D, lr = (
        v.ravel() for v in np.meshgrid([1e7, 3e7, 1e8], [1e9, 1e10], 2.0 ** np.arange(-9, -4))
    )
    best = 0.008 * (N / 3e7) ** -0.3 * (D / 3e9) ** 0.1
    noise = np.random.default_rng(0).normal(0, 0.002, len(N))
    loss = 3 + 0.05 * np.log(lr / best) ** 2 + noise
    columns = {"n_params": N, "n_tokens": D, "lr": lr, "loss": loss, "status": "done"}
    return analysis.check_table(pd.DataFrame({"model": "dense", **columns}))


def adapted():
    """Two ways to adapt a model, of two seeds each."""
    runs = table().iloc[:4].reset_index(drop=True)
    starts = {"before.validation.loss": 3.0, "before.wikitext2.loss": 3.4, "wikitext2.loss": 3.4}
    ways = {"init.how": ["beside", "beside", "keep", "keep"], "n_trained_params": 1e6}
    return runs.assign(loss=[2.5, 2.6, 2.3, 2.2], **starts, **ways, **{"init.train": "layer"})


def grown():
    """Few experts, many, and few that became many, of two seeds each, at equal FLOPs."""
    runs = table().iloc[:6].reset_index(drop=True)
    grew, throughout = [5e11] * 2, [1e12] * 4
    return runs.assign(
        model="peer",
        loss=[4.0, 4.1, 3.0, 3.1, 3.3, 3.2],
        budget=[*throughout, *grew],
        n_experts=[64, 64, 256, 256, 256, 256],
        run_id=list("abcdef"),
        **{"init.how": [None] * 4 + ["bias"] * 2, "init.parent.run_id": [None] * 4 + ["p"] * 2},
        **{"init.parent.n_experts": [None] * 4 + [64.0] * 2},
        **{"init.parent.flops": [None] * 4 + [5e11] * 2},
    )


def held(runs):
    """One primary contrast that was registered."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registered.yaml"
        primary = "{name: a, kind: difference, layer: peer, baseline: dense, budgets: [1e19]"
        path.write_text(
            f"layers: [dense, peer]\nbudgets: [1e18, 1e19]\nx: n_params\nprimaries:\n- {primary}, "
            "refuted_if: above 0}\n"
        )
        return analysis.hold_to(analysis.read_registration(path), runs)


def by_domain():
    own = of_documents.runs()
    documents = of_documents.scored(own, domains=("news", "poems"))
    return analysis.contrast_parts(own, documents, "d_model")


def chosen():
    """Three comparisons of ways to choose adapters."""
    with tempfile.TemporaryDirectory() as folder:
        return analysis.compare_libraries(written(Path(folder), three()))


def streamed():
    """Two runs of one stream."""
    return [stream_run(seed, [[3.0, 3.0], [2.0, 3.1], [2.3, 1.9 + seed]]) for seed in (0, 1)]


def study_of(isoflop, surface, differences):
    return Study(
        table=table(),
        x_name="n_params",
        isoflop=isoflop,
        agreement=None,
        hold_out=None,
        parametric={"dense": surface},
        experts={},
        expert_runs={},
        slopes={},
        multipliers=None,
        differences={1e19: differences},
        budget_multipliers=None,
        differences_over_sizes={},
        cautions=("one seed",),
        missing=(("agreement", "left out"),),
    )


def test_each_class_of_results_is_here_and_public():
    assert set(RESULTS) == set(results())
    assert study.Study in RESULTS
    public = {getattr(analysis, name) for name in analysis.__all__}
    assert set(RESULTS) - public == {study.Study}


@pytest.mark.parametrize("kind", RESULTS, ids=lambda c: c.__name__)
def test_a_result_has_the_face_of_results(kind):
    result = results()[kind]
    assert isinstance(result.status, FitStatus)
    assert all(isinstance(text, str) and text for text in result.warnings)
    assert isinstance(result.warnings, tuple)
    if result.warnings:
        assert result.status is not FitStatus.CONVERGED
    text = result.summary()
    assert str(result) == f"{result}" == text
    assert len(text.splitlines()) >= 1
    assert len(repr(result)) < 100
    assert type(result).__name__ in repr(result)
    assert str(result.status) in repr(result)
    frame = result.to_frame()
    assert len(frame) >= 1
    page = result._repr_html_()
    assert page.count("<tr") == len(frame) + 1
    assert page.count("<li>") == len(result.warnings)
    values = result.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["status"] == str(result.status)
    assert values["warnings"] == list(result.warnings)


@pytest.mark.parametrize("kind", RESULTS, ids=lambda c: c.__name__)
def test_a_result_is_frozen_and_documented(kind):
    result = results()[kind]
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.status = FitStatus.CONVERGED
    assert inspect.getdoc(kind)
    assert inspect.getdoc(kind.summary)


AT = {  # what a fit predicts at
    "PowerLaw": (1e18,),
    "CurveFit": (annealed("linear", 300),),
    "FormFit": ({"n_examples": [1e3]},),
    "FrontierFit": (1e18,),
    "ParametricFit": (1e7, 1e9),
    "RateLaw": ({"n_params": 1e7, "n_tokens": 1e9},),
    "SurfaceFit": (1e7, 1e9),
    "ExpertLawFit": (1e8, 16),
    "IsoFLOPCurve": (1e7,),
    "IsoFLOPFit": (1e18, "dense"),
}


@pytest.mark.parametrize("kind", FITS, ids=lambda c: c.__name__)
def test_a_fit_has_the_face_of_fits(kind):
    fit = results()[kind]
    names = list(fit.params)
    assert names
    assert list(fit.bse) == names
    frame = fit.conf_int()
    assert list(frame.index) == names
    assert list(frame.columns) == ["lower", "upper"]
    known = [n for n in names if frame.loc[[n]].notna().to_numpy().all()]
    assert known
    for name in known:
        low, high = fit.bounds(name)
        assert low <= fit.params[name] <= high
        assert fit.bse[name] >= 0
        narrow = fit.bounds(name, 0.5)
        assert low <= narrow[0] <= narrow[1] <= high
    predicted = fit.predict(*AT[kind.__name__])
    assert isinstance(predicted, Prediction)
    assert predicted.level == 0.95
    assert (predicted.lower <= predicted.value).all()
    assert (predicted.value <= predicted.upper).all()
    values = fit.to_dict()
    if kind.__name__ != "IsoFLOPFit":  # its curves and laws hold theirs
        assert values["params"] == fit.params  # to the digit
        assert values["bse"] == {n: None if np.isnan(v) else v for n, v in fit.bse.items()}
        assert set(values["conf_int"]) == set(names)
        assert all(values["conf_int"][name] == frame.loc[name].tolist() for name in known)
        assert tuple(values.get("estimates", ())) == getattr(fit, "estimates", ())
        assert "draws" not in values


# What is new in a curve's face, beside the runs it is of


def test_a_curve_s_errors_are_those_of_its_regression():
    """Standard errors and the interval of the curve against numpy's covariance of a parabola."""
    curve = fit_isoflop(table(), method="parabola", n_draws=20).curves[0]
    u, losses = np.log(curve.sizes), np.array(curve.losses)
    middle = u.mean()
    theta, unscaled = np.polyfit(u - middle, losses, 2, cov="unscaled")
    covariance = curve.noise**2 * unscaled
    a, b, _ = theta
    gradient = np.array([b / (2 * a**2), -1 / (2 * a), 0.0])
    se = np.exp(middle - b / (2 * a)) * np.sqrt(gradient @ covariance @ gradient)
    assert curve.bse["x_opt"] == pytest.approx(se, rel=1e-6)
    v = -b / (2 * a)
    at = np.array([v**2, v, 1.0])
    assert curve.bse["loss_opt"] == pytest.approx(np.sqrt(at @ covariance @ at), rel=1e-6)
    x = np.array([2e6, 3e7])
    w = np.log(x) - middle
    rows = np.stack([w**2, w, np.ones(2)], axis=1)
    spread = np.sqrt(np.einsum("ni,ij,nj->n", rows, covariance, rows))
    half = stats.t.ppf(0.95, curve.dof) * spread
    found = curve.predict(x, level=0.9)
    np.testing.assert_allclose(found.value, rows @ theta, rtol=1e-9)
    np.testing.assert_allclose(found.upper - found.value, half, rtol=1e-6)
    np.testing.assert_allclose(found.value - found.lower, half, rtol=1e-6)


def test_a_curve_s_interval_at_its_own_level_is_the_stored_one():
    curve = results()[analysis.IsoFLOPCurve]
    assert tuple(curve.conf_int().loc["x_opt"]) == curve.x_interval
    near = curve.conf_int(0.95 + 1e-12)
    assert tuple(near.loc["x_opt"]) == pytest.approx(curve.x_interval, rel=1e-6)
    assert tuple(near.loc["loss_opt"]) == pytest.approx(curve.loss_interval, rel=1e-9)


def test_an_interpolated_curve_says_what_it_does_not_know():
    curve = fit_isoflop(table(), method="akima", n_draws=20).curves[0]
    assert tuple(curve.conf_int().loc["loss_opt"]) == curve.loss_interval
    with pytest.raises(ValueError, match=r"level=0\.9: intervals of method='akima' are at 0\.95"):
        curve.conf_int(0.9)
    assert np.isnan(curve.bse["x_opt"])
    found = curve.predict(curve.sizes[2])
    assert found.value == pytest.approx(curve.losses[2])
    assert np.isnan(found.lower).all()


def test_a_fit_of_curves_predicts_by_its_laws():
    fit = results()[analysis.IsoFLOPFit]
    law = fit.law("peer").laws
    for name, by in ((None, law["n_params"]), ("loss", law["loss"])):
        found = fit.predict([1e18, 1e19], "peer", name, 0.9)
        np.testing.assert_array_equal(found.value, by.predict([1e18, 1e19], 0.9).value)
        np.testing.assert_array_equal(found.lower, by.predict([1e18, 1e19], 0.9).lower)
    with pytest.raises(ValueError, match="quantity='size' is not one of n_params"):
        fit.predict(1e18, "peer", "size")


def test_warnings_of_a_study_are_those_of_its_results():
    found = results()[Study]
    assert list(found.results) == ["isoflop", "parametric dense", "differences 1e+19"]
    for name, part in found.results.items():
        assert all(f"{name}: {text}" in found.warnings for text in part.warnings)
    assert found.warnings[-1] == "one seed"
    assert "not fitted: agreement: left out" in found.summary()


def test_what_a_page_shows_is_escaped():
    odd = dataclasses.replace(results()[analysis.Plan], warnings=("<b>&</b>",))
    assert "<li>&lt;b&gt;&amp;&lt;/b&gt;</li>" in odd._repr_html_()

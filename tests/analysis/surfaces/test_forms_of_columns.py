"""Forms in other columns: known ones come back, and what can't be fitted is refused or flagged."""

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.fitting.status import FitError
from analysis.one_a_file import find
from analysis.surfaces import forms
from analysis.surfaces.columns import load_columns
from analysis.surfaces.compare import compare_surfaces
from analysis.surfaces.form import Form, is_share
from analysis.surfaces.form_compare import compare_forms
from analysis.surfaces.form_fit import fit_form, read_points
from analysis.surfaces.forms import FORMS
from tests.analysis.surfaces.made_forms import MADE
from tests.analysis.surfaces.simulated_forms import SUBJECTS


def own_form(name):
    _, runs, _ = MADE[name]
    form = FORMS[name]
    return form.of_table(runs) if form.of_table else form


def fitted(name, noise=0.0, seed=0, n_draws=0, keep=slice(None)):
    law, runs, truth = MADE[name]
    runs = runs[keep].reset_index(drop=True)
    loss = law(runs) + noise * np.random.default_rng(seed).normal(size=len(runs))
    form = own_form(name)
    return fit_form(form, read_points(form, runs), loss, n_draws=n_draws, tested=False), truth


@pytest.mark.parametrize("name", FORMS)
def test_derivatives_are_those_by_differences(name):
    law, runs, _ = MADE[name]
    form, some = own_form(name), runs.iloc[::7]
    at, loss = read_points(form, some), law(some).to_numpy()
    centre = at.centre()
    start = form.start(at, centre, loss, ())
    assert (start.lower < start.upper).all()
    assert start.starts.shape[1] == len(start.lower) == len(form.names)
    assert {n for names in form.tells.values() for n in names} <= set(form.names)
    model = form.model(at, centre)
    theta = start.starts[:2] + np.random.default_rng(1).normal(0, 0.03, (1, len(form.names)))
    _, jacobian = model(theta)
    for j in range(theta.shape[1]):
        h = 1e-6 * np.eye(theta.shape[1])[j]
        numeric = (model(theta + h)[0] - model(theta - h)[0]) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, j], numeric, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", FORMS)
def test_a_clean_form_comes_back(name):
    fit, truth = fitted(name)
    assert {n: fit.params[n] for n in truth} == pytest.approx(truth, rel=1e-3)
    assert fit.scatter < 1e-6


def coverage(name, n_tables, n_draws):
    """Share of 95 % intervals that hold the true parameters, and the loss beyond the runs."""
    law, runs, _ = MADE[name]
    first = own_form(name).edges[0]
    far = runs.assign(**{first: runs[first] * (1.0 if first.startswith("share") else 3.0)}).iloc[
        -1:
    ]
    held = []
    for seed in range(n_tables):
        fit, truth = fitted(name, 0.004, seed, n_draws)
        bounds = fit.conf_int()
        held += [bounds.lower[n] <= value <= bounds.upper[n] for n, value in truth.items()]
        band, exact = fit.predict(far), float(law(far).iloc[0])
        held.append(float(band.lower[0]) <= exact <= float(band.upper[0]))
    return float(np.mean(held))


@pytest.mark.parametrize("name", FORMS)
def test_a_noisy_form_is_within_its_intervals(name):
    # By the noise of seed 0, k of `parallel` is outside by 3e-5 of itself
    fit, truth = fitted(name, 0.004, seed=1, n_draws=400)
    bounds = fit.conf_int(level=0.99)
    for parameter, value in truth.items():
        assert bounds.lower[parameter] <= value <= bounds.upper[parameter], parameter


@pytest.mark.night
@pytest.mark.parametrize("name", FORMS)
def test_intervals_hold_the_truth_over_many_draws(name):
    n = 20 if FORMS[name].subject == "rates" else 60
    held = coverage(name, n, 200)
    print(f"{name}: {held:.3f}")
    assert held >= 0.9


@pytest.mark.parametrize("name", ["rectified", "data_mixing", "parallel"])
def test_an_interval_beyond_the_runs_holds_more_than_noise(name):
    law, runs, _ = MADE[name]
    columns = runs.assign(other=1.0)
    loss = law(runs) + 0.004 * np.random.default_rng(2).normal(size=len(runs))
    found = compare_forms(columns, loss, FORMS[name].subject, n_draws=60)
    assert found.chosen.form_name == name
    assert len(found.edges) >= 1
    law_band, run_band = found.predict(columns), found.predict(columns, new_run=True)
    assert (run_band.upper - run_band.lower > law_band.upper - law_band.lower).all()
    assert np.mean((run_band.lower <= loss) & (loss <= run_band.upper)) >= 0.9
    name = next(edge.name for edge in found.edges if edge.name in runs)
    if not is_share(name):
        with pytest.warns(UserWarning, match=f"100 times the largest {name} of the runs"):
            found.predict({**runs.iloc[:1], name: 100 * runs[name].max()})


def test_held_out_runs_choose_the_form_that_is_true():
    law, runs, _ = MADE["nested"]
    loss = law(runs) + 0.003 * np.random.default_rng(0).normal(size=len(runs))
    how = {"forms": ["step_law", "porian", "nested"], "n_draws": 0}
    found = compare_forms(runs, loss, "rates", **how)
    assert found.chosen.form_name == "nested"
    # Two of four sizes, or token counts, are more than two fifths
    one_of_four, of_product = len(runs) // 4, [edge.n_held for edge in found.edges[2:]]
    assert [edge.n_held for edge in found.edges[:2]] == [one_of_four] * 2
    assert 0.1 < of_product[0] / len(runs) <= 0.2 < of_product[1] / len(runs) <= 0.4
    assert [edge.name for edge in found.edges] == [
        "n_params", "n_tokens", "n_params*n_tokens", "n_params*n_tokens",
    ]  # fmt: skip
    assert found.held_out["nested"] < 0.5 * found.held_out["porian"]
    assert "porian" in found.summary()


def test_an_exponent_that_changes_is_an_error_beyond_the_runs():
    """Noise alone hardly widens an interval by what the edges say; another law does, far out."""
    of = SUBJECTS["vocabulary"]
    noise, widths = 0.004 * np.random.default_rng(0).normal(size=len(of.runs)), []
    for law in (of.law, of.other):
        found = compare_forms(of.runs, law(of.runs) + noise, forms=["vocabulary"], n_draws=60)
        (fit,) = found.fits
        alone, whole = fit.alone.predict(of.places), found.predict(of.places)
        assert whole.value.tolist() == alone.value.tolist()
        widths.append((whole.upper - whole.lower) / (alone.upper - alone.lower))
    assert (widths[0] < 1.5).all()
    assert (widths[1] > 3).all()
    assert any("misses" in text for text in found.warnings)


def of_routers(path):
    """A table of two routers, with a third that dense runs alone have."""
    law, runs, _ = MADE["router_experts"]
    runs = runs.assign(loss=law(runs) + 0.003 * np.random.default_rng(3).normal(size=len(runs)))
    runs.loc[runs["n_experts"] == 1, "router"] = "none"
    runs.rename(columns={"router": "router_type"}).to_csv(path, index=False)
    return path


def test_routers_differ_and_a_dense_run_is_of_all(tmp_path):
    (runs,) = load_columns(of_routers(tmp_path / "r.csv"), "routers").values()
    found = compare_forms(runs, runs["loss"], "routers", n_draws=40)
    assert found.chosen.form_name == "router_experts"
    assert found.held_out["router_experts"] < 0.5 * found.held_out["router_one"]
    dense = [found.predict({"n_params": 1e8, "n_experts": 1, "router": r}) for r in ("hash", "x")]
    assert dense[0].value == dense[1].value == pytest.approx(1.5 + 40 * 1e8**-0.2, abs=0.01)
    sparse = found.predict({"n_params": 1e8, "n_experts": 64, "router": ["hash", "base"]})
    exact = MADE["router_experts"][0](pd.DataFrame(
        {"n_params": 1e8, "n_experts": 64.0, "router": ["hash", "base"]}
    ))  # fmt: skip
    assert sparse.value == pytest.approx(exact, abs=0.01)
    with pytest.raises(ValueError, match=r"router\[1\]='x' is not one of base, hash"):
        found.predict({"n_params": 1e8, "n_experts": 64, "router": ["hash", "x"]})


def test_a_router_that_is_missing_is_named(tmp_path):
    """Of a dense run it may be; of others it is no router of its own."""
    table = pd.read_csv(of_routers(tmp_path / "r.csv"), keep_default_na=False)
    table["router_type"] = table["router_type"].replace("none", "")
    table.to_csv(tmp_path / "dense.csv", index=False)
    (runs,) = load_columns(tmp_path / "dense.csv", "routers").values()
    assert compare_forms(runs, runs["loss"], "routers", n_draws=0).chosen.n_points == len(table)
    table.loc[7, "router_type"] = ""
    table.to_csv(tmp_path / "bad.csv", index=False)
    (runs,) = load_columns(tmp_path / "bad.csv", "routers").values()
    with pytest.raises(ValueError, match=r"router\[7\] is missing, of a run of more than one"):
        compare_forms(runs, runs["loss"], "routers")


def test_one_router_is_another_law_s(tmp_path):
    (runs,) = load_columns(of_routers(tmp_path / "r.csv"), "routers").values()
    runs = runs[runs["router"] != "base"]
    with pytest.raises(FitError, match="router has 1 value of more than one expert: a law of one"):
        compare_forms(runs, runs["loss"], "routers")


def test_runs_that_are_excluded_are_in_no_edge():
    law, runs, _ = MADE["step_law"]
    loss = law(runs).to_numpy() + 0.002 * np.random.default_rng(0).normal(size=len(runs))
    loss[::29] += 5.0
    found = compare_forms(runs, loss, forms=["step_law", "porian"], n_draws=0)
    assert len(found.edges) >= 3
    assert not any(edge.out[::29].any() for edge in found.edges)


def test_runs_that_diverged_are_excluded_and_named():
    law, runs, truth = MADE["step_law"]
    loss = law(runs).to_numpy() + 0.002 * np.random.default_rng(0).normal(size=len(runs))
    loss[::29] += 5.0
    form = own_form("step_law")
    fit = fit_form(form, read_points(form, runs), loss, n_draws=0, tested=False)
    assert fit.n_excluded == len(loss[::29])
    assert f"{fit.n_excluded} of {len(loss)} runs diverged" in fit.warnings[-1]
    assert fit.params["lr_N"] == pytest.approx(truth["lr_N"], abs=0.02)


@pytest.mark.parametrize("name", FORMS)
def test_a_column_of_one_value_is_refused_with_its_parameters(name):
    law, runs, _ = MADE[name]
    form = own_form(name)
    column, names = list(form.tells.items())[-1]
    same = runs.assign(**{column: runs[column].iloc[0]})
    with pytest.raises(FitError, match=f"{column}=.*{names[0]}.*not identifiable; vary it"):
        fit_form(form, read_points(form, same), law(runs), n_draws=0)


@pytest.mark.parametrize("name", FORMS)
def test_too_few_runs_and_absent_columns_are_refused(name):
    law, runs, _ = MADE[name]
    form = own_form(name)
    few = runs.iloc[: len(form.names)]
    with pytest.raises(FitError, match=f"for the {len(form.names)} parameters of {name}"):
        fit_form(form, read_points(form, few), law(few), n_draws=0)
    absent, column = form.reads[-1], form.needs_columns[-1]
    with pytest.raises(ValueError, match=rf"give {absent}"):
        read_points(
            form, runs[[c for c in runs if c != absent]].drop(columns=absent, errors="ignore")
        )
    with pytest.raises(ValueError, match=rf"{column}\[0\]=-1.0 must be"):
        read_points(form, runs.assign(**{column: -1.0}))


X = np.geomspace(1e3, 1e7, 16)
TURNS = {  # losses that rise again, or fall in two steps
    "U": lambda x: 2 + 0.1 * (np.log(x / 1e5)) ** 2 / 4,
    "double descent": lambda x: 2 + 3 * x**-0.2 + 0.6 * np.exp(-((np.log(x / 1e5)) ** 2) / 2),
}


@pytest.mark.parametrize("shape", TURNS)
def test_losses_that_rise_again_are_flagged_in_each_form_of_one_column(shape):
    """U shapes in examples and in streams: a fit says that the form is another."""
    noise = 0.005 * np.random.default_rng(0).normal(size=(6, len(X)))
    loss = TURNS[shape](X)
    found = compare_forms({"n_examples": X}, loss + noise[0], "fine_tuning", n_draws=20)
    assert any("misses the runs in a pattern" in text for text in found.warnings)
    runs = pd.DataFrame({"n_params": np.tile(X * 1e3, 3), "n_streams": np.repeat([1.0, 2, 4], 16)})
    losses = np.tile(loss, 3) - 0.05 * np.log(runs["n_streams"]) + noise[:3].ravel()
    found = compare_forms(runs, losses, "streams", n_draws=20)
    assert any("misses the runs in a pattern" in text for text in found.warnings)


@pytest.mark.parametrize("column", ["N", "D"])
@pytest.mark.parametrize("shape", TURNS)
def test_losses_that_rise_again_are_flagged_in_surfaces_of_size_and_tokens(shape, column):
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7)))
    x = n / 1e4 if column == "N" else d / 1e6
    loss = TURNS[shape](x) + 300 * (d if column == "N" else n) ** -0.3
    loss = loss + 0.005 * np.random.default_rng(0).normal(size=len(loss))
    found = compare_surfaces(n, d, loss, ("chinchilla", "over_trained"), n_draws=0)
    assert found.missed or found.bent
    assert found.status.value != "converged"


def test_a_file_without_its_form_is_named(tmp_path, monkeypatch):
    (tmp_path / "nameless.py").write_text("FORM = 3\n")
    monkeypatch.setattr(forms, "__path__", [*forms.__path__, str(tmp_path)])
    with pytest.raises(ValueError, match="nameless needs FORM = a Form with name='nameless'"):
        find(forms.__name__, forms.__path__, "FORM", Form)


def written(path, name, **renamed):
    law, runs, _ = MADE[name]
    noise = 0.004 * np.random.default_rng(0).normal(size=len(runs))
    runs.assign(loss=law(runs) + noise).rename(columns=renamed).to_csv(path, index=False)
    return path


def test_columns_have_the_names_that_others_give_them(tmp_path):
    path = written(tmp_path / "v.csv", "vocabulary", loss="Lossu", n_characters="num_characters")
    runs = load_columns(path, "vocabulary")["runs"]
    assert {"n_vocab_params", "n_tokens", "n_characters", "loss"} <= set(runs)
    assert (runs["loss"] < 0).any()
    path = written(tmp_path / "p.csv", "parallel", n_streams="parallel_size", n_params="N")
    assert set(load_columns(path, "streams")["runs"]) == {"n_params", "n_streams", "loss"}


def test_a_loss_beside_another_is_said(tmp_path):
    path = written(tmp_path / "t.csv", "step_law")
    table = pd.read_csv(path)
    table.assign(**{"smooth loss": table["loss"]}).to_csv(path, index=False)
    (runs,) = load_columns(path, "rates").values()
    (said,) = runs.attrs["warnings"]
    assert said.startswith("the loss is column loss; smooth loss may be it too: ")
    (runs,) = load_columns(path, "rates", columns={"loss": "smooth loss"}).values()
    assert not runs.attrs["warnings"]


def test_each_domain_s_loss_and_each_model_is_a_series(tmp_path):
    law, runs, _ = MADE["data_mixing"]
    names = {name: name.replace("share.", "proportion_") for name in runs}
    table = runs.rename(columns=names).assign(loss_web=law(runs), loss_code=law(runs) + 1)
    table.to_csv(tmp_path / "m.csv", index=False)
    assert list(load_columns(tmp_path / "m.csv", "mixture")) == ["loss on web", "loss on code"]
    table.iloc[3, 0] = 50.0
    table.to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(ValueError, match=r"line 5: the shares of the domains sum to .* not to 1"):
        load_columns(tmp_path / "bad.csv", "mixture")
    law, runs, _ = MADE["rectified"]
    both = pd.concat([runs.assign(model=m, loss=law(runs)) for m in ("a", "b")])
    both.to_csv(tmp_path / "f.csv", index=False)
    assert list(load_columns(tmp_path / "f.csv", "fine_tuning")) == ["a", "b"]
    assert list(load_columns(tmp_path / "f.csv", "fine_tuning", series=[])) == ["runs"]


@pytest.mark.parametrize(
    ("of", "name", "change", "message"),
    [
        ("streams", "parallel", {"n_streams": "z"}, "parallel needs n_streams; found n_params, z"),
        ("rates", "parallel", {}, "nested needs n_tokens and lr and batch"),
        ("streams", "parallel", {"loss": "q"}, "no column loss; found n_params, n_streams, q"),
        ("mixture", "parallel", {}, "needs share.NAME of two domains or more"),
        (
            "routers",
            "router_one",
            {"router": "q"},
            "no column router; found n_params, n_experts, q",
        ),
        ("routers", "router_one", {"n_experts": "q"}, "needs n_experts"),
    ],
)
def test_a_column_that_lacks_is_named(tmp_path, capsys, of, name, change, message):
    path = written(tmp_path / "t.csv", name, **change)
    assert main(["surfaces", str(path), "--of", of]) == 2
    assert message in capsys.readouterr().err


def test_negative_losses_are_for_the_vocabulary_alone(tmp_path):
    law, runs, _ = MADE["parallel"]
    runs.assign(loss=law(runs) - 3).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"line 2: loss=-.* must be above 0: only forms"):
        load_columns(tmp_path / "t.csv", "streams")


def test_the_command_compares_prints_and_draws(tmp_path, capsys):
    path = written(tmp_path / "p.csv", "parallel")
    how = ["--of", "streams", "--draws", "40", "--out", str(tmp_path / "o")]
    assert main(["surfaces", str(path), *how]) == 0
    printed = capsys.readouterr().out
    assert "chosen: parallel: L = E + (A/(N (1 + k ln P)))^alpha" in printed
    assert (tmp_path / "o" / "surfaces.png").stat().st_size > 1000
    assert '"chosen": "parallel"' in (tmp_path / "o" / "surfaces.json").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--form", "parallel"], "--form parallel is of --of streams; give it too"),
        (["--of", "rates", "--form", "parallel"], "parallel is of streams"),
        (["--of", "rates", "--hold-out", "size"], "--hold-out is of --of size alone"),
        (["--of", "rates", "--table", "flops=6nd"], "--table flops is of --of size alone"),
    ],
)
def test_options_of_size_and_of_others_do_not_mix(tmp_path, capsys, more, message):
    path = written(tmp_path / "p.csv", "parallel")
    assert main(["surfaces", str(path), *more]) == 2
    assert message in capsys.readouterr().err

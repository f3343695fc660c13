"""Which documents were held out, as an error of contrasts: against resampled documents."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from analysis import compute_contrasts
from analysis.contrast.beside import OfDocuments, of_documents
from analysis.contrast.points import make_points
from analysis.table.documents import Documents, Scored
from tests.analysis.contrast.test_contrast import made

N_TOKENS = np.array([400.0, 90, 60, 250, 30, 700, 120, 45, 80, 500, 15, 300])


def scored(table, *, sd=0.05, seed=0, domains=(), n_tokens=N_TOKENS):
    """Documents whose losses add up to the runs' own; a layer has its own part in each."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.5, len(n_tokens))
    own = {layer: rng.normal(0, sd, len(n_tokens)) for layer in dict.fromkeys(table["series"])}
    nats = {}
    for run, layer, loss in zip(table["run_id"], table["series"], table["loss"], strict=True):
        each = shared + own[layer]
        each = each - (each @ n_tokens) / n_tokens.sum()
        nats[run] = (float(loss) + each) * n_tokens
    domain = np.arange(len(n_tokens)) % max(len(domains), 1)
    return Documents(
        nats=nats,
        of=dict.fromkeys(nats, "a"),
        sets={"a": Scored(n_tokens=n_tokens, domains=tuple(domains), domain=domain)},
    )


def with_repeated(documents, n_repeated=N_TOKENS // 4, seed=5):
    """Same documents; of each some targets are repeated, and a run knows these as it does."""
    rng = np.random.default_rng(seed)
    share = {run: rng.uniform(0.599, 0.601) for run in documents.nats}
    return replace(
        documents,
        kinds={
            "repeated": {
                run: nats * n_repeated / N_TOKENS * np.where(n_repeated < N_TOKENS, share[run], 1)
                for run, nats in documents.nats.items()
            }
        },
        sets={"a": replace(documents.sets["a"], n_of={"repeated": n_repeated})},
    )


def runs(seed=1, **options):
    table = made(np.random.default_rng(seed), **options)
    return table.assign(run_id=[f"r{i}" for i in range(len(table))])


def test_the_error_of_documents_is_that_of_documents_drawn_again():
    """A difference of lowest losses, refitted to losses in documents that are drawn with
    replacement: written out, and the linearised one is within what 4,000 draws tell.
    """
    table = runs(sd=0.002)
    documents = scored(table)
    by_run = np.array([documents.nats[run] for run in table["run_id"]])
    found = compute_contrasts(table, "d_model", documents=documents, errors="seeds")
    one = next(d for d in found.differences if d.name == "peer-dense@1e12")
    rng = np.random.default_rng(2)
    drawn = rng.integers(len(N_TOKENS), size=(4000, len(N_TOKENS)))
    losses = by_run[:, drawn].sum(axis=2) / N_TOKENS[drawn].sum(axis=1)
    again = lowest(table, losses, "peer") - lowest(table, losses, "dense")
    by_documents = one.se**2 * one.shares["documents"]
    # plug-in resampling has (D - 1) / D of the variance
    want = np.var(again) * len(N_TOKENS) / (len(N_TOKENS) - 1)
    assert by_documents == pytest.approx(want, rel=0.15)  # a ratio's second order, and 4,000 draws


def lowest(table, losses, layer):
    """Of one curve at 1e12, weighed by seeds as the fit is, curvature of all curves by itself.
    losses: (runs, draws), a fit to each draw.
    """
    own = (table["budget"] == 1e12).to_numpy()
    frame = table[own]
    u = np.log(frame["d_model"].to_numpy(float)) - np.log(64)
    names = np.array(["dense", "none", "peer"])
    cells = (frame["series"].to_numpy()[:, None] == names).astype(float)
    noise = np.where(frame["series"] == "peer", 2.0, 1.0)  # of classes by test, nearly
    X = np.hstack([cells, cells * u[:, None], (u**2)[:, None]]) / noise[:, None]
    theta = np.linalg.lstsq(X, losses[own] / noise[:, None], rcond=None)[0]
    i = ["dense", "none", "peer"].index(layer)
    return theta[i] - theta[3 + i] ** 2 / (4 * theta[6])


def test_a_ratio_s_error_is_written_out():
    """Two points and five documents, by sums."""
    n = np.array([10.0, 20, 5, 40, 25])
    nats = np.array([[31.0, 50, 16, 120, 70], [29.0, 52, 14, 118, 75]])
    residuals = []
    for row in nats:
        loss = sum(row) / sum(n)
        residuals.append([(s - loss * k) / sum(n) for s, k in zip(row, n, strict=True)])
    found = OfDocuments(residuals=np.array(residuals), n_tokens=n).error(np.array([1.0, -1.0]))
    differences = [a - b for a, b in zip(*residuals, strict=True)]
    assert sum(differences) == pytest.approx(0, abs=1e-12)
    assert found.se == pytest.approx((5 / 4 * sum(d**2 for d in differences)) ** 0.5)
    assert found.dof == pytest.approx(100**2 / (100 + 400 + 25 + 1600 + 625) - 1)


def test_degrees_of_freedom_are_documents_less_1_where_all_are_as_long():
    found = OfDocuments(residuals=np.eye(8), n_tokens=np.full(8, 30.0)).error(np.ones(8))
    assert found.dof == pytest.approx(7)


def test_an_interval_is_the_noise_s_and_the_documents_in_quadrature():
    table = runs()
    alone = compute_contrasts(table, "d_model")
    both = compute_contrasts(table, "d_model", documents=scored(table))
    for a, b in zip(alone.differences, both.differences, strict=True):
        points = make_points(table, "d_model")
        assert b.value.value == a.value.value
        assert sum(b.shares.values()) == pytest.approx(1)
        error = b.se * b.shares["documents"] ** 0.5
        dof = of_documents(points, scored(table)).error(np.ones(len(points.u))).dof
        half = stats.t.ppf(0.975, dof) * error
        assert b.value.upper - b.value.value == pytest.approx(
            np.hypot(a.value.upper - a.value.value, half)
        )
        assert a.shares == {"noise": 1.0}
        assert b.p > a.p
        again = compute_contrasts(table, "d_model", documents=scored(table), level=1 - b.p)
        own = next(d for d in again.differences if d.name == b.name)
        end = own.value.upper if own.value.value < 0 else own.value.lower
        assert end == pytest.approx(0, abs=1e-8)
    assert "which documents were held out, 12 (2,590 tokens)" in both.summary()
    assert "share_documents" in both.to_frame()
    assert "share_documents" not in alone.to_frame()


def test_documents_that_all_layers_find_as_hard_are_no_error_of_a_difference():
    table = runs()
    found = compute_contrasts(table, "d_model", documents=scored(table, sd=0.0))
    for one in found.differences:
        assert one.shares["documents"] < 1e-20
    assert max(m.loss.upper - m.loss.lower for m in found.minima) > 0.3  # a loss has it


def test_no_seed_narrows_the_error_of_documents():
    table = runs(sd=0.001)
    found = compute_contrasts(
        table, "d_model", documents=scored(table, sd=0.2), stop=0.004, errors="seeds"
    )
    assert {one.seeds for one in found.needed} == {None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, run: d.of.pop(run), r"1 of 42 runs have none in the record: r3"),
        (lambda d, run: d.damaged.update({run: "torn"}), r"1 of 42 runs have damaged ones: r3 \("),
        (lambda d, run: d.of.update({run: "b"}), r"runs were scored on 2 sets of documents, e.g."),
    ],
)  # fmt: skip
def test_intervals_lack_the_documents_that_not_all_runs_share_and_say_why(change, message):
    table = runs()
    documents = scored(table)
    own = Documents(nats=documents.nats, of=dict(documents.of), sets=documents.sets, damaged={})
    change(own, "r3")
    found = compute_contrasts(table, "d_model", documents=own)
    plain = compute_contrasts(table, "d_model")
    assert [d.value for d in found.differences] == [d.value for d in plain.differences]
    assert any(re.search(message, text) for text in found.lacks)


def test_intervals_lack_the_documents_where_the_losses_are_of_another_text():
    table = runs()
    documents = scored(table)
    nats = {run: 1.01 * own for run, own in documents.nats.items()}
    found = compute_contrasts(table, "d_model", documents=replace(documents, nats=nats))
    assert any("these are of another text: their mean is" in text for text in found.lacks)
    assert not any("another text" in text for text in compute_contrasts(table, "d_model").lacks)

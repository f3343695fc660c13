"""docs/study.md and README: what was registered for the second edition, and what its runs say."""

import numpy as np
import pandas as pd
import pytest

from experiments.records.files import find_records, read_record
from tests.analysis.contrast.reference import Reference
from tests.study.committed import ROOT, document_table, text
from tests.study.edition_2 import (
    BUDGETS,
    CLASSES,
    FOLDER,
    SMALLER,
    answer,
    beside_smaller,
    by_targets,
    differences,
    held,
    plain,
    shown,
    targets,
    verdicts,
    with_smaller,
)
from tests.study.histories import PARTS, thinned
from tests.study.planned import planned

PAPER, README = ROOT / "docs" / "study.md", ROOT / "README.md"
LINE = text("docs/study.md")


@pytest.fixture(scope="module")
def records():
    return [read_record(path) for path in find_records(FOLDER)]


@pytest.mark.parametrize("document", [PAPER, README])
def test_the_registered_contrasts(document):
    assert document_table("registered", document)[1] == verdicts()


@pytest.mark.parametrize("document", [PAPER, README])
def test_the_differences(document):
    assert document_table("PEER minus", document)[1] == answer()


def test_the_gain_is_that_of_a_fit_written_out(records):
    """Without documents and rates its interval is narrower."""
    runs = pd.DataFrame(
        [{"layer": r.model, "budget": r.budget, "size": r.d_model, "loss": r.val_loss}
         for r in records]
    )  # fmt: skip
    of = {name: one for one, names in CLASSES.items() for name in names}
    value, low, high, _ = Reference(runs, of).difference(("peer", 1e14), ("none", 1e14))
    found = next(one.value for one in held().verdicts if one.primary.name == "gain")
    assert found.value == pytest.approx(value, abs=1e-5)
    assert found.lower < low < high < found.upper


def test_losses_by_targets():
    assert document_table("FLOPs", PAPER)[1] == [row for row in targets() if int(row[3]) > 1]


def test_the_runs_are_those_of_the_plan_and_of_clean_code(records):
    assert {point.run_id for point in planned("study_main_2")} == {r.run_id for r in records}
    assert not any(r.environment["git_dirty"] for r in records)
    assert {r.status for r in records} == {"done"}
    commits = {r.environment["git_commit"] for r in records}
    assert "of two commits" in LINE
    assert len(commits) == 2


def test_what_is_said_in_words(records):
    each = differences()
    first, last = (f"{each['none', b].multiplier.value:.2f}" for b in (1e13, 1e14))
    for name in ("docs/study.md", "README.md"):
        assert f"from {first} to {last} times" in text(name)
        assert f"below PEER by {shown(each['moe_fine', 1e14].value)}" in text(name)
    (slope,) = (one for one in held().verdicts if one.primary.name == "trend of new")
    assert f"with a slope of {shown(slope.value, '.2f')}." in LINE
    dense = [lower(each["dense", budget]) for budget in (1e13, 3e13)]
    assert "PEER is lower by {} at 1e13 and by {} at 3e13.".format(*dense) in LINE
    assert f"Here it is {dense[0]} and {lower(each['none', 1e13])}." in LINE
    assert f"Here that is {shown(each['none', 3e13].multiplier, '.2f')}." in LINE
    assert all(each["pkm", b].value.upper > 0 > each["pkm", b].value.lower for b in (1e13, 3e13))
    share = f"{each['none', 1e14].shares['rates']:.0%}".replace("%", " %")
    assert f"{share} of the variance of PEER minus no layer there is that of rates" in LINE
    assert f"models of 0.3 to {max(r.n_params for r in records) / 1e6:.0f} million" in LINE
    assert 0.25e6 < min(r.n_params for r in records) < 0.35e6


def lower(one):
    """By how much it is lower, with its interval."""
    value, low, high = one.value
    return f"{-value:.3f} ({-high:.3f} to {-low:.3f})"


def test_what_is_said_of_best_sizes():
    sizes = {(m.layer, plain(m.budget)): m for m in held().every.minima}
    names = {"none": "no layer", "moe_fine": "`moe_fine`", "peer": "PEER"}
    for budget in (3e13, 1e14):
        said = ", ".join(f"{n} at {sizes[m, budget].size.value:.0f}" for m, n in names.items())
        assert said in LINE
    outside = {(m.layer, m.budget) for m in sizes.values() if not m.inside}
    assert {layer for layer, _ in outside} == {"moe_fine"}
    assert 63.5 < sizes["moe_fine", 3e13].size.value < 64
    assert all(80 < sizes[m, 1e14].size.value < 112 for m in names)


def test_what_is_said_of_smaller_sizes():
    rows = {(layer, budget): (size, cell) for layer, budget, size, cell in beside_smaller()}
    fine, peer = rows["`moe_fine`", "3e13"], rows["peer", "3e13"]
    assert (
        f"`moe_fine`'s at {fine[0]} and PEER's at {peer[0]}, and PEER minus `moe_fine` at 3e13 "
        f"is {fine[1]}, minus no layer {rows['no layer', '3e13'][1]}."
    ) in LINE
    own = {(m.layer, plain(m.budget)): m for m in with_smaller().minima}
    assert all(own[layer, 3e13].inside for layer in ("none", "moe_fine", "peer"))
    before = {(m.layer, plain(m.budget)): m for m in held().every.minima}
    for layer in ("none", "moe_fine", "peer"):
        moved = own[layer, 1e14].loss.value - before[layer, 1e14].loss.value
        assert abs(moved) < 0.0005  # so a difference moves by less than 0.001
    smaller = [read_record(path) for path in find_records(SMALLER)]
    assert {(r.model, r.budget, r.d_model) for r in smaller} == {
        ("peer", 3e13, 48), ("moe_fine", 3e13, 48)
    }  # fmt: skip
    assert not any(r.environment["git_dirty"] for r in smaller)


def test_what_is_said_of_copying(records):
    by_run = {r.run_id: by_targets(r) for r in records}
    gap = {(r.budget, r.model): [] for r in records}
    for r in records:
        _, repeated, new = by_run[r.run_id]
        gap[r.budget, r.model].append(new - repeated)
    at = {b: [x for (budget, _), own in gap.items() if budget == b for x in own] for b in BUDGETS}
    assert all(0.97 < x < 1.02 for x in at[1e13])
    assert f"with {min(at[1e14]):.1f} to {max(at[1e14]):.1f} less" in LINE
    assert max(gap[3e13, "none"]) > max(gap[3e13, "moe_fine"]) > max(gap[3e13, "peer"])
    share = sum(records[0].documents["n_repeated"]) / sum(records[0].documents["n_tokens"])
    assert f"*repeated* targets are {100 * share:.0f} % of all" in LINE
    six = [row for row in targets() if (row[0], row[2]) == ("1e14", "6")]
    mean = {model: [float(loss) for loss in losses] for _, model, _, _, *losses in six}
    assert abs(mean["peer"][1] - mean["none"][1]) < 0.01 < mean["none"][2] - mean["peer"][2]
    apart = [p - m for p, m in zip(mean["peer"], mean["moe_fine"], strict=True)]
    assert f"`moe_fine` is {apart[0]:.3f} below PEER, all of it on repeated ones" in LINE
    assert f"on new ones they are {abs(apart[2]):.3f} apart" in LINE


def test_the_figure_is_of_these_runs():
    assert (FOLDER / "contrast_multipliers.png").read_bytes().startswith(b"\x89PNG")
    saved = pd.read_csv(FOLDER / "contrast.csv")
    found = held().to_frame()
    assert list(saved["verdict"]) == list(found["verdict"])
    for name in ("value", "value_lower", "value_upper", "p_holm"):
        assert saved[name].to_numpy() == pytest.approx(found[name].to_numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("folder", "n"), [(FOLDER, 14), (SMALLER, 2)])
def test_learning_curves_are_of_the_records(folder, n):
    curves = pd.read_csv(folder / "learning_curves.csv")
    known = {r.run_id: r for r in map(read_record, find_records(folder))}
    assert curves["run_id"].nunique() == n
    for run_id, curve in curves.groupby("run_id"):
        assert curve["step"].is_monotonic_increasing
        assert curve["n_tokens"].iloc[-1] == known[run_id].n_tokens
        assert abs(curve["loss"].iloc[-1] - known[run_id].val_loss) < 0.2


def test_a_thinned_curve_is_of_means():
    step = np.arange(10, 100_001, 10)
    history = pd.DataFrame(
        {"step": step, "n_tokens": 2 * step, "lr": 1 / step, "loss": 5 - step / 1e5}
    )
    curve = thinned(history)
    assert len(curve) <= PARTS
    assert (curve["step"].iloc[0], curve["step"].iloc[-1]) == (10, 100_000)
    before = curve["step"].shift(fill_value=0)
    middle = (before + 10 + curve["step"]) / 2  # of the steps that a row is of
    np.testing.assert_allclose(curve["loss"], 5 - middle / 1e5, atol=1e-4)

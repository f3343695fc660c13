"""A report is held to a file of what was registered: what it says, and what is refused."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from analysis import compute_contrasts, contrast_parts, hold_to, read_registration
from analysis.__main__ import main
from analysis.contrast import held
from analysis.fitting.intervals import Estimate
from tests.analysis.contrast.test_contrast import STUDY, made
from tests.analysis.contrast.test_documents import runs, scored, with_repeated

EDITION_2 = STUDY.parent / "edition_2/preregistration.yaml"
FILE = """
about: does the third layer help?
layers: [dense, none, peer, pkm]
budgets: [1e12, 1e13, 1e14]
x: d_model
classes: {sparse: [peer, pkm], rest: [dense, none]}
errors: seeds
primaries:
  - {name: gain, kind: difference, layer: peer, baseline: none, budgets: [1e13], refuted_if: holds 0}
  - {name: mean, kind: difference, layer: peer, baseline: dense, budgets: [1e12, 1e13], refuted_if: above 0}
  - {name: same, kind: equivalence, layer: none, baseline: dense, budgets: [1e12], margin: .02, family: equal, refuted_if: beyond margin}
  - {name: saved, kind: multiplier, layer: peer, baseline: none, budgets: [1e12], family: compute, refuted_if: holds 1}
  - {name: trend, kind: slope, layer: peer, baseline: none, budgets: [1e12, 1e13], family: compute, refuted_if: below 0}
  - {name: far, kind: difference, layer: peer, baseline: none, budgets: [1e14], refuted_if: holds 0}
stop: {layer: peer, baseline: none, budget: 1e13, half_width: .015, most: 8}
"""  # noqa: E501


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "registered.yaml"
    path.write_text(FILE)
    return path


def test_primaries_are_those_of_the_file_and_others_exploratory(path):
    table = made(np.random.default_rng(13), sd=0.004)
    found = hold_to(read_registration(path), table)
    by = {one.primary.name: one for one in found.verdicts}
    classes = {"sparse": ["peer"], "rest": ["dense", "none"]}
    plain = compute_contrasts(
        table, classes=classes, errors="seeds", margin=0.02, primary=["peer-dense@1e12,1e13"],
        baselines=["dense", "none"],
    )  # fmt: skip
    own = {one.name: one for one in plain.differences}
    assert by["gain"].value == own["peer-none@1e13"].value
    assert by["mean"].value == own["peer-dense@1e12,1e13"].value
    assert by["same"].p == own["none-dense@1e12"].p_equal
    assert by["saved"].value == own["peer-none@1e12"].multiplier
    logs = [np.log(own[f"peer-none@{c}"].multiplier.value) for c in ("1e12", "1e13")]
    assert by["trend"].value.value == pytest.approx((logs[1] - logs[0]) / np.log(10))
    assert by["gain"].verdict == by["mean"].verdict == by["saved"].verdict == "supported"
    assert by["same"].verdict == "refuted"
    # Holm: of the three in the family one can't be computed, and counts as the largest
    assert by["far"].verdict == "not computed"
    low, high = sorted((by["gain"].p, by["mean"].p))
    assert sorted((by["gain"].p_holm, by["mean"].p_holm)) == pytest.approx(
        [3 * low, max(3 * low, 2 * high)]
    )
    assert by["same"].p_holm == by["same"].p
    text = found.summary()
    assert hashlib.sha256(path.read_bytes()).hexdigest() in text
    assert "not computed: far: peer has no curve at 1e14" in text
    assert "rule to stop: half-width 0.015 of peer - none at 1e13, or at 8 seeds" in text
    primary, _, rest = text.partition("EXPLORATORY")
    assert "gain" in primary
    assert "Holm" not in rest
    assert "peer-none@1e13" in {one.name for one in found.every.differences}
    names = {one.name for one in found.exploratory.differences}
    assert "peer-none@1e13" not in names
    assert "peer-none@1e12" in names
    assert not any(one.primary for one in found.exploratory.differences)


def test_a_primary_of_new_targets_is_that_of_their_losses(tmp_path):
    own = "budgets: [1e13], targets: new, family: new, refuted_if: holds 0}"
    path = tmp_path / "registered.yaml"
    text = FILE.replace("budgets: [1e13], refuted_if: holds 0}", own)
    path.write_text(text)
    table = runs(13, sd=0.004)
    documents = with_repeated(scored(table))
    found = hold_to(read_registration(path), table, documents=documents)
    verdict = found.verdicts[0]
    new = contrast_parts(
        table, documents, "d_model", by="targets", errors="seeds",
        classes={"sparse": ["peer"], "rest": ["dense", "none"]}, baselines=["none"],
    )  # fmt: skip
    (one,) = [r for r in new.rows if (r.part, r.difference.name) == ("new", "peer-none@1e13")]
    assert verdict.value == one.difference.value
    assert verdict.p_holm == verdict.p  # alone in its family
    assert found.to_frame()["targets"].tolist() == ["new"] + ["all"] * 5
    # that of all targets is exploratory
    assert "peer-none@1e13" in [d.name for d in found.exploratory.differences]
    without = hold_to(read_registration(path), table, documents=scored(table)).verdicts[0]
    assert without.verdict == "not computed"
    assert without.why.startswith("new targets: 42 of 42 runs do not say")


def test_what_is_not_registered_is_in_no_fit(path):
    table = made(np.random.default_rng(14), layers=("dense", "none", "peer", "moe"))
    found = hold_to(read_registration(path), table)
    assert found.left_out == ("moe",)
    alone = hold_to(read_registration(path), table[table["series"] != "moe"])
    assert found.verdicts[:-1] == alone.verdicts[:-1]  # the last is not computed: nan


def test_choices_that_the_file_fixes_stay(path):
    table = made(np.random.default_rng(15))
    with pytest.raises(ValueError, match=r"errors='scatter' is not what .* registered: 'seeds'"):
        hold_to(read_registration(path), table, errors="scatter")
    assert hold_to(read_registration(path), table, errors="seeds").verdicts


def test_a_rule_to_stop_is_that_of_the_file(path):
    stop = read_registration(path).stop
    assert (stop.layer, stop.baseline, stop.budget) == ("peer", "none", 1e13)
    assert (stop.half_width, stop.most) == (0.015, 8)


@pytest.mark.parametrize(
    ("refuted_if", "value", "why", "p_holm", "verdict"),
    [
        ("holds 0", (-0.1, -0.2, -0.01), "", 0.01, "supported"),
        ("holds 0", (-0.1, -0.2, 0.01), "", 0.01, "open"),  # ignorance refutes nothing
        ("holds 0", (-0.1, -np.inf, np.inf), "", 1.0, "open"),
        ("holds 0", (-0.1, -0.2, -0.01), "", 0.06, "open"),
        ("holds 0", (-0.1, -0.2, 0.01), "no", 0.01, "not computed"),
        ("below 0", (-0.1, -0.2, -0.01), "", 0.01, "refuted"),
        ("below 0", (-0.1, -0.2, -0.01), "", 0.06, "open"),
        ("below 0", (0.1, 0.01, 0.2), "", 0.01, "supported"),
        ("above 1", (1.2, 1.1, 1.3), "", 0.01, "refuted"),
        ("beyond margin", (0.05, 0.03, 0.07), "", 1.0, "refuted"),
        ("beyond margin", (0.05, 0.01, 0.07), "", 1.0, "open"),
        ("beyond margin", (0.0, -0.01, 0.01), "", 0.01, "supported"),
    ],
)
def test_a_verdict_needs_the_corrected_chance_and_an_interval_that_excludes(
    path, refuted_if, value, why, p_holm, verdict
):
    first = read_registration(path).primaries[0]
    primary = replace(first, refuted_if=refuted_if, margin=0.02)
    tested = held._Tested(primary=primary, value=Estimate(*value), p=p_holm, why=why)
    assert held._judged(tested, p_holm, 0.95).verdict == verdict


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("about:", "abuot:", "the file: key 'abuot' is unknown"),
        ("x: d_model", "x: width", "x='width' is not one of d_model"),
        ("layer: peer, baseline: none, budgets", "layer: moe, baseline: none, budgets",
         "primary 'gain': layer: 'moe' is none of layers: dense, none, peer, pkm"),
        ("baseline: none, budgets: [1e13]", "baseline: none, budgets: [2e13]",
         "primary 'gain': budgets: 2e13 is none of budgets: 1e12, 1e13, 1e14"),
        ("margin: .02, ", "", "margin is of an equivalence"),
        ("margin: .02", "margin: -1", "margin=-1 must be a finite number above 0"),
        ("if: above 0", "if: beyond margin", "is not one of holds 0, above 0"),
        ("kind: slope", "kind: trend", "kind='trend' is not one of difference, equivalence"),
        ("name: mean", "name: gain", "primary 'gain' occurs more than once"),
        ("budgets: [1e12, 1e13], family", "budgets: [1e12], family", "a slope needs two budgets"),
        ("errors: seeds", "errors: seeds\nlevel: 1.5", "level=1.5 must be between 0 and 1"),
        ("errors: seeds", "errors: seeds\nlevel: 1", "level=1 must be between 0 and 1, e.g. 0.95"),
        ("most: 8", "most: 1", "most=1 must be a number of seeds, 2 or more"),
        ("most: 8", "most: none", "most='none' must be a number of seeds"),
        ("sparse: [peer, pkm]", "sparse: [peer, moe]", "class sparse: 'moe' is none of layers"),
        ("about: does", "about: &a does", "no yaml"),
        ("errors: seeds", "errors: seeds\nerrors: scatter", "key 'errors' occurs more than once"),
        ("about: does", "about: !!python/object/apply:os.system [ls] #", "no yaml"),
        ("layers: [dense", "layers: [[[[dense", "no yaml"),
    ],
)  # fmt: skip
def test_a_file_with_what_is_unknown_is_one_line(tmp_path, capsys, old, new, message):
    assert old in FILE
    path = tmp_path / "registered.yaml"
    path.write_text(FILE.replace(old, new, 1))
    if "&a" in new:
        path.write_text(path.read_text().replace("errors: seeds", "errors: *a"))
    assert main(["compare", str(STUDY), "--preregistered", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_file_that_is_absent_or_huge_is_one_line(tmp_path, capsys):
    path = tmp_path / "registered.yaml"
    for option in ("--preregistered", "--rates"):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", str(STUDY), option, str(path)])
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: argument {option}: '{path}' is no file; see ")
        assert error.count("\n") == 1
    path.write_text("a" * 100_001)
    assert main(["compare", str(STUDY), "--preregistered", str(path)]) == 2
    assert "it has 100,001 bytes, and 100,000 are the most" in capsys.readouterr().err


def test_a_value_that_no_run_has_yet_is_no_error(tmp_path):
    path = tmp_path / "registered.yaml"
    path.write_text(FILE.replace("x: d_model", "x: d_model\nwhere: {d_model: [32, 48, 64, 512]}"))
    table = made(np.random.default_rng(16))
    found = hold_to(read_registration(path), table)
    kept = table[table["d_model"] < 90]
    assert found.verdicts[0] == hold_to(read_registration(path), kept).verdicts[0]
    path.write_text(FILE.replace("x: d_model", "x: d_model\nwhere: {d_model: [512]}"))
    with pytest.raises(ValueError, match="no run has d_model=512; they have"):
        hold_to(read_registration(path), table)


def test_the_second_edition_s_file_says_what_is_missing_of_each_primary(capsys, tmp_path):
    command = ["compare", str(STUDY), "--preregistered", str(EDITION_2), "--out", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    for name in ("gain", "mechanism", "trend"):
        assert f"not computed: {name}: peer has no curve at 1e14\n" in out
        assert f"not computed: {name} of new: new targets: " in out
    assert "EXPLORATORY" in out
    values = json.loads((tmp_path / "contrast.json").read_text())
    assert [one["verdict"] for one in values["verdicts"]] == ["not computed"] * 6
    assert not any(one["primary"] for one in values["every"]["differences"])


def test_the_command_holds_the_study_to_a_file(tmp_path, capsys):
    path = tmp_path / "registered.yaml"
    path.write_text("""
layers: [dense, none, peer]
budgets: [3e12, 1e13, 3e13]
where: {n_layers: [3, 4, 5, 6, 7]}
primaries:
- {name: gain, kind: difference, layer: peer, baseline: none, budgets: [3e13], refuted_if: holds 0}
""")
    command = ["compare", str(STUDY), "--preregistered", str(path), "--out", str(tmp_path)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "not registered, so in no fit: moe, moe_fine, pkm" in out
    (verdict,) = json.loads((tmp_path / "contrast.json").read_text())["verdicts"]
    assert verdict["verdict"] == "supported"

"""Layers since 2024 (results/study/first.md): what is said of them is what the records have."""

import math
import re

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy import stats

from experiments.config.paths import conf_dir
from experiments.points.planning import make_point
from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS, ROOT, document_table, text
from tests.study.planned import planned

N_TRIALS = 4
SEEDS = {1, 2, 3}
MODELS = {
    "dense", "none", "moe_fine", "pkm", "peer", "sgatlin", "peer_narrow", "memory_plus", "omni",
    "ultramem", "stem", "engram",
}  # fmt: skip
LARGE = {("peer_narrow", 65536), ("memory_plus", 32400)}  # with PEER's parameters


CHANGED = {"omni", "ultramem", "stem", "engram"}  # since, to what their authors' code says


def cells_of(sweep):
    """(model, n_experts): its records."""
    found = {}
    for path in find_records(RESULTS / sweep):
        record = read_record(path)
        found.setdefault((record.model, record.n_experts), []).append(record)
    return found


def losses_of(cells):
    return {cell: np.array([r.val_loss for r in records]) for cell, records in cells.items()}


def compared(losses, baseline):
    """Of cells of three seeds each: a run's noise pooled over all, its degrees of freedom, half of
    the interval of a difference to the baseline, and p of each by Holm's correction. Cells may be
    of zoo and zoo_2 together, under other names.
    """
    dof = sum(len(own) - 1 for own in losses.values())
    sd = np.sqrt(sum(((own - own.mean()) ** 2).sum() for own in losses.values()) / dof)
    se = sd * np.sqrt(2 / 3)
    away = {cell: abs(own.mean() - losses[baseline].mean()) for cell, own in losses.items()}
    p = {cell: 2 * stats.t.sf(away[cell] / se, dof) for cell in losses if cell != baseline}
    holm, least = {}, 0.0
    for rank, cell in enumerate(sorted(p, key=p.get)):
        least = holm[cell] = max(least, min(1.0, p[cell] * (len(p) - rank)))
    return sd, dof, stats.t.ppf(0.975, dof) * se, holm


@pytest.fixture(scope="module")
def trials():
    return cells_of("zoo_rates")


@pytest.fixture(scope="module")
def zoo():
    return cells_of("zoo")


@pytest.fixture(scope="module")
def spoken(zoo):
    """cell: its name in the table."""
    several = {model for model, _ in LARGE}
    return {(m, n): f"`{m}`, {n:,} experts" if m in several else f"`{m}`" for m, n in zoo}


def test_every_layer_had_as_many_trials(trials):
    assert {model for model, _ in trials} == MODELS
    assert trials.keys() >= LARGE
    assert len(trials) == len(MODELS) + len(LARGE)
    for cell, records in trials.items():
        assert [r.status for r in records] == ["done"] * N_TRIALS, cell
        assert len({r.lr for r in records}) == N_TRIALS
        assert {r.seed for r in records} == {0}


def test_each_rate_is_that_of_the_best_trial(trials, zoo):
    best = {cell: min(records, key=lambda r: r.val_loss).lr for cell, records in trials.items()}
    yaml = OmegaConf.load(conf_dir() / "experiment" / "zoo.yaml")
    grids = {
        (grid["model"], grid.get("n_experts")): grid["ladder.lr"]
        for grid in yaml.hydra.sweeper.grids
    }
    own = {(m, None if (m, n) not in LARGE else n): lr for (m, n), lr in best.items()}
    assert grids == pytest.approx(own)
    for cell, records in zoo.items():
        assert {r.seed for r in records} == SEEDS
        assert {r.lr for r in records} == {best[cell]}
        assert all(r.status == "done" for r in records)


@pytest.mark.long
def test_the_layers_of_the_yamls_are_those_of_the_records(trials, zoo):
    """Though conf/model has other choices since: both yamls give the old ones, and the config of a
    record reads as the layer that it had.
    """
    ids = {r.run_id for records in zoo.values() for r in records}
    assert {point.run_id for point in planned("zoo")} == ids
    grids = [
        [
            {name: value for name, value in grid.items() if name != "ladder.lr"}
            for grid in OmegaConf.load(
                conf_dir() / "experiment" / f"{name}.yaml"
            ).hydra.sweeper.grids
            if grid["model"] in CHANGED
        ]
        for name in ("zoo", "zoo_rates")
    ]
    assert grids[0] == grids[1]
    assert [grid["model"] for grid in grids[0]] == ["omni", "ultramem", "stem", "engram"]
    for cells in (trials, zoo):
        for (model, _), (first, *_) in cells.items():
            point = make_point(dict(first.config))
            assert point.run_id == first.run_id, model
            assert point.transformer.cost().n_params == first.n_params


@pytest.mark.long
def test_the_second_set_is_of_the_changed_layers_at_the_same_rates(zoo):
    points = planned("zoo_2")
    rates = {model: records[0].lr for (model, _), records in zoo.items() if model in CHANGED}
    assert {(p.config.model_name, p.config.seed) for p in points} == {
        (model, seed) for model in CHANGED for seed in SEEDS
    }
    assert all(p.config.optim.lr == rates[p.config.model_name] for p in points)
    ids = {r.run_id for records in zoo.values() for r in records}
    assert ids.isdisjoint(p.run_id for p in points)


def test_the_second_set_s_table_is_that_of_the_records(zoo):
    page = text("results/study/first.md")
    before = {model: {r.seed: r.val_loss for r in records} for (model, _), records in zoo.items()}
    away, second = [], cells_of("zoo_2")
    assert {model for model, _ in second} == CHANGED
    for (model, _), records in second.items():
        assert {r.seed for r in records} == SEEDS
        losses = {r.seed: r.val_loss for r in sorted(records, key=lambda r: r.seed)}
        seeds, each = ", ".join(map(str, losses)), ", ".join(f"{x:.3f}" for x in losses.values())
        same = np.mean([before[model][seed] for seed in losses])
        mean = np.mean([*losses.values()])
        assert f"| `{model}` | {seeds} | {each} | {mean:.3f} | {same:.3f} |" in page
        away.append(abs(mean - same))
    _, _, half, _ = compared(losses_of(zoo), ("peer", 16384))
    assert max(away) < half
    assert f"from {half:.3f} nats on, and the largest is {max(away):.3f}" in page


def test_equal_compute_is_equal(trials, zoo):
    assert zoo.keys() == trials.keys()
    for records in (*zoo.values(), *trials.values()):
        for r in records:
            assert r.achieved_flops == pytest.approx(1e13, rel=2e-3)
            assert (r.n_layers, r.d_model) == (4, 64)
    peer = zoo["peer", 16384][0].n_params
    for cell in (*LARGE, ("sgatlin", 16384), ("engram", 131072), ("omni", 16384)):
        assert zoo[cell][0].n_params == pytest.approx(peer, rel=0.015)


def test_the_table_is_that_of_the_records(zoo, spoken):
    losses = losses_of(zoo)
    sd, dof, half, holm = compared(losses, ("peer", 16384))
    peer = losses["peer", 16384].mean()
    _, rows = document_table("layer, 1e13")
    said = {row[0]: row[1:] for row in rows}
    assert list(said) == [spoken[cell] for cell in sorted(losses, key=lambda c: losses[c].mean())]
    for cell, own in losses.items():
        first = zoo[cell][0]
        away = own.mean() - peer
        expected = [
            f"{first.n_params:,}",
            f"{first.n_tokens / 1e6:.2f} M",
            f"{first.lr:g}",
            f"{own.mean():.4f}",
            "" if cell[0] == "peer" else f"{away:.3f} ({away - half:.3f} to {away + half:.3f})",
            "" if cell[0] == "peer" else f"{holm[cell]:.2g}",
        ]
        assert said[spoken[cell]][:6] == expected, cell
    assert f"the noise of one run is {sd:.3f} nats, of {dof} degrees of freedom" in text(
        "results/study/first.md"
    )


def test_the_readme_says_how_far_others_are_from_peer(zoo):
    means = {cell: np.mean([r.val_loss for r in records]) for cell, records in zoo.items()}
    away = {cell: mean - means["peer", 16384] for cell, mean in means.items()}
    below = -away.pop(("engram", 131072))
    del away["peer", 16384]
    said = text("README.md")
    assert f"at 1e13, by {min(away.values()):.3f} to {max(away.values()):.3f}" in said
    assert f"is {below:.3f} below PEER" in said


def test_what_is_found_of_each_layer_is_in_its_section(zoo):
    """docs/layers.md names no difference that the table has not."""
    layers = (ROOT / "docs" / "layers.md").read_text()
    peer = np.mean([r.val_loss for r in zoo["peer", 16384]])
    for model in sorted(MODELS - {"dense", "none", "moe_fine", "pkm", "peer"}):
        section = layers[layers.index(f"\n## {model}\n") :]
        (found,) = re.findall(r"\*\*Found:\*\* (.*?)\n(?:- |\n)", section + "\n\n", re.DOTALL)[:1]
        away = re.findall(r"(-?\d\.\d{3})(?= nats)", " ".join(found.split()))
        own = [np.mean([r.val_loss for r in rs]) - peer for (m, _), rs in zoo.items() if m == model]
        assert away, model
        assert {f"{abs(value):.3f}" for value in own} >= {value.lstrip("-") for value in away}, (
            model
        )


def test_what_is_said_of_other_text_of_seeds_and_of_seconds(zoo):
    """Engram on foreign domains, spreads of seeds, and PEER at dense's seconds."""
    said = text("results/study/first.md")
    said = said[said.index("## Layers since 2024") :]
    peer, engram = zoo["peer", 16384], zoo["engram", 131072]
    below = [
        np.mean([r.evaluations[name]["loss"] for r in peer])
        - np.mean([r.evaluations[name]["loss"] for r in engram])
        for name in peer[0].evaluations
    ]
    assert len(below) == 3
    assert f"below PEER too, by {min(below):.3f} to {max(below):.3f}" in said
    losses = [r.val_loss for r in engram]
    assert max(losses) - min(losses) < 0.008
    first, second, third = sorted(r.val_loss for r in zoo["memory_plus", 32400])
    assert f"third seed is {third - (first + second) / 2:.2f} above" in said
    assert all(r.usage < 0.5 for r in zoo["omni", 16384])
    _, rows = document_table("layer, 1e13")
    seconds = {row[0].strip("`"): int(row[-1]) for row in rows}
    ratio = seconds["peer"] / seconds["dense"]
    assert f"PEER needs {ratio:.2f} times dense's" in said
    lead = np.mean([r.val_loss for r in zoo["dense", None]]) - np.mean([r.val_loss for r in peer])
    assert f"at equal seconds is about {lead - 0.242 * math.log(ratio):.2f}" in said
    assert f"{seconds['ultramem'] / seconds['peer']:.1f} times PEER's" in said

"""Study: its sweeps are what results/study/first.md says, and the records are runs of them."""

import re
import shlex
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from analysis.__main__ import main as analyse
from analysis.differences.models import compare_models
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.study.committed import DOCUMENT, RESULTS, ROOT, document_table
from tests.study.planned import planned

SWEEPS = ("tuning", "isoflop", "experts", "causes")
MODELS = {"dense", "none", "moe", "moe_fine", "pkm", "peer"}
N_TOKENS = 43_513_045  # of the packages' training split, in whole windows


@pytest.fixture(scope="module")
def plan():
    """plan("isoflop"): the points of that sweep."""
    plans = {}

    def points(name):
        if name not in plans:
            plans[name] = planned(f"study_{name}")
        return plans[name]

    return points


def test_every_model_has_five_sizes_at_three_budgets(plan):
    sizes = defaultdict(set)
    for point in plan("isoflop"):
        if point.config.seed == 0:
            sizes[point.config.model_name, point.config.budget].add(point.config.size)
    budgets = sorted({budget for _, budget in sizes})
    assert len(budgets) >= 3
    assert all(b / a >= 3 for a, b in pairwise(budgets))
    assert set(sizes) == {(model, budget) for model in MODELS for budget in budgets}
    assert all(len(found) >= 5 for found in sizes.values())
    assert len({frozenset(sizes[model, budgets[0]]) for model in MODELS}) == 1


def test_every_model_was_tuned_at_the_same_rates_and_only_there(plan):
    rates = defaultdict(set)
    for point in plan("tuning"):
        if point.config.budget == 3e12:
            layer = (point.config.model_name, getattr(point.config.model, "gate", None))
            rates[layer].add(point.config.ladder.lr)
    assert {model for model, _ in rates} == MODELS
    assert len({frozenset(found) for found in rates.values()}) == 1
    assert min(len(found) for found in rates.values()) >= 3
    for name in ("isoflop", "experts"):
        used = defaultdict(set)
        for point in plan(name):
            used[point.config.model_name, point.config.budget].add(point.config.ladder.lr)
        assert all(len(found) == 1 for found in used.values())


def test_the_rates_used_are_those_that_the_tuning_found(plan):
    """Lowest point of a parabola in ln(rate), at two digits; of a layer's gates the best.

    At the largest budget it is half of that, for every layer.
    """
    losses = defaultdict(dict)
    for path in find_records(RESULTS / "tuning"):
        record = read_record(path)
        if record.budget == 3e12:
            layer = (record.model, record.config["model"].get("gate"))
            losses[layer][record.config["ladder"]["lr"]] = record.val_loss
    found = {}
    for (model, gate), own in losses.items():
        rates = np.array(sorted(own))
        a, b, _ = np.polyfit(np.log(rates), [own[rate] for rate in rates], 2)
        best = (min(own.values()), float(f"{np.exp(-b / a / 2):.2g}"), gate)
        found[model] = min(found.get(model, best), best)
    for point in plan("isoflop"):
        _, rate, gate = found[point.config.model_name]
        share = 0.5 if point.config.budget == 3e13 else 1.0
        assert point.config.ladder.lr == pytest.approx(rate * share, rel=1e-9)
        assert getattr(point.config.model, "gate", None) == gate


def test_the_trunk_the_text_and_the_optimizer_are_the_same_for_all(plan):
    points = [point for name in SWEEPS for point in plan(name)]
    assert len({repr(point.config.data) for point in points}) == 1
    assert len({repr(point.config.trunk) for point in points}) == 1
    for point in points:
        assert point.config.ladder.name == "cpu"
        assert point.plan.n_tokens <= 4 * N_TOKENS
    apart_from_rate = {
        repr((o.table_lr, o.key_lr, o.weight_decay, o.beta2, o.warmup, o.grad_clip, o.schedule))
        for o in (point.config.optim for name in SWEEPS[:-1] for point in plan(name))
    }  # the causes are changes of these
    assert len(apart_from_rate) == 1


def test_what_varies_over_experts_heads_and_norms_has_three_seeds(plan):
    seeds = defaultdict(set)
    for point in plan("experts"):
        layer = point.config.model
        key = (layer.n_experts, layer.n_heads, layer.top_k, layer.query_norm)
        seeds[key].add((point.config.budget, point.config.seed))
    assert all(len(found) % 3 == 0 for found in seeds.values())
    norms = defaultdict(set)
    for n_experts, n_heads, top_k, norm in seeds:
        if (n_heads, top_k) == (4, 16):
            norms[norm].add(n_experts)
    squares = {64**2, 128**2, 256**2, 512**2}
    assert norms == {"batch": squares, "none": squares}
    active = Counter(h * k for n, h, k, norm in seeds if (n, norm) == (128**2, "batch"))
    assert sum(count > 1 for count in active.values()) >= 3  # several heads at equal h k


@pytest.mark.parametrize("name", SWEEPS)
def test_the_committed_records_are_runs_of_the_sweep(plan, name):
    planned = {point.run_id: point for point in plan(name)}
    records = [read_record(path) for path in find_records(RESULTS / name)]
    assert records
    for record in records:
        assert record.run_id in planned, f"{record.run_id} ({record.model}) is not of study_{name}"
        point = planned[record.run_id]
        assert record.n_steps == point.plan.n_steps
        assert record.n_params == point.plan.cost.n_params
        assert record.flops_per_token == point.plan.cost.training_flops
        assert record.n_tokens / record.epochs == pytest.approx(N_TOKENS, rel=1e-9)
        assert record.status == "done"


def _printed():
    """Commands of the analysis that the document shows, and the lines below each."""
    for block in re.findall(
        r"```\n\$ (python -m analysis .*?)```", DOCUMENT.read_text(), re.DOTALL
    ):
        command, *lines = block.rstrip().split("\n")
        yield shlex.split(command)[3:], lines


@pytest.mark.parametrize(("words", "lines"), list(_printed()), ids=lambda part: " ".join(part)[:60])
def test_what_the_document_shows_is_what_its_commands_print(
    words, lines, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    assert analyse([*words, "--out", str(tmp_path)]) == 0
    printed = {line.rstrip() for line in capsys.readouterr().out.split("\n")}
    assert lines
    assert [line for line in lines if line.rstrip() not in printed] == []


def test_the_document_s_foreign_domains_are_those_of_the_records():
    head, rows = document_table("budget | `hpo`")
    assert len(rows) == 3
    for row, domain in enumerate(head[1:], start=1):
        scored = f"packages/{domain.strip('`')}@max_tokens=131072.loss"
        table = load_table(RESULTS / "isoflop", columns={"loss": scored})
        for cells in rows:
            means = compare_models(table, budget=float(cells[0])).means
            d = next(m.difference for m in means if m.model == "peer")
            assert cells[row] == f"{-d.value:.3f} ({-d.upper:.3f} to {-d.lower:.3f})"


def test_the_document_s_tuning_is_that_of_the_records():
    losses = {}
    for path in find_records(RESULTS / "tuning"):
        record = read_record(path)
        if record.budget == 3e12:
            gate = record.config["model"].get("gate") if record.model == "moe" else None
            layer = f"{record.model}, {gate} gate" if gate else record.model
            losses[layer, record.config["ladder"]["lr"]] = record.val_loss
    head, rows = document_table("loss at rate")
    assert len(rows) * 3 == len(losses)
    for layer, *cells, _ in rows:
        for rate, cell in zip(head[1:], cells, strict=False):
            assert cell == f"{losses[layer, float(rate)]:.4f}"


def test_the_document_s_rates_at_the_next_budget_are_those_of_the_records():
    records = [read_record(path) for path in find_records(RESULTS / "tuning")]
    losses = {(r.model, r.config["ladder"]["lr"]): r.val_loss for r in records if r.budget == 1e13}
    head, rows = document_table("loss at 1e13 and rate")
    assert [name for name, *_ in rows] == ["dense", "peer"]
    assert len(losses) == 6
    for model, *cells in rows:
        for rate, cell in zip(head[1:], cells, strict=True):
            assert cell == f"{losses[model, float(rate)]:.4f}"


def test_the_document_s_rates_at_the_largest_budget_are_those_of_the_records(plan):
    tuned = {
        point.config.model_name: point.config.ladder.lr
        for point in plan("isoflop")
        if point.config.budget == 3e12
    }
    paths = [*find_records(RESULTS / "tuning"), *find_records(RESULTS / "isoflop")]
    shares = (1, 1 / 2, 1 / 4)

    def share(record):
        found = record.config["ladder"]["lr"] / tuned[record.model]
        return next(s for s in shares if found == pytest.approx(s, rel=0.02))  # two digits

    losses = {
        (r.model, share(r)): r.val_loss
        for r in map(read_record, paths)
        if (r.budget, r.n_layers, r.seed) == (3e13, 5, 0)
    }
    _, rows = document_table("loss at 3e13 and the tuned rate times")
    assert {name for name, *_ in rows} == MODELS
    shown = {
        (name, s): cell
        for name, *cells in rows
        for s, cell in zip(shares, cells, strict=True)
        if cell
    }
    assert shown == {key: f"{loss:.4f}" for key, loss in losses.items()}


def test_the_document_s_rates_of_tables_are_those_of_the_records():
    losses = defaultdict(list)
    for record in map(read_record, find_records(RESULTS / "causes")):
        if (record.model, record.n_experts, record.budget) == ("peer", 262144, 3e12):
            losses[record.config["optim"]["table_lr"]].append(record.val_loss)
    assert {rate: len(found) for rate, found in losses.items()} == {1: 3, 4: 3}
    half, twice = np.mean(losses[1]), np.mean(losses[4])
    assert f"they have {half:.4f} and {twice:.4f}" in " ".join(DOCUMENT.read_text().split())


def test_the_document_s_usage_is_that_of_the_records():
    table = load_table(RESULTS / "experts", where={"n_heads": ["4"], "top_k": ["16"]})
    means = table.groupby(["budget", "layer.query_norm", "n_experts"])[
        ["usage", "unevenness"]
    ].mean()
    head, rows = document_table("budget, query norm")
    assert len(rows) == 6
    for label, *cells in rows:
        setting, what = label.split(": ")
        budget, norm = setting.split(", ")
        for n_experts, cell in zip(head[1:], cells, strict=True):
            value = means.loc[(float(budget), norm, int(n_experts.replace(",", ""))), what]
            assert cell == (f"{100 * value:.1f} %" if what == "usage" else f"{value:.2f}")


def test_the_document_s_suspects_for_eight_heads_are_those_of_the_records():
    table = load_table(RESULTS / "experts", where={"query_norm": ["batch"], "budget": ["3e12"]})
    table = table[table["n_experts"] == 16384]
    of_heads = table.groupby(["n_heads", "top_k"])["loss"].mean()
    suspects = [r for r in map(read_record, find_records(RESULTS / "causes")) if r.model == "peer"]

    def mean(changed):
        losses = [r.val_loss for r in suspects if r.config["n_experts"] == 16384 and changed(r)]
        assert len(losses) == 3
        return np.mean(losses)

    found = {
        "as they are": of_heads.loc[8, 8],
        "keys": mean(lambda r: r.config["model"]["d_key"] == 16),
        "1.1 times": mean(lambda r: r.budget > 3e12),
        "half": mean(lambda r: r.config["ladder"]["lr"] == 5.5e-3),
    }
    _, rows = document_table("8 heads of 8")
    assert len(rows) == len(found)
    for (change, *cells), (start, loss) in zip(rows, found.items(), strict=True):
        assert change.startswith(start)
        assert cells == [f"{loss:.4f}", f"{loss - of_heads.loc[4, 16]:.3f}"]


def test_the_document_s_compute_is_that_of_the_records():
    _, rows = document_table("sweep")
    assert [name for name, *_ in rows] == list(SWEEPS)
    for name, *cells in rows:
        records = [read_record(path) for path in find_records(RESULTS / name)]
        hours = sum(record.wall_seconds for record in records) / 3600
        flops = sum(record.achieved_flops for record in records)
        assert cells == [str(len(records)), f"{flops:.1e}", f"{hours:.1f}"]

"""docs/parametrization.md's numbers are those of the committed records."""

import math
import re
from collections import defaultdict

import pytest

from analysis.rates.fit import fit_rates
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.conftest import REPOSITORY
from tests.study.committed import RESULTS, document_table, text

DOCUMENT = REPOSITORY / "docs" / "parametrization.md"
LINE = text("docs/parametrization.md")


def records_of(sweep):
    return [read_record(path) for path in find_records(RESULTS / sweep)]


def muon_flops(n, m):
    """Five iterations a X + (b A + c A²) X with A = X Xᵀ, X of n x m: products alone."""
    n, m = sorted((n, m))
    return 5 * (2 * n * n * m + 2 * n**3 + 2 * n * n * m)


@pytest.fixture(scope="module")
def muon():
    series = ["model", "optim.matrices"]
    table = load_table(RESULTS / "muon", series=series, keep=["batch_tokens"])
    return fit_rates(table, method="parabola", noise=0.015)


def test_the_table_of_muon_is_that_of_the_records():
    losses = {
        (r.model, r.config["optim"]["matrices"], r.config["ladder"]["lr"]): r.val_loss
        for r in records_of("muon")
    }
    heads, rows = document_table("`ladder.lr`", DOCUMENT)
    kinds = [tuple(head.lower().split(", ")) for head in heads[1:]]
    assert len(rows) * len(kinds) == len(losses) == 12
    for lr, *cells in rows:
        assert cells == [f"{losses[(*kind, float(lr))]:.4f}" for kind in kinds]


def test_muon_s_best_rates_are_those_that_the_command_prints(muon):
    printed = muon.summary().splitlines()
    start = next(i for i, line in enumerate(printed) if line.split()[:2] == ["model", "budget"])
    for line in printed[start : start + 5]:
        assert line.rstrip() in DOCUMENT.read_text(encoding="utf-8")
    best = {cell.model: cell for cell in muon.cells}
    less = [best[f"{m} adamw"].loss_opt - best[f"{m} muon"].loss_opt for m in ("dense", "peer")]
    assert f"Muon is {less[0]:.3f} nats below AdamW for dense, and {less[1]:.3f} for PEER" in LINE
    factors = sorted(
        best[f"{m} muon"].lr_opt / best[f"{m} adamw"].lr_opt for m in ("dense", "peer")
    )
    assert "by a factor of {:.1f} to {:.1f}".format(*factors) in LINE


PEER_AT_L_3 = ("peer", 2_183_168)


def test_muon_beside_the_lowest_runs_of_adamw():
    """In the repository, of the same settings and seed, but the rate."""

    def of(record):
        ours = record.sweep == "study/muon" and record.config["optim"]["matrices"] == "muon"
        return record.model, "muon" if ours else "adamw"

    same = {(r.model, r.n_params, r.n_tokens) for r in records_of("muon")}
    found = defaultdict(list)
    for sweep in ("muon", "tuning", "isoflop"):
        for r in records_of(sweep):
            if (r.model, r.n_params, r.n_tokens) in same and r.seed == 0:
                found[of(r)].append((r.val_loss, r.config["ladder"]["lr"], r.sweep))
    dense, peer = (min(found[m, "adamw"])[0] for m in ("dense", "peer"))
    assert {min(found[m, "adamw"])[2] for m in ("dense", "peer")} >= {"study/tuning"}
    assert min(len({lr for _, lr, _ in found[m, "adamw"]}) for m in ("dense", "peer")) == 6
    assert f"{dense:.4f} (dense) and {peer:.4f} (PEER), at 8e-3, in results/study/tuning" in LINE
    a, b = (min(found[m, "muon"])[0] for m in ("dense", "peer"))
    assert (
        f"of Muon, {a:.4f} and {b:.4f}, are below those by {dense - a:.3f} and {peer - b:.3f}"
        in LINE
    )
    others = [r.val_loss for r in records_of("isoflop") if (r.model, r.n_tokens) == PEER_AT_L_3]
    assert f"Another seed of PEER has {min(others):.4f} with AdamW" in LINE
    sd = 0.021
    assert (
        f"runs is {(dense - a) / sd:.1f} of that for dense, and {(peer - b) / sd:.1f} for" in LINE
    )
    worth = 0.015
    left = dense - a - worth, peer - b - worth
    assert f"lowest runs is {left[0]:.3f} for dense, and {left[1]:.3f} for PEER" in LINE


def test_what_muon_s_arithmetic_costs_and_is_worth():
    d, shares = 48, {}
    for record in records_of("muon"):
        n_dense = 3 - (record.model == "peer")
        step = 3 * (muon_flops(3 * d, d) + muon_flops(d, d)) + n_dense * 2 * muon_flops(4 * d, d)
        step += (record.model == "peer") * muon_flops(d, 4 * 32)  # its queries
        shares[record.model] = step * record.n_steps / record.achieved_flops
    said = f"{shares['dense']:.0%} of dense's FLOPs here, and {shares['peer']:.0%} of PEER's"
    assert said.replace("%", " %") in LINE
    losses = {
        budget: [
            r.val_loss
            for r in records_of("isoflop")
            if (r.model, r.config["budget"], r.config["size"]) == ("dense", budget, size)
        ]
        for budget, size in ((3e12, 3), (1e13, 4))
    }
    small, large = (sum(x) / len(x) for x in losses.values())
    worth = (small - large) * math.log(1 + shares["dense"]) / math.log(10 / 3)
    (said,) = re.findall(r"7 % more compute is worth ([\d.]+) nats", LINE)
    assert said == f"{worth:.3f}"


MODELS = ("dense", "moe_fine", "pkm", "peer")


@pytest.fixture(scope="module")
def transfer():
    """Losses of two seeds by (model, parametrization, width) and ladder.lr."""
    found = defaultdict(lambda: defaultdict(list))
    for r in records_of("transfer"):
        cell = r.model, r.config["optim"]["parametrization"], r.config["ladder"]["d_model"]
        found[cell][r.config["ladder"]["lr"]].append(r.val_loss)
    assert {len(losses) for cell in found.values() for losses in cell.values()} == {2}
    runs = records_of("transfer")
    assert {(r.n_layers, r.n_steps) for r in runs} == {(3, 320)}
    assert {r.config["optim"]["parametrization"] for r in runs} == {"sp", "mup"}
    assert f"All {len(runs)} runs have three blocks and 320 steps" in LINE
    return found


@pytest.fixture(scope="module")
def minima():
    """(ladder.lr, loss) of the parabolas by (model, parametrization, width); None without."""
    series = ["model", "optim.parametrization"]
    table = load_table(RESULTS / "transfer", series=series)
    fit = fit_rates(table, width="d_model", method="parabola")
    found = {}
    for cell in fit.cells:
        model, parametrization = cell.model.split(" ")
        d = int(cell.at["d_model"])
        nominal = math.sqrt(d / 32) if parametrization == "sp" else 1  # lr_width_exponent
        best = (cell.lr_opt * nominal, cell.loss_opt) if cell.inside else None
        found[model, parametrization, d] = best
    return found


COLUMNS = (("sp", 32), ("mup", 64), ("mup", 128), ("sp", 64), ("sp", 128))


def test_the_table_of_best_rates_is_that_of_the_records(minima):
    _, rows = document_table("layer", DOCUMENT)
    assert [row[0] for row in rows] == list(MODELS)
    for model, *cells in rows:
        best = [minima[model, *column] for column in COLUMNS]
        assert cells == [f"{one[0]:.4f}" if one else "none" for one in best]


def test_how_far_the_best_rates_move(minima):
    moved = defaultdict(list)
    for model in MODELS:
        for column in COLUMNS[1:]:
            if minima[model, *column]:
                moved[column].append(minima[model, *column][0] / minima[model, "sp", 32][0])
    ends = {column: (f"{min(x):.2f}", f"{max(x):.2f}") for column, x in moved.items()}
    said = "at four times the width is {} to {} of the base's: within a step of the grid (0.71)"
    assert said.format(*ends["mup", 128]) in LINE
    assert min(moved["mup", 128]) >= 0.5**0.5
    assert "At twice the width it is {} to {}".format(*ends["mup", 64]) in LINE
    assert "In `sp` it is {} to {} of it at four times".format(*ends["sp", 128]) in LINE
    assert min(-2 * math.log2(x) for x in moved["sp", 128]) >= 2
    less = [minima[m, "mup", 128][1] - minima[m, "sp", 128][1] for m in MODELS]
    assert (min(less), max(less)) == (less[3], less[0])
    assert f"differ by {less[3]:.3f} (PEER) to {less[0]:.3f} nats (dense)" in LINE


def test_what_a_carried_rate_costs(transfer):
    cost = defaultdict(list)
    steps = []
    for model in MODELS:
        of = {
            column: {lr: sum(x) / 2 for lr, x in transfer[model, *column].items()}
            for column in COLUMNS
        }
        base = min(of["sp", 32], key=of["sp", 32].get)
        for kind in ("mup", "sp"):
            losses = of[kind, 128]
            cost[kind].append(losses[base] - min(losses.values()))
        rates = sorted(of["mup", 128])
        lowest = min(of["mup", 128], key=of["mup", 128].get)
        steps.append(rates.index(base) - rates.index(lowest))
        if steps[-1] == 2:
            assert of["mup", 128][rates[rates.index(base) - 1]] - of["mup", 128][lowest] < 0.01
    assert f"up to {max(cost['mup']):.3f} nats above the lowest under `mup`" in LINE
    assert f"and {min(cost['sp']):.2f} to {max(cost['sp']):.2f} in `sp`" in LINE
    assert steps == [0, 2, 2, 1]
    pairs = [x for cell in transfer.values() for x in cell.values()]
    sd = math.sqrt(sum((a - b) ** 2 / 2 for a, b in pairs) / len(pairs))
    assert f"standard deviation of {sd:.3f} nats" in LINE

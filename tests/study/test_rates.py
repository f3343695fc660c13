"""docs/parametrization.md's numbers are those of the committed records."""

import math
import re

import pytest

from analysis.rates import fit_rates
from analysis.table.load import load_table
from experiments.records import find_records, read_record
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
    return fit_rates(table, noise=0.015)


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

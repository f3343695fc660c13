"""Numbers in docs that no command of the analysis prints, computed from the study's records."""

import math

import pytest

from experiments.paths import conf_dir
from experiments.records import find_records, read_record

ROOT = conf_dir().parent
RESULTS = ROOT / "results" / "study"
SEEDED = {3e12: 3, 1e13: 4, 3e13: 5}  # budget: the blocks that three seeds were run at


def text(name):
    """A document on one line, so that a sentence is found wherever it is wrapped."""
    return " ".join((ROOT / name).read_text().split())


@pytest.fixture(scope="module")
def records():
    """The 252 distinct runs: six of the isoFLOP sweep are also runs of the experts' sweep."""
    found = map(read_record, find_records(RESULTS))
    return list({record.run_id: record for record in found}.values())


@pytest.fixture(scope="module")
def one(records):
    """one("peer", 3e12, n_experts=16384): a run at that budget's seeded size, default settings."""

    def find(model, budget, n_experts=None, n_layers=None):
        return next(
            r
            for r in records
            if (r.model, r.budget) == (model, budget)
            and r.n_layers == (n_layers or SEEDED[budget])
            and (n_experts is None or r.n_experts == n_experts)
            and (model != "peer" or (heads(r), r.config["model"]["top_k"]) == (4, 16))
            and (model != "peer" or r.config["model"]["d_key"] == 32)
        )

    return find


def heads(record):
    return record.config["model"]["n_heads"]


def test_flops_md_says_how_much_elementwise_work_is_left_out(one):
    budget_of = {1: 3e12, 3: 3e12, 4: 3e12, 5: 3e12, 7: 3e13}
    cells = []
    for n_layers, budget in budget_of.items():
        record = one("dense", budget, n_layers=n_layers)
        d, seq, vocab = record.d_model, 256, record.config["ladder"]["vocab_size"]
        softmax = 5 * (n_layers * (d // 16) * (seq + 1) / 2 + vocab)
        norms = 5 * (2 * n_layers + 1) * d
        gelu = 8 * n_layers * 4 * d
        rotary, residual = 3 * n_layers * 2 * d, n_layers * 2 * d
        share = (softmax + norms + gelu + rotary + residual) / (record.flops_per_token / 3)
        cells.append(f"{100 * share:.0f} %" if share > 0.1 else f"{100 * share:.1f} %")
    assert f"| {' | '.join(cells)} |" in text("docs/flops.md")


def test_flops_md_says_what_adam_adds(one):
    def share(*run):
        record = one(*run)
        return 100 * 12 * record.n_params / (record.batch_tokens * record.flops_per_token)

    dense = [share("dense", budget) for budget in SEEDED]
    peer = [share("peer", budget, 16384) for budget in SEEDED]
    many = [share("peer", budget, 262144) for budget in (3e12, 1e13)]
    assert (
        f"that is {min(dense):.1f} to {max(dense):.1f} % of the counted compute of a dense model, "
        f"{min(peer):.1f} to {max(peer):.1f} % of PEER's with 16,384 experts, and "
        f"{min(many):.0f} to {max(many):.0f} % of PEER's with 262,144."
    ) in text("docs/flops.md")


def overcharge(record):
    """Share of the counted compute that is a backward pass of scores that did not win."""
    winners = record.config["model"]["top_k"] / math.sqrt(record.n_experts)
    return 2 / 3 * (1 - winners) * record.flops_shares["ffn.keys"]


def test_flops_md_says_what_keys_are_charged_and_do_not_compute(one):
    def listed(model):
        shares = [f"{100 * overcharge(one(model, budget, 16384)):.1f}" for budget in SEEDED]
        return f"{shares[0]}, {shares[1]} and {shares[2]} %"

    many = [f"{100 * overcharge(one('peer', budget, 262144)):.0f}" for budget in (3e12, 1e13)]
    said = text("docs/flops.md")
    assert f"charged {listed('peer')} more than it computes, PKM {listed('pkm')}" in said
    assert f"with 262,144 experts PEER is charged {many[0]} and {many[1]} % more" in said


def test_the_configuration_says_what_finding_experts_costs(one):
    shares = [one("peer", budget, 16384).flops_shares for budget in SEEDED]
    times = [
        f"{(s['ffn.query'] + s['ffn.keys'] + s['ffn.pairs']) / s['ffn.experts']:.1f}"
        for s in shares
    ]
    comment = (ROOT / "conf" / "scale" / "study_peer.yaml").read_text()
    assert f"costs {times[0]}, {times[1]} and {times[2]} times what they do" in comment

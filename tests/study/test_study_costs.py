"""What docs say that the study's models cost and hold, from the committed records."""

import math

import pytest

from tests.study.committed import ROOT, SEEDED, distinct_records, document_table, text


@pytest.fixture(scope="module")
def records():
    """The 252 distinct runs: six of the isoFLOP sweep are also runs of the experts' sweep."""
    return distinct_records()


@pytest.fixture(scope="module")
def one(records):
    """one("peer", 3e12): a run at that budget's seeded size, of the settings compared."""

    def find(model, budget, n_experts=16384, n_layers=None):
        return next(
            r
            for r in records
            if r.sweep in ("study/isoflop", "study/experts")
            and (r.model, r.budget) == (model, budget)
            and r.n_layers == (n_layers or SEEDED[budget])
            and (model != "peer" or r.n_experts == n_experts)
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
    peer = [share("peer", budget) for budget in SEEDED]
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
        shares = [f"{100 * overcharge(one(model, budget)):.1f}" for budget in SEEDED]
        return f"{shares[0]}, {shares[1]} and {shares[2]} %"

    many = [f"{100 * overcharge(one('peer', budget, 262144)):.0f}" for budget in (3e12, 1e13)]
    said = text("docs/flops.md")
    assert f"not done is {listed('peer')} of PEER's counted compute" in said
    assert f"and {listed('pkm')} of PKM's" in said
    assert f"with 262,144 experts it is {many[0]} and {many[1]} % of PEER's" in said


def test_the_configuration_says_what_finding_experts_costs(one):
    shares = [one("peer", budget).flops_shares for budget in SEEDED]
    times = [
        f"{(s['ffn.query'] + s['ffn.keys'] + s['ffn.pairs']) / s['ffn.experts']:.1f}"
        for s in shares
    ]
    comment = (ROOT / "conf" / "ladder_model" / "study_peer.yaml").read_text()
    assert f"costs {times[0]}, {times[1]} and {times[2]} times what they do" in comment


def test_study_md_says_what_layers_cost_and_hold(one):
    _, rows = document_table("model | in the middle block")
    none = {budget: one("none", budget) for budget in SEEDED}
    dense = {budget: one("dense", budget) for budget in SEEDED}
    for name, _, flops, params in rows:
        layer = {b: one(name.strip("`"), b) for b in SEEDED}
        cost = [f"{layer[b].flops_per_token / none[b].flops_per_token:.2f}" for b in SEEDED]
        held = [
            (layer[b].n_params - none[b].n_params) / (dense[b].n_params - none[b].n_params)
            for b in SEEDED
        ]
        assert flops == ", ".join(cost)
        assert params == ", ".join(f"{each:.0f}" for each in held)


def test_study_md_says_how_small_a_part_the_layer_is(one):
    def share(model, budget, n_layers):
        total = one(model, budget, n_layers=n_layers).flops_per_token
        return 100 * (1 - one("none", budget, n_layers=n_layers).flops_per_token / total)

    def seeded(model):
        a, b, c = (f"{share(model, budget, n):.0f}" for budget, n in SEEDED.items())
        return f"{a}, {b} and {c} %"

    heads = [100 * one("peer", b).flops_shares["head"] for b in SEEDED]
    assert (
        f"it is {seeded('peer')} of the compute with PEER and {seeded('dense')} with dense, "
        f"at L = 7 it is {share('peer', 3e13, 7):.0f} and {share('dense', 3e13, 7):.0f} %; "
        f"the head is {heads[0]:.0f}, {heads[1]:.0f} and {heads[2]:.0f} % with PEER."
    ) in text("results/study/first.md")


def test_study_md_says_what_many_experts_are_charged(one):
    few, many = one("peer", 3e12, 4096), one("peer", 3e12, 262144)
    share = overcharge(many)
    adam = [100 * 12 * r.n_params / (r.batch_tokens * r.flops_per_token) for r in (many, few)]
    said = text("results/study/first.md")
    tokens = few.n_tokens / many.n_tokens
    assert f"{100 * share:.0f} % of what is charged at 262,144" in said
    assert f"they would get {1 / (1 - share):.2f} of the {tokens:.2f} times the tokens" in said
    assert f"about {adam[0]:.0f} % of the compute at 262,144, and {adam[1]:.1f} % at 4,096" in said


def test_study_md_says_what_the_records_are(records):
    """How many are of a working tree with uncommitted changes; six are in two sweeps."""
    dirty = [r for r in records if r.environment["git_dirty"]]
    said = text("results/study/first.md")
    of = {b: sum(r.sweep == "study/isoflop" and r.budget == b for r in dirty) for b in SEEDED}
    causes = sum(r.sweep == "study/causes" for r in dirty)
    assert sum(of.values()) - of[3e12] + causes == len(dirty)
    assert f"{len(dirty)} of 258 records are of a working tree with uncommitted changes" in said
    assert f"{of[1e13]} of 42 of the isoFLOP runs at 1e13, {of[3e13]} of 42 at 3e13" in said
    assert f"and {causes} of the causes" in said
    assert f"of {len({r.environment['git_commit'] for r in records})} commits" in said
    flops = sum(r.achieved_flops for r in records)
    hours = sum(r.wall_seconds for r in records) / 3600
    sums = f"{len(records)} runs, {flops:.1e} FLOPs and {hours:.1f} core hours"
    assert f"258 records are {sums}" in said
    assert {r.config["trainer"]["precision"] for r in records} == {"auto"}  # float32 on a CPU
    assert max(r.epochs for r in records) < 1


def test_study_md_says_how_much_text_equal_compute_buys(one):
    peer, dense = ([one(m, b).n_tokens for b in SEEDED] for m in ("peer", "dense"))
    changes = [f"{100 * (a / b - 1):+.0f}" for a, b in zip(peer, dense, strict=True)]
    assert changes == ["-5", "-0", "+2"]
    said = text("results/study/first.md")
    assert "5 % less text than dense at L = 3, as much at L = 4, and 2 % more at L = 5" in said
    for budget, percent in ((3e12, 21), (1e13, 13)):
        few, many = (one("peer", budget, n).n_tokens for n in (4096, 262144))
        assert round(100 * (1 - many / few)) == percent
    assert "leaves 262,144 experts 21 and 13 % less text than 4,096" in said
    keys = [
        [one("peer", b, n).flops_shares["ffn.keys"] for n in (4096, 262144)] for b in (3e12, 1e13)
    ]
    a, b = ([f"{100 * share:.0f}" for share in each] for each in keys)
    assert f"from {a[0]} to {a[1]} % of the counted FLOPs at L = 3, from {b[0]} to {b[1]} %" in said

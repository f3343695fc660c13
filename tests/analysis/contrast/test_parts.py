"""Differences by part of the held-out text, and errors of rates, from Python and the command."""

import json
from itertools import product

import numpy as np
import pandas as pd
import pytest

from analysis import check_table, compute_contrasts, contrast_parts, fit_rates
from analysis.__main__ import main
from experiments.records.files import write_record
from tests.analysis.contrast.test_contrast import CONTRAST, made
from tests.analysis.contrast.test_documents import N_TOKENS, runs, scored, with_repeated
from tests.records.test_record import record

DOMAINS = ("news", "poems", "rules")


@pytest.fixture
def folder(tmp_path):
    """Records of a made table, with documents."""
    table = runs(sd=0.004)
    documents = with_repeated(scored(table, domains=DOMAINS))
    for row in table.itertuples():
        write_record(
            tmp_path / row.run_id,
            record(
                run_id=row.run_id, model=row.model, budget=float(row.budget),
                d_model=int(row.d_model), seed=int(row.seed), val_loss=float(row.loss),
                n_params=int(row.n_params), lr=0.01,
                n_active_params=int(row.n_active_params), n_tokens=int(row.n_tokens),
                n_experts=None,
                documents={
                    "document": list(range(len(N_TOKENS))),
                    "n_tokens": N_TOKENS.astype(int).tolist(),
                    "n_bytes": (4 * N_TOKENS).tolist(),
                    "nats": documents.nats[row.run_id].tolist(),
                    "n_repeated": documents.sets["a"].n_of["repeated"].astype(int).tolist(),
                    "nats_repeated": documents.kinds["repeated"][row.run_id].tolist(),
                    "domains": list(DOMAINS), "domain": documents.sets["a"].domain.tolist(),
                },
            ),
        )  # fmt: skip
    return tmp_path


def test_domains_are_contrasts_of_their_own_losses():
    table = runs(sd=0.004)
    documents = scored(table, domains=DOMAINS)
    found = contrast_parts(table, documents, "d_model")
    whole = compute_contrasts(table, "d_model", documents=documents)
    assert [d.value for d in found.whole.differences] == [d.value for d in whole.differences]
    own = documents.sets["a"].within("poems")
    losses = [documents.nats[run][own].sum() / N_TOKENS[own].sum() for run in table["run_id"]]
    alone = compute_contrasts(table.assign(loss=losses), "d_model")
    for one in alone.differences:
        (row,) = [r for r in found.rows if r.part == "poems" and r.difference.name == one.name]
        assert row.difference.value.value == pytest.approx(one.value.value, abs=1e-12)
        noise = row.difference.se * row.difference.shares["noise"] ** 0.5
        assert noise == pytest.approx(one.se)
        assert row.n_documents == own.sum()
    for name in {row.difference.name for row in found.rows}:
        rows = [r for r in found.rows if r.difference.name == name]
        assert rows[0].part == "all"
        values = [r.difference.value.value for r in rows[1:]]
        assert values == sorted(values)
        least = min(rows[1:], key=lambda r: r.difference.p).difference
        assert least.p_holm == pytest.approx(min(1, 3 * least.p))


def test_a_domain_of_one_document_has_no_error_of_documents_and_says_so():
    table = runs(sd=0.004)
    documents = scored(table, domains=DOMAINS)
    scored_on = documents.sets["a"]
    scored_on.domain[:] = np.where(np.arange(len(N_TOKENS)) == 0, 1, 0)
    found = contrast_parts(table, documents, "d_model")
    assert any("one document, so intervals hold no error of documents: poems" in w
               for w in found.warnings)  # fmt: skip
    assert {row.part for row in found.rows} == {"all", "news", "poems"}


def test_targets_are_contrasts_of_repeated_and_of_new_ones():
    """Means are written out; a document without a new target is none of theirs."""
    table = runs(sd=0.004)
    few = N_TOKENS // 4
    few[0] = N_TOKENS[0]
    documents = with_repeated(scored(table), few)
    found = contrast_parts(table, documents, "d_model", by="targets")
    repeated = documents.kinds["repeated"]
    new = {run: documents.nats[run] - repeated[run] for run in table["run_id"]}
    for name, n, of in (("repeated", few, repeated), ("new", N_TOKENS - few, new)):
        losses = [sum(of[run]) / sum(n) for run in table["run_id"]]
        alone = compute_contrasts(table.assign(loss=losses), "d_model")
        for one in alone.differences:
            (row,) = [r for r in found.rows if r.part == name and r.difference.name == one.name]
            assert row.difference.value.value == pytest.approx(one.value.value, abs=1e-12)
            assert row.n_tokens == sum(n)
            assert row.n_documents == sum(n > 0)
            assert "documents" in row.difference.shares
    assert list(found.to_frame()["targets"][:3]) in (
        ["all", "repeated", "new"], ["all", "new", "repeated"],
    )  # fmt: skip
    assert "Holm's correction for the 2 kinds of a difference" in found.summary()
    assert "a model that copies can know it" in found.summary()


def test_what_does_not_say_its_repeated_targets_is_refused():
    table = runs(sd=0.004)
    with pytest.raises(ValueError, match="42 of 42 runs do not say which of their targets are rep"):
        contrast_parts(table, scored(table), "d_model", by="targets")
    with pytest.raises(ValueError, match="by='colour' is not one of domain, targets"):
        contrast_parts(table, scored(table), "d_model", by="colour")


def test_what_has_no_domains_is_refused():
    table = runs(sd=0.004)
    with pytest.raises(ValueError, match="the documents of this corpus have no domains"):
        contrast_parts(table, scored(table), "d_model")
    with pytest.raises(ValueError, match="the losses of documents are needed, and 42 of 42 runs"):
        contrast_parts(table.assign(run_id="x"), scored(table, domains=DOMAINS), "d_model")


def test_the_command_reads_documents_and_writes_table_and_figure(folder, capsys, tmp_path):
    assert main([*CONTRAST, str(folder), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "which documents were held out, 12 (2,590 tokens)" in out
    assert "share_documents" in out
    table = pd.read_csv(tmp_path / "out/contrast.csv")
    values = json.loads((tmp_path / "out/contrast.json").read_text())
    assert list(table["difference"]) == pytest.approx(
        [d["value"]["value"] for d in values["differences"]]
    )
    assert list(table["share_documents"]) == pytest.approx(
        [d["shares"]["documents"] for d in values["differences"]]
    )
    assert (tmp_path / "out/contrast.png").read_bytes().startswith(b"\x89PNG")
    assert main([*CONTRAST, str(folder), "--by", "domain", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Holm's correction for the 3 domains of a difference" in out
    table = pd.read_csv(tmp_path / "out/domains.csv")
    assert set(table["domain"]) == {"all", *DOMAINS}
    assert (tmp_path / "out/domains.png").read_bytes().startswith(b"\x89PNG")
    assert main([*CONTRAST, str(folder), "--by", "targets", "--out", str(tmp_path / "out")]) == 0
    assert "Holm's correction for the 2 kinds of a difference" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out/targets.csv")
    assert set(table["targets"]) == {"all", "repeated", "new"}
    assert (tmp_path / "out/targets.png").read_bytes().startswith(b"\x89PNG")


def rates_file(path):
    """A law of each layer of the made tables: best rates fall with the width."""
    rows = []
    for layer in ("dense", "none", "peer"):
        for width, n_tokens in product((32, 48, 64, 96, 128), (1e5, 1e6)):
            for lr in 0.01 * 2.0 ** np.arange(-3, 4):
                best = 0.01 * (width / 64) ** -0.5
                loss = 3 + 0.05 * np.log(lr / best) ** 2
                rows.append((layer, width, 12e3 * width**2, n_tokens, lr, loss))
    frame = pd.DataFrame(rows, columns=["model", "d_model", "n_params", "n_tokens", "lr", "loss"])
    frame["loss"] += np.random.default_rng(0).normal(0, 0.003, len(frame))
    table = check_table(frame.assign(n_active_params=frame["n_params"], status="done"))
    path.write_text(json.dumps(fit_rates(table).to_dict()))
    return path


def test_a_law_s_error_widens_intervals_and_says_what_best_rates_add(tmp_path):
    path = rates_file(tmp_path / "rates.json")
    best = made(np.random.default_rng(3))
    best = best.assign(lr=0.01 * (best["d_model"].astype(float) / 64) ** -0.5)
    plain = compute_contrasts(best, "d_model")
    near = compute_contrasts(best, "d_model", rates=path)
    off = best.assign(lr=best["lr"].where(best["series"] != "peer", best["lr"] * np.e))
    far = compute_contrasts(off, "d_model", rates=path)
    for a, b, c in zip(plain.differences, near.differences, far.differences, strict=True):
        assert a.value.value == b.value.value == c.value.value
        assert b.half_width > a.half_width
        assert abs(b.shifts["rates"]) < 0.01
        if c.layer == "peer":  # its rates are a factor e off: .05 nats
            assert c.shifts["rates"] == pytest.approx(-0.05, abs=0.02)
            assert c.half_width > 0.04
            assert c.shares["rates"] > 0.5
    assert "rates_shift: what the best rates would add" in far.summary()
    assert f"rates that are not the best, by {path}" in far.holds


def test_rates_that_say_nothing_of_a_layer_are_a_line(tmp_path):
    path = rates_file(tmp_path / "rates.json")
    table = made(np.random.default_rng(3), layers=("dense", "moe")).assign(lr=0.01)
    with pytest.raises(ValueError, match=r"rates=.*rates.json: no law is of moe, but of dense"):
        compute_contrasts(table, "d_model", rates=path)

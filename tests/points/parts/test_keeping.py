"""What draws a model to what it was, and which rows a step may change, written out."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments.config.schema import Continual
from experiments.kernels.ops import Execution
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig
from experiments.points.parts.keeping import Keeping
from experiments.points.row_scores import RowUse, find_score
from experiments.points.sparse_rows import RowCounts, SparseRows
from tests.extending import follow

PEER = PEERConfig(n_experts=64, n_heads=2, top_k=3, d_key=8, query_norm="layer")
NONE = Continual(replay=0.0, top_rows=None, background_steps=64, distil=0.0, l2=0.0)
VOCAB, SEQ = 20, 8
TF_IDF = find_score("tf_idf")


def made(*ffns, seed=0):
    torch.manual_seed(seed)
    config = TransformerConfig(
        d_model=16, d_head=8, vocab_size=VOCAB, seq_len=SEQ, tie_head=False, ffns=ffns
    )
    model = config.build()
    model.set_execution(Execution(kernel="torch", gradient="rows"))
    return model


def text(seed, n=3):
    return torch.randint(VOCAB, (n, SEQ), generator=torch.Generator().manual_seed(seed))


# Distances from the start


@torch.no_grad()
def test_the_penalty_is_of_divergence_a_token_and_of_half_the_squared_distance():
    model, old = made(PEER, seed=0), made(PEER, seed=1)
    model.embedding.weight.requires_grad_(False)  # not trained: its distance does not count
    inputs = text(0)
    logits = model(inputs)
    divergences = []
    wanted = old(inputs).flatten(0, 1).double()
    for own, theirs in zip(logits.flatten(0, 1).double(), wanted, strict=True):
        p, q = theirs.softmax(0), own.softmax(0)
        divergences.append(sum(p[v] * (p[v].log() - q[v].log()) for v in range(VOCAB)))
    mean = float(sum(divergences)) / len(divergences)
    squares = sum(
        float((a.double() - b.double()).square().sum())
        for (name, a), b in zip(model.named_parameters(), old.parameters(), strict=True)
        if name != "embedding.weight"
    )

    def penalty(**weights):
        return float(Keeping(replace(NONE, **weights), model, old).penalty(model, inputs, logits))

    assert penalty(distil=3.0) == pytest.approx(3 * mean, rel=1e-5)
    assert penalty(l2=0.5) == pytest.approx(0.25 * squares, rel=1e-5)
    assert penalty(distil=3.0, l2=0.5) == pytest.approx(3 * mean + 0.25 * squares, rel=1e-5)
    assert penalty() == 0
    assert Keeping(NONE, model, None).penalty(model, inputs, logits) == 0


def test_the_start_is_not_trained_and_not_saved():
    model, old = made(DenseConfig()), made(DenseConfig())
    keeping = Keeping(replace(NONE, distil=1.0), model, old)
    assert not any(p.requires_grad for p in old.parameters())
    assert not old.training
    assert keeping.state_dict() == {}
    inputs = text(0)
    logits = model(inputs)
    keeping.penalty(model, inputs, logits).backward()  # nothing to learn at the start itself
    assert max(float(p.grad.abs().max()) for p in model.parameters()) < 1e-6


# Rows that a step may change


def retrieved(model, tokens):
    """How often each row of each layer is retrieved, from the indices that its router gives."""
    found = []

    def listen(layer, args):
        found.append(layer.route(args[0].flatten(0, -2))[0].flatten().tolist())

    hooks = [layer.register_forward_pre_hook(listen) for layer in model.ffn_layers()]
    meters = [layer.meter for layer in model.ffn_layers()]
    for layer in model.ffn_layers():
        layer.meter = None
    with torch.no_grad():
        model(tokens)
    for hook, layer, meter in zip(hooks, model.ffn_layers(), meters, strict=True):
        hook.remove()
        layer.meter = meter
    return [torch.tensor([indices.count(i) for i in range(64)]) for indices in found]


def test_counts_begin_again_once_they_are_taken():
    counts = RowCounts(5)
    counts.add(torch.tensor([[0, 1], [1, 4]]), torch.ones(2, 2))
    counts.add(torch.tensor([4]), torch.ones(1))
    assert counts.taken().tolist() == [1, 2, 0, 0, 2]
    counts.add(torch.tensor([3]), torch.ones(1))
    assert counts.taken().tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("was_training", [True, False])
def test_a_background_batch_is_a_document_however_often_it_retrieves_a_row(was_training):
    model = made(PEER, PEER).train(was_training)
    rows, batches = SparseRows(model, 5, TF_IDF), [text(seed, 1) for seed in (1, 2, 3)]
    rows.count_background(model, batches)
    assert model.training == was_training
    assert int(rows.n_documents) == 3
    for i in range(2):
        expected = sum((retrieved(model, tokens)[i] > 0).int() for tokens in batches)
        assert rows.get_buffer(f"documents_{i}").tolist() == expected.tolist()
        assert 0 < int(expected.max()) <= 3
    rows.count_background(model, [])  # and the counts were taken
    assert all(int(layer.meter.taken().sum()) == 0 for layer in model.ffn_layers())


@pytest.mark.parametrize("top_rows", [4, 1000])
def test_the_rows_of_highest_score_keep_their_gradients_and_the_others_lose_them(top_rows):
    """Of a layer in each of two blocks, by its own counts; a row that was not retrieved is none."""
    model = made(PEER, PEER)
    rows, tokens = SparseRows(model, top_rows, TF_IDF), text(9, 2)
    rows.count_background(model, [text(seed, 1) for seed in (1, 2, 3, 4)])
    counts = retrieved(model, tokens)
    model(tokens).square().mean().backward()
    tables = [(layer.w_down, layer.w_up) for layer in model.ffn_layers()]
    for both in tables:
        for table in both:
            table.grad = table.grad.coalesce()
    before = [[table.grad.to_dense() for table in both] for both in tables]
    others = {n: p.grad.clone() for n, p in model.named_parameters() if not p.grad.is_sparse}
    rows.mask()
    for i in range(2):
        documents = rows.get_buffer(f"documents_{i}")
        use = RowUse(counts=counts[i], documents=documents, n_documents=4, gradients=())
        score = TF_IDF(use).tolist()
        used = [row for row in range(64) if counts[i][row]]
        best = sorted(used, key=lambda row: -score[row])[:top_rows]
        ties = {score[row] for row in best} & {score[row] for row in used if row not in best}
        for table, gradient in zip(tables[i], before[i], strict=True):
            assert table.grad.is_sparse
            kept = table.grad.coalesce().indices()[0].tolist()
            assert len(kept) == len(set(kept)) == min(top_rows, len(used))
            for row in set(kept) ^ set(best):
                assert score[row] in ties  # equal scores: either
            assert torch.equal(table.grad.to_dense()[kept], gradient[kept])
    dense = {n: p.grad for n, p in model.named_parameters() if not p.grad.is_sparse}
    assert all(torch.equal(dense[n], gradient) for n, gradient in others.items())


def test_tf_idf_is_the_papers_by_hand():
    counts, documents = torch.tensor([4, 4, 2, 0]), torch.tensor([0, 3, 0, 1])
    use = RowUse(counts=counts, documents=documents, n_documents=3, gradients=())
    wanted = [0.4 * 1.3862944, 0.0, 0.2 * 1.3862944, 0.0]  # log 4 of three documents
    assert TF_IDF(use).tolist() == pytest.approx(wanted)


def test_of_layers_those_with_tables_that_are_trained_are_counted():
    model = made(DenseConfig(), PEER, PEER)
    layers = list(model.ffn_layers())
    for name in ("w_down", "w_up"):
        table = getattr(layers[1], name)
        assert isinstance(table, nn.Parameter)
        table.requires_grad_(False)
    rows = SparseRows(model, 5, TF_IDF)
    assert [layer.meter is not None for layer in layers] == [False, False, True]
    assert {name for name, _ in rows.named_buffers()} == {"documents_0", "n_documents"}


@pytest.mark.night
def test_the_how_to_of_a_way_to_choose_rows_runs_to_the_letter(tmp_path):
    printed = follow("A way to choose rows", tmp_path)
    assert "top_rows=64 row_score=gradient" in printed
    (record,) = (tmp_path / "results" / "chosen").glob("*/record.json")
    values = json.loads(record.read_text())
    assert values["status"] == "done"
    assert values["config"]["continual"]["row_score"] == "gradient"
    assert "continual.row_score='luck' is not one of gradient, tf_idf" in printed

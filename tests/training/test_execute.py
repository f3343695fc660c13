"""A point from its plan to its record, on a nursery corpus: what is written, and its exactness."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from experiments.data.batches import IGNORED
from experiments.data.module import TokenDataModule
from experiments.data.prepare import prepare_data, prepare_sets
from experiments.data.windows import ScoredWindows
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from experiments.training.fit import set_up_process
from experiments.training.module import LanguageModel


def rows(point):
    with (point.run_dir / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def losses(point):
    return [(row["step"], row["loss"]) for row in rows(point)]


@pytest.mark.parametrize("model", ["dense", "none", "moe", "moe_fine", "pkm", "peer"])
def test_every_model_learns_and_is_recorded(once, model):
    point, record = once(f"model={model}")
    assert record == read_record(point.run_dir / "record.json")
    assert record.val_loss < 0.8 * math.log(270)
    assert record.perplexity == pytest.approx(math.exp(record.val_loss))
    assert record.achieved_flops == record.planned_flops == pytest.approx(2e9, rel=0.01)
    assert record.n_tokens == record.n_steps * 128
    assert record.train_loss < math.log(270)
    assert record.bits_per_byte == pytest.approx(
        record.val_loss / math.log(2) / record.bytes_per_token
    )
    assert sum(record.documents["n_tokens"]) == record.n_eval_tokens
    nats = record.val_loss * record.n_eval_tokens
    rounded = 5e-5 * len(record.documents["nats"])  # half of the last digit of each
    assert sum(record.documents["nats"]) == pytest.approx(nats, abs=rounded)
    assert record.causal_eval == (model != "moe")
    assert (record.usage is not None) == (model not in ("dense", "none"))
    assert record.peak_memory_bytes > 2**27
    assert record.mfu == pytest.approx(record.flops_per_second / record.peak_flops_per_second)
    assert record.environment["packages"]["torch"] == torch.__version__
    assert (record.accelerator, record.precision) == ("cpu", "32-true")
    assert record.config == dict(point.raw)
    checkpoint = torch.load(point.run_dir / LAST, weights_only=False)
    assert checkpoint["global_step"] == point.plan.n_steps
    assert sorted(p.name for p in point.run_dir.iterdir()) == [
        ".claim", "config.yaml", "environment.json", "events.jsonl", "history.csv", "last.ckpt",
        "record.json",
    ]  # fmt: skip


def test_the_record_and_the_environment_say_how_many_threads_it_had(make):
    torch.set_num_threads(2)
    point = make("budget=1e9", "trainer.n_threads=1")
    assert execute(point).environment["n_threads"] == 1
    assert json.loads((point.run_dir / "environment.json").read_text())["n_threads"] == 1


def test_history_has_every_tenth_step_and_the_last(once):
    point, record = once("model=dense")
    steps = [int(row["step"]) for row in rows(point)]
    assert steps == sorted({*range(10, record.n_steps + 1, 10), record.n_steps})
    last = rows(point)[-1]
    assert float(last["flops"]) == record.achieved_flops
    assert int(last["n_tokens"]) == record.n_tokens
    assert float(last["lr"]) < float(rows(point)[2]["lr"])


@pytest.mark.parametrize("model", ["dense", "moe", "pkm"])  # moe_fine, peer: interrupted, below
def test_same_seed_same_loss_to_the_bit(make, once, model):
    _, a = once(f"model={model}")
    b = execute(make(f"model={model}"))
    assert (a.val_loss, a.train_loss, a.usage) == (b.val_loss, b.train_loss, b.usage)
    assert a.run_id == b.run_id


def test_another_seed_is_another_run(make, once):
    _, a = once("model=dense")
    other = execute(make("model=dense", "seed=1"))
    assert other.val_loss != a.val_loss
    assert other.run_id != a.run_id


@pytest.mark.parametrize("model", ["moe", "moe_fine", "peer"])
def test_mixed_precision_trains_as_well(make, once, model):
    _, single = once(f"model={model}")
    mixed = execute(make(f"model={model}", "trainer.precision=bf16-mixed"))
    assert mixed.status == "done", mixed.error
    assert mixed.run_id == single.run_id
    # bfloat16 keeps 3 digits; over 60 steps the paths part, as two seeds do
    assert mixed.val_loss == pytest.approx(single.val_loss, abs=0.15)
    assert mixed.val_loss != single.val_loss


def test_gradients_are_clipped_to_the_norm(make):
    point = make("optim.grad_clip=0.5")
    module = LanguageModel(point.transformer.build(), point.plan, point.config.optim)
    for parameter in module.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    module.configure_optimizers()
    module.clip()
    norm = torch.nn.utils.get_total_norm([p.grad for p in module.model.parameters()])
    assert norm == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    "choices",
    [
        ("model=moe_fine",),
        ("model=peer",),
        ("budget=1e9", "trainer.micro_batch_size=2"),
        ("budget=1e9", "streamed"),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one_to_the_bit(
    once, resumed, streamed, choices
):
    if choices[-1] == "streamed":
        choices = (*choices[:-1], *streamed)
    whole, expected = once(*choices)
    broken, result = resumed(*choices)
    assert (result.val_loss, result.train_loss) == (expected.val_loss, expected.train_loss)
    assert (result.usage, result.run_id) == (expected.usage, expected.run_id)
    assert losses(broken) == losses(whole)
    assert (expected.epochs is None) == ("data.streaming=true" in choices)


def test_a_failure_is_recorded_with_its_traceback(make, monkeypatch):
    def broken(self):
        raise OSError("no space left on device")

    monkeypatch.setattr(TokenDataModule, "train_dataloader", broken)
    point = make()
    record = execute(point)
    assert record.status == "failed"
    assert record.error.strip().endswith("OSError: no space left on device")
    assert json.loads((point.run_dir / "record.json").read_text())["status"] == "failed"


def test_a_diverging_run_stops_and_says_so(make):
    record = execute(make("ladder.lr=1e3", "optim.grad_clip=1e9", "budget=2e10"))
    assert record.status == "diverged"
    assert record.n_tokens < record.n_steps * record.batch_tokens
    assert record.val_loss is None


def test_a_text_shorter_than_a_window_is_refused(make):
    point = make()
    raw = dict(point.raw)
    raw["data"] = {**raw["data"], "seq_len": 10**6, "n_eval_tokens": 10**6}
    raw["ladder"] = {**raw["ladder"], "batch_size": 1}
    raw["budget"] = 1.15258e15
    record = execute(make_point(raw))
    assert record.status == "failed"
    assert "fewer than one window of seq_len=1000000" in record.error


def test_a_run_on_local_files_is_named_by_their_content(make, streamed, tmp_path):
    local, texts = streamed[:-2], tmp_path / "elsewhere"
    record = execute(make("budget=1e9", *local))
    assert record.status == "done", record.error
    assert record.epochs > 0
    shutil.copytree(local[1].removeprefix("data.path="), texts)
    assert make("budget=1e9", *local, f"data.path={texts}").run_id == record.run_id
    (texts / "0.jsonl").write_text('{"text": "other words altogether"}\n')
    assert make("budget=1e9", *local, f"data.path={texts}").run_id != record.run_id


def test_masked_documents_change_the_run(make, once):
    masked = execute(make("data.mask_documents=true"))
    _, plain = once("model=dense")
    assert masked.status == "done", masked.error
    assert masked.run_id != plain.run_id
    assert masked.val_loss != plain.val_loss


def test_named_sets_are_scored_at_the_end(make):
    record = execute(make("budget=1e9", "eval=[validation]", "evaluation.stride=16"))
    (name,) = record.evaluations
    assert name == "validation@stride=16"
    scores = record.evaluations[name]
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    assert scores["stride"] == 16
    assert scores["n_tokens"] > record.n_eval_tokens
    assert record.run_id == make("budget=1e9").run_id
    assert record.tokenizer_sha256
    assert record.train_digest


@pytest.mark.parametrize(("model", "size"), [("dense", 1), ("pkm", 2), ("moe_fine", 2)])
def test_micro_batches_add_up_to_the_step(make, once, model, size):
    """Without layers that mix tokens: the same run but for the order of float32 sums."""
    norm = [] if model != "pkm" else ["model.query_norm=layer"]
    point, whole = once(f"model={model}", *norm)
    in_micro = make(f"model={model}", *norm, f"trainer.micro_batch_size={size}")
    micro = execute(in_micro)
    assert micro.status == "done", micro.error
    same = "run_id", "n_steps", "n_tokens"
    assert [getattr(micro, name) for name in same] == [getattr(whole, name) for name in same]
    assert micro.val_loss == pytest.approx(whole.val_loss, abs=0.02)
    first = [float(rows(run)[0]["loss"]) for run in (point, in_micro)]
    assert first[0] == pytest.approx(first[1], abs=2e-4)


@pytest.mark.parametrize("split", ["train", "validation", "scored"])
def test_damaged_tokens_are_found_before_the_first_step(make, tmp_path, split):
    own = f"paths.cache={tmp_path / 'cache'}"
    point = make("eval=[validation]", "data.n_eval_tokens=160", own)
    prepared = prepare_data(point.config.data, point.cache)
    sets = prepare_sets(point.config.data, point.config.eval, prepared.vocabulary, point.cache)
    (scored,) = sets.values()
    text = {"train": prepared.train, "validation": prepared.validation, "scored": scored}[split]
    shard = text.folder / "00000.bin"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    record = execute(point)
    assert record.status == "failed"
    assert f"{shard} is damaged (its sha256 is not" in record.error.strip().splitlines()[-1]
    assert (record.train_digest, record.val_loss) == (None, None)
    assert not (point.run_dir / "history.csv").exists()


def test_bytes_per_token_are_those_of_the_text_that_was_scored(make):
    """Of every target's text, decoded, in UTF-8; the end of a document stands for no byte."""
    point = make("budget=1e9", "eval=[validation]", "data.n_eval_tokens=160")
    record = execute(point)
    prepared = prepare_data(point.config.data, point.cache)
    tokenizer, end = prepared.vocabulary.tokenizer(), prepared.vocabulary.end_of_text

    def expected(n_tokens):
        windows = ScoredWindows(prepared.validation, seq_len=32, batch_size=4, max_tokens=n_tokens)
        targets = [int(i) for batch in windows for i in batch.targets[batch.targets != IGNORED]]
        text = tokenizer.decode([i for i in targets if i != end], skip_special_tokens=False)
        return len(text.encode()) / len(targets)

    (scores,) = record.evaluations.values()
    assert record.n_eval_tokens == 160
    assert record.bytes_per_token == pytest.approx(expected(160), rel=1e-12)
    assert scores["bytes_per_token"] == pytest.approx(expected(None), rel=1e-12)
    assert scores["bytes_per_token"] != record.bytes_per_token


def test_float32_is_not_rounded_to_tf32(make):
    """Whatever a container has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        set_up_process(make(), None)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)


def n_denormals():
    """Of 2**20 that are computed, a half by each of two threads."""
    return int((torch.full((1 << 20,), 2e-38) * 0.1).count_nonzero())


def test_no_thread_of_a_run_computes_with_denormals_and_each_does_afterwards(make):
    """Also those that torch had begun before."""
    torch.set_num_threads(2)
    before, seen = n_denormals(), []
    execute(make("trainer.n_threads=2"), lambda row: seen.append(n_denormals()))
    assert (before, {*seen}, n_denormals()) == (1 << 20, {0}, 1 << 20)
    assert np.float32(1e-40) * np.float32(1) != 0

"""Stream: a function of (seed, step, rank, world size), resumed exactly at any step."""

import hashlib
import sys
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import get_worker_info

from experiments.data.batches import Batch, as_batch
from experiments.data.loader import Loader
from experiments.data.streaming import Position, StreamedBatches, usable_workers
from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import prepare_vocabulary


@dataclass(frozen=True, kw_only=True)
class Files:
    """Files of documents of many lengths, each document of its own number, spelt in digits."""

    n_files: int = 7
    n_documents: int = 40

    def n_shards(self, split: str, cache: Path) -> int:
        return self.n_files

    def shard_documents(self, split: str, shard: int, start: int, cache: Path):
        # a worker that imports Lightning starts four times as slowly
        assert get_worker_info() is None or "lightning" not in sys.modules
        for i in range(start, self.n_documents):
            yield f"{shard:02d}:{i:03d} " * (1 + (7 * i + shard) % 23)

    def documents(self, split: str, cache: Path):
        return (t for s in range(self.n_files) for t in self.shard_documents(split, s, 0, cache))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return prepare_vocabulary(TrainedBPE(vocab_size=280), Files(), tmp_path_factory.mktemp("v"))


@pytest.fixture
def stream(vocabulary):
    """stream(corpus=..., start_step=..., ...): batches of 4 windows of 16 tokens."""

    def make(corpus=Files(), **settings):
        defaults = {"seq_len": 16, "batch_size": 4, "seed": 0, "n_lanes": 4, "shuffle_windows": 24}
        return StreamedBatches(corpus, vocabulary, Path(), **{**defaults, **settings})

    return make


def take(batches, n, n_workers=0) -> list[Batch]:
    iterator = iter(Loader(batches, n_workers))
    return [next(iterator) for _ in range(n)]


def batch_digest(batch):
    return hashlib.sha256(batch.inputs.numpy().tobytes()).hexdigest()


def digests(batches, n, n_workers=0):
    return [batch_digest(b) for b in take(batches, n, n_workers)]


def positions(batches):
    """Where the lanes stand after these batches, as the data module notes it."""
    places = (Position(*b.position) for b in batches)
    return {p.lane: p for p in places}


def test_targets_are_the_next_tokens(stream, vocabulary):
    text = vocabulary.tokenizer().decode
    for batch in take(stream(), 20):
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        assert batch.inputs.shape == (4, 16)
        assert set(text(batch.inputs[0].tolist())) <= set("0123456789: ")


def test_same_seed_same_batches_another_seed_others(stream):
    assert digests(stream(), 30) == digests(stream(), 30)
    assert not set(digests(stream(), 30)) & set(digests(stream(seed=1), 30))


def test_an_epoch_of_a_lane_holds_each_window_once_in_another_order(stream, vocabulary):
    """One lane of one file: its windows are the file's own, shuffled in blocks of 24."""
    one = Files(n_files=1)
    batches = take(stream(one, n_lanes=1), 200)
    tokenizer, end = vocabulary.tokenizer(), vocabulary.end_of_text
    texts = one.documents("train", Path())
    row = [i for text in texts for i in [*tokenizer.encode(text).ids, end]]
    n = len(row) // 16 // 24 * 24
    expected = [tuple(row[16 * i : 16 * i + 16]) for i in range(n)]
    found = [tuple(w) for b in batches for w in b.inputs.tolist()]
    assert n >= 96
    for block in range(0, n, 24):
        assert found[block : block + 24] != expected[block : block + 24]
        assert sorted(found[block : block + 24]) == sorted(expected[block : block + 24])
    assert max(int(b.position[1]) for b in batches) >= 2  # it went on to further epochs


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 23, 24, 25, 97, 150, 331])
def test_a_run_resumed_at_any_step_sees_what_it_would_have_seen(stream, step):
    whole = take(stream(), step + 30)
    before = whole[:step]
    expected = [batch_digest(b) for b in whole[step:]]
    resumed = stream(start_step=step, positions=positions(before))
    assert digests(resumed, 30) == expected


def test_resumed_again_and_again(stream):
    expected = digests(stream(), 60)
    seen, places = [], {}
    for start in range(0, 60, 7):
        batches = take(stream(start_step=start, positions=places), min(7, 60 - start))
        places |= positions(batches)
        seen += [batch_digest(b) for b in batches]
    assert seen == expected


def test_without_positions_the_past_is_read_again(stream):
    assert digests(stream(start_step=50), 20) == digests(stream(), 70)[50:]


@pytest.mark.parametrize("n_workers", [2, 4])
def test_shares_of_workers_are_the_sequence_also_when_resumed(stream, monkeypatch, n_workers):
    """Each worker's share, made in this process, in the order in which a loader asks for them."""

    def asked_in_turn(batches, n):
        shares = []
        for worker in range(n_workers):
            info = SimpleNamespace(id=worker, num_workers=n_workers)
            monkeypatch.setattr("experiments.data.batches.get_worker_info", lambda info=info: info)
            share = iter(batches)
            shares.append(chain([next(share)], share))
        return [batch_digest(as_batch(next(shares[i % n_workers]))) for i in range(n)]

    whole = take(stream(), 60)
    expected = [batch_digest(b) for b in whole]
    assert asked_in_turn(stream(), 30) == expected[:30]
    resumed = stream(start_step=33, positions=positions(whole[:33]))
    assert asked_in_turn(resumed, 27) == expected[33:]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")  # of 1 core
def test_workers_change_nothing(stream):
    whole = take(stream(), 60)
    resumed = stream(start_step=33, positions=positions(whole[:33]))
    assert digests(resumed, 27, n_workers=2) == [batch_digest(b) for b in whole[33:]]


def test_workers_that_do_not_share_the_lanes_are_fewer():
    assert [usable_workers(n, 4) for n in range(6)] == [0, 1, 2, 2, 4, 4]


def test_ranks_read_disjoint_files_for_ever(stream, vocabulary):
    decode = vocabulary.tokenizer().decode
    seen = []
    for rank in range(2):
        batches = take(stream(rank=rank, world_size=2, n_lanes=2), 300)
        assert batches[0].inputs.shape == (2, 16)
        text = " ".join(decode(w.tolist()) for b in batches for w in b.inputs)
        seen.append({word[:2] for word in text.split() if word[2:3] == ":"} - {""})
    assert seen[0].isdisjoint(seen[1])
    assert len(seen[0]) + len(seen[1]) == 7


def test_ranks_depend_on_their_number_alone(stream):
    part = stream(rank=1, world_size=2, n_lanes=2)
    assert digests(part, 40) == digests(stream(rank=1, world_size=2, n_lanes=2), 40)


def test_refuses_more_ranks_than_files(stream):
    with pytest.raises(ValueError, match="in 7 files, too few to stream to 8 ranks"):
        stream(world_size=8, batch_size=8)
    with pytest.raises(ValueError, match="batch_size=5 must be a multiple of the 2 ranks"):
        stream(world_size=2, batch_size=5)


def test_empty_files_end_in_an_error_not_in_silence(stream):
    with pytest.raises(ValueError, match="no documents to stream"):
        take(stream(Files(n_documents=0)), 1)


def test_a_position_is_six_numbers():
    place = Position(lane=1, epoch=2, file=3, document=4, token=5, used=6)
    assert Position(*astuple(place)) == place != replace(place, used=7)

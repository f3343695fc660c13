"""Training from a stream: files read side by side, packed and shuffled as they come.

The files of a split are dealt out once to `lanes`, of which each rank has the same number. A lane
reads its files in an order of its own each epoch, joins their documents, and cuts the row of
tokens into blocks of windows, each block shuffled. Step t takes its batch from lane
t mod lanes. So the sequence depends on (seed, step, rank, world size) alone; ranks never share a
file; and where a lane stands is six numbers, that of the document in which its block begins being
one: a resumed lane continues there.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.data import IterableDataset

from experiments.data.batches import Windows, worker_share
from experiments.data.corpus import TRAIN, ShardedCorpus
from experiments.data.packing import encode
from experiments.data.vocabulary import Vocabulary

_CHUNK_BYTES = 250_000  # tokenized at a time; small, for a resumed lane waits for its first


@dataclass(frozen=True)
class Position:
    """Where a lane stands: its block begins at token `token` of document `document` of the
    `file`-th file of its epoch, and `used` batches of the block have been given.
    """

    lane: int
    epoch: int = 0
    file: int = 0
    document: int = 0
    token: int = 0
    used: int = 0


class StreamedBatches(IterableDataset[Windows]):
    """This rank's batches from `start_step` on, from a corpus in files; endless.

    n_lanes and shuffle_windows are per rank. positions: where the lanes stood after the step
    before start_step; without them, a stream that starts later reads again what came before.
    Raises ValueError if there are fewer files than ranks.
    """

    def __init__(
        self,
        corpus: ShardedCorpus,
        vocabulary: Vocabulary,
        cache: Path,
        *,
        seq_len: int,
        batch_size: int,
        seed: int,
        n_lanes: int,
        shuffle_windows: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        positions: Mapping[int, Position] | None = None,
    ) -> None:
        n_files = corpus.n_shards(TRAIN, cache)
        if n_files < world_size:
            raise ValueError(
                f"the training split is in {n_files} files, too few to stream to {world_size} "
                "ranks; use data.streaming=false, or more files"
            )
        if batch_size % world_size:
            raise ValueError(
                f"batch_size={batch_size} must be a multiple of the {world_size} ranks to stream"
            )
        self.corpus, self.vocabulary, self.cache = corpus, vocabulary, cache
        self.seq_len, self.seed = seq_len, seed
        self.batch_size = batch_size // world_size
        self.n_lanes = min(n_lanes, n_files // world_size)
        self.block_batches = -(-shuffle_windows // self.batch_size)
        self.start_step = start_step
        self.positions = dict(positions or {})
        dealt = np.random.default_rng([seed, n_files]).permutation(n_files)
        self.files = {
            lane: dealt[rank * self.n_lanes + lane :: self.n_lanes * world_size]
            for lane in range(self.n_lanes)
        }

    def __iter__(self) -> Iterator[Windows]:
        first, stride = worker_share()
        if self.n_lanes % stride:
            raise ValueError(f"{self.n_lanes} lanes can't be shared by {stride} workers")
        lanes: dict[int, Iterator[Windows]] = {}
        step = self.start_step + first
        while True:
            lane = step % self.n_lanes
            if lane not in lanes:
                lanes[lane] = self._lane(lane)
            yield next(lanes[lane])
            step += stride

    def _lane(self, lane: int) -> Iterator[Windows]:
        """A lane's batches from where it stands."""
        if lane in self.positions:
            yield from self._batches(self.positions[lane])
        batches = self._batches(Position(lane))
        for _ in range(lane, self.start_step, self.n_lanes):
            next(batches)
        yield from batches

    def _batches(self, position: Position) -> Iterator[Windows]:
        for start, block in self._blocks(position):
            windows = [
                block[i * self.seq_len : (i + 1) * self.seq_len + 1]
                for i in range(self.block_batches * self.batch_size)
            ]
            place = astuple(replace(start, used=0))
            order = np.random.default_rng([self.seed, *place]).permutation(len(windows))
            for used in range(start.used, self.block_batches):
                chosen = order[used * self.batch_size : (used + 1) * self.batch_size]
                after = replace(start, used=used + 1)
                yield Windows(np.stack([windows[i] for i in chosen]), astuple(after))

    def _blocks(self, position: Position) -> Iterator[tuple[Position, np.ndarray]]:
        """Blocks of windows, one token longer than they are, and where each begins."""
        length = self.block_batches * self.batch_size * self.seq_len
        documents = self._documents(position)
        pending: deque[tuple[Position, np.ndarray]] = deque()
        n_pending, used = 0, position.used
        while True:
            while n_pending <= length:
                pending.append(next(documents))
                n_pending += len(pending[-1][1])
            block = np.concatenate([tokens for _, tokens in pending])[: length + 1]
            yield replace(pending[0][0], used=used), block
            used, left = 0, length
            while left:
                where, tokens = pending.popleft()
                taken = min(left, len(tokens))
                left, n_pending = left - taken, n_pending - taken
                if taken < len(tokens):
                    rest = replace(where, token=where.token + taken)
                    pending.appendleft((rest, tokens[taken:]))

    def _documents(self, position: Position) -> Iterator[tuple[Position, np.ndarray]]:
        """Each document's tokens from the position on, without end."""
        lane, epoch, first_file, document, token, _ = astuple(position)
        while True:
            n_documents = 0
            order = self._order(lane, epoch)
            for file in range(first_file, len(order)):
                texts = self.corpus.shard_documents(TRAIN, int(order[file]), document, self.cache)
                for tokens, _ in encode(self.vocabulary, texts, _CHUNK_BYTES):
                    n_documents += 1
                    where = Position(lane, epoch, file, document, token)
                    if token < len(tokens):
                        yield where, tokens[token:]
                    document, token = document + 1, 0
                document = 0
            if not n_documents and epoch > position.epoch:
                raise ValueError("the training split's files have no documents to stream")
            first_file, epoch = 0, epoch + 1

    def _order(self, lane: int, epoch: int) -> np.ndarray:
        """Files of a lane in the order of an epoch."""
        return np.random.default_rng([self.seed, lane, epoch]).permutation(self.files[lane])


def usable_workers(wanted: int, n_lanes: int) -> int:
    """Largest number of loader workers up to `wanted` that shares the lanes evenly."""
    return max(n for n in range(wanted + 1) if n == 0 or n_lanes % n == 0)

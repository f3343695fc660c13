"""From documents to packed tokens: in parallel, in shards, and taken up where it was killed."""

import json
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from experiments.data.corpus import Corpus, find_name
from experiments.data.packed import (
    INDEX_NAME,
    PackedText,
    Shard,
    as_tokens,
    check_shard,
    open_verified,
    stamp,
    token_dtype,
    write_index,
)
from experiments.data.progress import doing
from experiments.data.vocabulary import Vocabulary
from experiments.records.files import DamagedError
from experiments.system.disk import (
    file_sha256,
    make_folder,
    opened,
    reached,
    remove,
    remove_tree,
    rename,
    sync,
    sync_file,
    sync_tree,
    write_text,
)
from experiments.system.made_once import full_disk_explained, locked

SHARD_TOKENS = 2**24  # a shard ends with the document that reaches this
_CHUNK_BYTES = 4_000_000  # of text handed to the tokenizer's threads at once
_JOURNAL = "journal.jsonl"  # a line a finished shard, while the folder is being made
_MIN_SECONDS = 2.0  # shorter work shows no bar and says nothing


def pack(
    corpus: Corpus,
    split: str,
    vocabulary: Vocabulary,
    folder: Path,
    cache: Path,
    max_tokens: int | None = None,
) -> PackedText:
    """Tokenizes a split into `folder`, unless that was done before.

    Stops after the document that reaches max_tokens, if given. A second process waits for the
    first. One that is killed leaves whole shards and a journal of them, in a hidden folder beside
    it; the next goes on after the last. Raises ValueError for text that can't be read or holds no
    document, DamagedError if the folder is not as it was written, RuntimeError for a full disk.
    """
    folder = reached(folder)
    if not folder.exists():
        with full_disk_explained(folder), locked(folder):
            if not folder.exists():
                partial = folder.with_name(f".{folder.name}.partial")
                make_folder(partial)
                shards = _fill(partial, corpus, split, vocabulary, cache, max_tokens)
                if not shards:
                    remove_tree(partial)
                    raise ValueError(f"the {split} split of {find_name(corpus)} has no text")
                write_index(partial, vocabulary.n_entries, shards, vocabulary.sha256)
                sync_tree(partial)  # its index too
                rename(partial, folder)
                sync_file(folder.parent)
                remove(folder / _JOURNAL)
                stamp(PackedText(folder))  # each shard was read again when it was written
    text = open_verified(folder)
    if text.vocab_size != vocabulary.n_entries or text.tokenizer_sha256 not in (
        None,
        vocabulary.sha256,
    ):
        raise DamagedError(
            folder / INDEX_NAME,
            f"its tokens were made by another tokenizer than {vocabulary.folder}",
            f"delete {folder}, and the same command makes it again",
        )
    return text


def _fill(
    folder: Path,
    corpus: Corpus,
    split: str,
    vocabulary: Vocabulary,
    cache: Path,
    max_tokens: int | None,
) -> list[Shard]:
    """Writes the shards that are not there yet; returns all."""
    shards = _finished(folder, token_dtype(vocabulary.n_entries))
    n_tokens = sum(s.n_tokens for s in shards)
    documents = islice(corpus.documents(split, cache), sum(s.n_documents for s in shards), None)
    writer = _Writer(folder, len(shards))
    start, n_bytes_before = time.perf_counter(), sum(s.n_bytes for s in shards)
    with (
        doing(f"tokenizing {split}") as work,
        tqdm(
            desc=f"tokenizing {split}",
            initial=n_bytes_before,
            unit="B",
            unit_scale=True,
            delay=_MIN_SECONDS,
            disable=not sys.stderr.isatty(),
        ) as bar,
    ):
        if max_tokens is None or n_tokens < max_tokens:
            for tokens, n_bytes in encode(vocabulary, documents):
                writer.add(tokens, n_bytes)
                n_tokens += len(tokens)
                bar.update(n_bytes)
                work.n_bytes += n_bytes
                full = max_tokens is not None and n_tokens >= max_tokens
                if writer.n_tokens >= SHARD_TOKENS or full:
                    shards.append(writer.finish())
                if full:
                    break
    if writer.n_tokens:
        shards.append(writer.finish())
    seconds, n_bytes = time.perf_counter() - start, sum(s.n_bytes for s in shards)
    if seconds > _MIN_SECONDS:
        print(
            f"tokenized {split} of {find_name(corpus)}: {n_bytes / 1e6:.1f} MB of text, "
            f"{sum(s.n_tokens for s in shards) / 1e6:.2f}M tokens, in {seconds:.0f} s "
            f"({(n_bytes - n_bytes_before) / 1e6 / seconds:.1f} MB/s)",
            flush=True,
        )
    return shards


@dataclass
class _Writer:
    """Gathers documents and writes them as one shard: under a temporary name, then the journal."""

    folder: Path
    number: int
    parts: list[np.ndarray] = field(default_factory=list)
    n_tokens: int = 0
    n_bytes: int = 0

    def add(self, tokens: np.ndarray, n_bytes: int) -> None:
        self.parts.append(tokens)
        self.n_tokens += len(tokens)
        self.n_bytes += n_bytes

    def finish(self) -> Shard:
        name = f"{self.number:05d}.bin"
        temporary = self.folder / f"{name}.partial"
        try:
            with opened(temporary) as file:  # ndarray.tofile would not say that a disk is full
                file.write(np.concatenate(self.parts).data)
                file.flush()
                sync(file.fileno())
        except OSError:
            remove(temporary)
            raise
        shard = Shard(
            file=name,
            n_tokens=self.n_tokens,
            n_documents=len(self.parts),
            n_bytes=self.n_bytes,
            sha256=file_sha256(temporary),
        )
        rename(temporary, self.folder / name)
        with opened(self.folder / _JOURNAL, "a", encoding="utf-8") as journal:
            journal.write(json.dumps(asdict(shard)) + "\n")
        self.number, self.parts, self.n_tokens, self.n_bytes = self.number + 1, [], 0, 0
        return shard


def _finished(folder: Path, dtype: np.dtype[np.generic]) -> list[Shard]:
    """Whole shards that a killed process left, verified; whatever else it left is removed."""
    shards: list[Shard] = []
    journal = folder / _JOURNAL
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    for line in lines:
        try:
            shard = Shard(**json.loads(line))
            check_shard(folder, shard, dtype)
        except (ValueError, TypeError):
            break  # a line cut short, or a file that did not reach the disk
        if file_sha256(folder / shard.file) != shard.sha256:
            break
        shards.append(shard)
    kept = {shard.file for shard in shards}
    for path in folder.iterdir():
        if path.name not in kept:
            remove(path)
    write_text(journal, "".join(json.dumps(asdict(s)) + "\n" for s in shards))
    return shards


def encode(
    vocabulary: Vocabulary, documents: Iterator[str], chunk_bytes: int | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """Each document's tokens, end of text included, and its bytes of UTF-8, in order.

    The tokenizer's own threads share a chunk of documents while the chunk before is taken apart
    here.
    """
    tokenizer, size, end = vocabulary.tokenizer(), vocabulary.n_entries, vocabulary.end_of_text
    with ThreadPoolExecutor(1) as pool:
        ahead: Future[list[tuple[list[int], int]]] | None = None
        for chunk in _chunks(documents, chunk_bytes or _CHUNK_BYTES):
            following = pool.submit(_encode_chunk, tokenizer, chunk)
            if ahead is not None:
                for ids, n_bytes in ahead.result():
                    yield as_tokens([*ids, end], size), n_bytes
            ahead = following
        if ahead is not None:
            for ids, n_bytes in ahead.result():
                yield as_tokens([*ids, end], size), n_bytes


def _chunks(documents: Iterator[str], n_bytes: int) -> Iterator[list[str]]:
    chunk: list[str] = []
    n_characters = 0
    for text in documents:
        chunk.append(text)
        n_characters += len(text)
        if n_characters >= n_bytes:
            yield chunk
            chunk, n_characters = [], 0
    if chunk:
        yield chunk


def _encode_chunk(tokenizer: Tokenizer, texts: list[str]) -> list[tuple[list[int], int]]:
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [(e.ids, len(text.encode())) for e, text in zip(encodings, texts)]

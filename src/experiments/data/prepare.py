"""All that a run reads, made ready before it starts: vocabulary, tokens, held-out sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from experiments.config.schema import Data, EvalSet
from experiments.data.batches import PackedBatches, Windows, n_windows
from experiments.data.corpus import TRAIN, VALIDATION, Corpus, ShardedCorpus, check_split
from experiments.data.folders import identity, packed_folder, vocabulary_folder
from experiments.data.packed import PackedText
from experiments.data.packing import pack
from experiments.data.staged import Stage, StagedBatches
from experiments.data.stream import BASE, DomainStream
from experiments.data.streaming import StreamedBatches
from experiments.data.vocabulary import Vocabulary, prepare_vocabulary


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """train is None where it is streamed. domains: of a DomainStream, each one's training and
    validation tokens; train and validation are then the base's. Of a domain that is not learnt the
    training tokens are None.
    """

    vocabulary: Vocabulary
    train: PackedText | None
    validation: PackedText
    domains: Mapping[str, tuple[PackedText | None, PackedText]] = field(default_factory=dict)


def data_identity(data: Data) -> dict[str, Any]:
    """Corpus and the tokenizer in a run's identity."""
    return {"corpus": identity(data.corpus), "tokenizer": identity(data.tokenizer)}


def list_stages(data: Data) -> Mapping[str, float]:
    """Stages of a stream, in order, and their shares of the budget; {} for another corpus."""
    return data.corpus.stages if isinstance(data.corpus, DomainStream) else {}


def check_data(data: Data, sets: Mapping[str, EvalSet]) -> None:
    """Raises ValueError for a corpus that can't be read as is asked, before anything is; and for
    splits of the sets that their corpus has not, if it says which it has.
    """
    for name, chosen in sets.items():
        corpus = base_corpus(data.corpus) if chosen.corpus is None else chosen.corpus
        for i, split in enumerate(chosen.splits):
            known = getattr(corpus, "splits", (split,))
            check_split(split, known, f"eval.{name}.splits[{i}]")
    if data.skip_steps and isinstance(data.corpus, DomainStream):
        raise ValueError(
            f"data.skip_steps={data.skip_steps} with data=stream, whose stages begin at their "
            "beginning; leave it out"
        )
    if data.streaming and not isinstance(data.corpus, ShardedCorpus):
        raise ValueError(
            f"data.streaming=true needs a corpus in files, and {type(data.corpus).__name__} is "
            "made as a whole; use data.streaming=false, or data=c4 or data=local"
        )


def train_folder(data: Data, cache: Path) -> Path:
    """Folder of the training tokens; it may not exist yet."""
    corpus = base_corpus(data.corpus)
    return packed_folder(corpus, TRAIN, data.tokenizer, corpus, cache, data.max_train_tokens)


def base_corpus(corpus: Corpus) -> Corpus:
    """Corpus itself, or what comes before a stream's domains."""
    return corpus.base if isinstance(corpus, DomainStream) else corpus


def is_prepared(data: Data, cache: Path) -> bool:
    """Whether the vocabulary and the training tokens are there already."""
    if data.streaming:
        return vocabulary_folder(data.tokenizer, base_corpus(data.corpus), cache).exists()
    return train_folder(data, cache).exists()


def prepare_data(data: Data, cache: Path) -> PreparedData:
    """Downloads, trains the tokenizer and tokenizes, unless that was done before.

    Raises ValueError if a split is too short for one window.
    """
    corpus = base_corpus(data.corpus)
    vocabulary = prepare_vocabulary(data.tokenizer, corpus, cache)
    stream = data.corpus if isinstance(data.corpus, DomainStream) else None
    learnt, domains = (stream.order, stream.domains) if stream is not None else ((), {})
    every: dict[str, Corpus] = {} if data.streaming else {"": corpus}
    every |= {name: domain for name, domain in domains.items() if name in learnt}
    trained = EvalSet(corpus=None, splits=(TRAIN,), max_tokens=data.max_train_tokens)
    sets = {name: replace(trained, corpus=own) for name, own in every.items()}
    train = prepare_sets(data, sets, vocabulary, cache)
    first, *held_out = prepare_sets(data, held_out_sets(data), vocabulary, cache).values()
    validation = {"": first, **dict(zip(domains, held_out, strict=True))}
    for split, texts in ((TRAIN, train), (VALIDATION, validation)):
        for name, text in texts.items():
            if n_windows(len(text), data.seq_len) < 1:
                what = f"{name}'s {split}" if name else split
                raise ValueError(
                    f"the {what} split has {len(text)} tokens, fewer than one window of "
                    f"seq_len={data.seq_len}; use a longer text or a shorter ladder.seq_len"
                )
    return PreparedData(
        vocabulary=vocabulary,
        train=train.get(""),
        validation=first,
        domains={name: (train.get(name), validation[name]) for name in domains},
    )


def held_out_sets(data: Data) -> dict[str, EvalSet]:
    """Return the validation split as a set to score; of a stream its base's, and each domain's."""
    domains = data.corpus.domains if isinstance(data.corpus, DomainStream) else {}
    own = EvalSet(corpus=None, splits=(VALIDATION,), max_tokens=data.max_validation_tokens)
    return {
        BASE if domains else VALIDATION: own,
        **{name: replace(own, corpus=domain) for name, domain in domains.items()},
    }


def prepare_sets(
    data: Data, sets: Mapping[str, EvalSet], vocabulary: Vocabulary, cache: Path
) -> dict[str, PackedText]:
    """Named sets in the run's own tokens: `name`, or `name/split` of a set with several."""
    packed = {}
    for name, chosen in sets.items():
        corpus = base_corpus(data.corpus) if chosen.corpus is None else chosen.corpus
        for split in chosen.splits:
            label = name if len(chosen.splits) == 1 else f"{name}/{split}"
            packed[label] = _packed(data, corpus, split, chosen.max_tokens, vocabulary, cache)
    return packed


def _packed(
    data: Data,
    corpus: Corpus,
    split: str,
    limit: int | None,
    vocabulary: Vocabulary,
    cache: Path,
) -> PackedText:
    """Tokens of a split by the run's tokenizer, at least `limit` of them if it has as many."""
    base = base_corpus(data.corpus)
    folder = packed_folder(corpus, split, data.tokenizer, base, cache, limit)
    return pack(corpus, split, vocabulary, folder, cache, limit)


def training_batches(
    data: Data,
    prepared: PreparedData,
    cache: Path,
    *,
    batch_size: int,
    seed: int,
    positions: Mapping[int, Any] | None = None,
    stage_steps: Sequence[int] = (),
    replay: float = 0.0,
    most_windows: int | None = None,
    **place: int,
) -> IterableDataset[Windows]:
    """One rank's endless batches; place: start_step, rank, world_size.

    stage_steps: how many of them are of each stage of a stream (Plan.stage_steps); without, they
    are of its base. replay: the share of windows that are of the base instead.
    most_windows: of a packed text, only so many, from its beginning.
    """
    common = {"seq_len": data.seq_len, "batch_size": batch_size, "seed": seed, **place}
    if isinstance(data.corpus, DomainStream) and stage_steps:
        stages = _stages(data.corpus, prepared, stage_steps)
        return StagedBatches(stages, prepared.train, replay, **common)
    if prepared.train is not None:
        return PackedBatches(prepared.train, most_windows, **common)
    return StreamedBatches(
        data.corpus,
        prepared.vocabulary,
        cache,
        n_lanes=data.stream_lanes,
        shuffle_windows=data.stream_shuffle,
        positions=positions,
        **common,
    )


def _stages(
    stream: DomainStream, prepared: PreparedData, stage_steps: Sequence[int]
) -> list[Stage]:
    texts = [text for name in stream.order if (text := prepared.domains[name][0]) is not None]
    if stream.joint:
        shares = tuple(stream.domain_shares.values())
        return [Stage(n_steps=stage_steps[0], sources=texts, shares=shares)]
    return [Stage(n_steps=n, sources=(text,)) for n, text in zip(stage_steps, texts, strict=True)]

"""Texts that a model is inspected on: named sets, files of one's own, its own held-out text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.config.hydra_hints import choice_names
from experiments.config.words import split_key
from experiments.data.packed import INDEX_NAME, PackedText, Tokens, open_verified
from experiments.data.prepare import prepare_data, prepare_sets
from experiments.data.stream import BASE
from experiments.data.vocabulary import Vocabulary
from experiments.finished.model import run_vocabulary, scored_point
from experiments.points.point import Point
from experiments.records.record import RunRecord
from experiments.system.regular_files import read_regular_text


@dataclass(frozen=True, kw_only=True, eq=False)
class Text:
    """tokens in the run's own ids; digest: sha256, of the tokens. max_tokens: of them, in windows
    spread evenly, as experiments.evaluate has it; None: all.
    """

    name: str
    tokens: Tokens
    digest: str
    max_tokens: int | None = None


def split_names(given: Sequence[str]) -> tuple[list[str], list[Path]]:
    """Which of the names are sets of conf/eval, and which files or folders.

    Raises ValueError for one that is neither.
    """
    sets, files = [], []
    known = choice_names("eval")
    for name in given:
        if name in known:
            sets.append(name)
        elif Path(name).expanduser().exists():
            files.append(Path(name).expanduser())
        else:
            raise ValueError(f"texts={name} is no file, and no set; sets are {', '.join(known)}")
    return sets, files


def read_texts(
    run_dir: Path, record: RunRecord, names: Sequence[str], overrides: Sequence[str]
) -> tuple[list[Text], Vocabulary, Point]:
    """Named texts; without a name, the run's own validation split as it scored it itself, and
    of a stream those of its domains. overrides: of SCORING; of eval, keys of the named sets.

    Raises ValueError for a text of another tokenizer, one too short to read, and a key of a set
    that is not named.
    """
    sets, files = split_names(names)
    _check_sets(overrides, sets)
    words = [*overrides, f"eval=[{','.join(sets)}]"] if sets else list(overrides)
    point = scored_point(run_dir, record, words)
    data, cache = point.config.data, point.cache
    rule = point.config.evaluation
    texts = []
    if names and not sets:
        vocabulary = run_vocabulary(run_dir, record, point)
    else:
        prepared = prepare_data(data, cache)
        vocabulary = prepared.vocabulary
        chosen: dict[str, PackedText] = {}
        if sets:
            chosen = prepare_sets(data, point.config.eval, vocabulary, cache)
        else:
            domains = {name: held_out for name, (_, held_out) in prepared.domains.items()}
            chosen = {BASE if domains else "validation": prepared.validation, **domains}
        limit = rule.max_tokens if names else rule.max_tokens or data.n_eval_tokens
        texts += [
            Text(name=name, tokens=text, digest=text.digest, max_tokens=limit)
            for name, text in chosen.items()
        ]
    texts += [_of_file(path, run_dir, vocabulary, rule.max_tokens) for path in files]
    for i, text in enumerate(texts):
        if text.name in [other.name for other in texts[:i]]:
            raise ValueError(f"two texts are named {text.name}; rename a file")
    return texts, vocabulary, point


def _check_sets(overrides: Sequence[str], sets: Sequence[str]) -> None:
    for word in overrides:
        node, _, rest = split_key(word).partition(".")
        name = rest.partition(".")[0]
        if node == "eval" and name not in sets:
            raise ValueError(
                f"{word} is of no set that is read ({', '.join(sets) or 'texts= names none'}); "
                f"give texts={name or 'NAME'}"
            )


def _of_file(path: Path, run_dir: Path, vocabulary: Vocabulary, limit: int | None) -> Text:
    if (path / INDEX_NAME).exists():
        packed = open_verified(path)
        if packed.tokenizer_sha256 != vocabulary.sha256:
            theirs = (packed.tokenizer_sha256 or "unknown")[:8]
            raise ValueError(
                f"{path} holds tokens of another tokenizer ({theirs}) "
                f"than {run_dir}'s ({vocabulary.sha256[:8]}); give the text itself"
            )
        return Text(name=path.name, tokens=packed, digest=packed.digest, max_tokens=limit)
    try:
        content = read_regular_text(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason}); convert it first") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder without {INDEX_NAME}; name a text in it") from None
    ids = np.array(vocabulary.tokenizer().encode(content).ids, np.int64)
    if len(ids) < 2:
        raise ValueError(f"{path} has {len(ids)} tokens: too few, one to read and one to predict")
    digest = hashlib.sha256(ids.tobytes()).hexdigest()
    return Text(name=path.stem, tokens=ids, digest=digest, max_tokens=limit)

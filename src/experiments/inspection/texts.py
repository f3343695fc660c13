"""Texts that a model is inspected on: named sets, files of one's own, its own held-out text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.config.hydra_hints import choice_names
from experiments.config.words import split_key
from experiments.data.packed import INDEX_NAME, Tokens, open_verified
from experiments.data.prepare import held_out_sets, prepare_sets
from experiments.finished.model import Finished
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

    @property
    def identity(self) -> dict[str, Any]:
        """Name, content and limit, in plain values."""
        return {"name": self.name, "digest": self.digest, "max_tokens": self.max_tokens}


def with_sets(names: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Add eval=[...] of the named sets to the overrides, which are of SCORING.

    Raises ValueError for a name that is no file and no set, and for a key of a set that is not
    named.
    """
    known = choice_names("eval")
    sets = [name for name in names if name in known]
    for name in names:
        if name not in known and not Path(name).expanduser().exists():
            raise ValueError(f"texts={name} is no file, and no set; sets are {', '.join(known)}")
    for word in overrides:
        node, _, rest = split_key(word).partition(".")
        name = rest.partition(".")[0]
        if node == "eval" and name not in sets:
            raise ValueError(
                f"{word} is of no set that is read ({', '.join(sets) or 'texts= names none'}); "
                f"give texts={name or 'NAME'}"
            )
    return [*overrides, f"eval=[{','.join(sets)}]"] if sets else [*overrides]


def read_texts(run: Finished, names: Sequence[str]) -> list[Text]:
    """Read the named texts; without a name, the run's own validation split as it scored it itself,
    and of a stream those of its domains. run: with_sets.

    Raises ValueError for a text of another tokenizer, and one too short to read.
    """
    data, limit = run.config.data, run.config.evaluation.max_tokens
    chosen = run.config.eval if names else held_out_sets(data)
    packed = prepare_sets(data, chosen, run.vocabulary, run.cache)
    limit = limit if names else limit or data.n_eval_tokens
    texts = [
        Text(name=name, tokens=text, digest=text.digest, max_tokens=limit)
        for name, text in packed.items()
    ]
    files = [Path(name).expanduser() for name in names if name not in chosen]
    texts += [_of_file(path, run, limit) for path in files]
    for i, text in enumerate(texts):
        if text.name in [other.name for other in texts[:i]]:
            raise ValueError(f"two texts are named {text.name}; rename a file")
    return texts


def _of_file(path: Path, run: Finished, limit: int | None) -> Text:
    vocabulary = run.vocabulary
    if (path / INDEX_NAME).exists():
        packed = open_verified(path)
        if packed.tokenizer_sha256 != vocabulary.sha256:
            theirs = (packed.tokenizer_sha256 or "unknown")[:8]
            raise ValueError(
                f"{path} holds tokens of another tokenizer ({theirs}) "
                f"than {run.run_dir}'s ({vocabulary.sha256[:8]}); give the text itself"
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

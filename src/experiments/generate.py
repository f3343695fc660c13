"""Goes on with a text by a finished run's model: `python -m experiments.generate RUN "text"`."""

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from experiments.cli import exit_codes
from experiments.config.constraints import AtLeast1, Seed, Within, check_fields
from experiments.config.reading import read
from experiments.data.text_stream import TextStream
from experiments.data.vocabulary import Vocabulary
from experiments.finished import PLACES, finished_record, read_finished
from experiments.models.generation import Sampling, generate
from experiments.models.transformer import Transformer
from experiments.served import WORD, attach_library, split_word
from experiments.system.version import version_line

USAGE = """\
usage: python -m experiments.generate RUN TEXT... [temperature=1] [top_p=0.9] ...

Goes on with each text, and prints text and continuation as they are made. Without a text, the
whole of standard input is one. An empty text ('') begins a document. It stops where the model ends
the document.

  RUN                 the run's folder, results/<sweep>/<run_id>
  temperature=T       draws by logits / T; 0, the default, takes the likeliest token
  top_p=P             draws from the likeliest tokens whose probabilities sum to P; default 1
  max_tokens=N        at most N new ones of each text; default 128
  seed=N              of the draws; default 0. One text's do not depend on the others
  library=FOLDER      adapters that are found at run time (experiments.library)
  paths.cache=PATH    and other keys of trainer and paths
  --                  all words after it are texts, those with = too
"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a command line asks for; the fields of Sampling are explained there."""

    temperature: Annotated[float, Within(0, 1e3)] = 0.0
    top_p: Annotated[float, Within(0, 1, above=True)] = 1.0
    max_tokens: AtLeast1 = 128
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)
        _ = self.sampling

    @property
    def sampling(self) -> Sampling:
        """How each token is chosen."""
        return Sampling(temperature=self.temperature, top_p=self.top_p)


def continuation(
    vocabulary: Vocabulary, model: Transformer, text: str, request: Request
) -> Iterator[str]:
    """Pieces of the text that the model makes after `text`, as they come; then speed, on stderr."""
    tokenizer = vocabulary.tokenizer()
    tokens = tokenizer.encode(text).ids or [vocabulary.end_of_text]
    stream = TextStream(tokenizer, tokens)
    made = generate(
        model,
        tokens,
        n_tokens=request.max_tokens,
        end=vocabulary.end_of_text,
        sampling=request.sampling,
        seed=request.seed,
    )
    started, n = time.perf_counter(), 0
    for token in made:
        n += 1
        yield stream.add(token)
    yield stream.rest()
    seconds = time.perf_counter() - started
    end = "" if n == request.max_tokens else ", to the end of the text"
    seen, seq_len = len(tokens) + n, model.config.seq_len
    long = f"; {seen} tokens in all, and it was trained on {seq_len}" if seen > seq_len else ""
    print(f"[{n} tokens, {n / seconds:.0f} a second{end}{long}]", file=sys.stderr, flush=True)


def read_words(words: Sequence[str]) -> tuple[Path, list[str], Mapping[str, object], list[str]]:
    """The run's folder, the texts, the request's values and the overrides of a command line.

    Raises ValueError for a word of the form key=value with an unknown key, and for no run.
    """
    cut = list(words).index("--") if "--" in words else len(words)
    texts: list[str] = []
    values: dict[str, object] = {}
    overrides: list[str] = []
    known = ("temperature", "top_p", "max_tokens", "seed")
    for word in words[:cut]:
        key, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[a-z_.]+", key):
            texts.append(word)
        elif key in known:
            values[key] = _number(value)
        elif key.partition(".")[0] in (*PLACES, WORD):
            overrides.append(word)
        else:
            raise ValueError(
                f"{word}: unknown key; known: {', '.join(known)}, {WORD}, and those of "
                f"{' and '.join(PLACES)}; put -- before a text that looks like this"
            )
    texts += words[cut + 1 :]
    if not texts:
        raise ValueError("no run is given; name the folder of one, results/<sweep>/<run_id>")
    return Path(texts[0]), texts[1:], values, overrides


def _number(text: str) -> object:
    """The number that a text says, or the text, which the request then refuses."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _texts(given: list[str]) -> list[str]:
    if given:
        return given
    if sys.stdin.isatty():
        raise ValueError("no text is given; put one in quotes after the run, or pipe one in")
    return [sys.stdin.read().removesuffix("\n")]


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words) or not words:
        print(USAGE)
        return
    if "--version" in words:
        print(version_line())
        return
    with exit_codes():
        run_dir, given, values, overrides = read_words(words)
        request: Request = read(Request, values)
        library, overrides = split_word(overrides)
        if not finished_record(run_dir).causal_eval:
            raise ValueError(
                f"{run_dir} has a layer of expert choice, which routes by later tokens too: it is "
                "not causal and can't generate; train a causal one, as model=moe_fine"
            )
        texts = _texts(given)
        record, vocabulary, model = read_finished(run_dir, overrides)
        if library is not None:
            attach_library(library, run_dir, record, model)
        for i, text in enumerate(texts):
            print("\n" * (i > 0) + text, end="", flush=True)
            for piece in continuation(vocabulary, model, text, request):
                print(piece, end="", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()

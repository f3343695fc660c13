"""Goes on with a text by a finished run's model: `python -m experiments.generate RUN "text"`."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.config.constraints import AtLeast1, Seed
from experiments.config.reading import read
from experiments.config.words import LIBRARY, PATCH, PLACES, Words, check_text
from experiments.inspection.editing.patch import named_patch
from experiments.models.sampling import Sampling
from experiments.records.finished import finished_record
from experiments.system.command import run_words
from experiments.system.plain_text import printable, raw

if TYPE_CHECKING:
    from experiments.data.vocabulary import Vocabulary
    from experiments.models.transformer import Transformer

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
  patch=FILE          edits of its experts (inspect patch)
  paths.cache=PATH    and other keys of trainer and paths
  --                  all words after it are texts, those with = or a dash before them too
"""
_OWN = ("temperature", "top_p", "max_tokens", "seed")  # the fields of Request


@dataclass(frozen=True, kw_only=True)
class Request(Sampling):
    """A command line's request: of how many tokens, by which seed."""

    max_tokens: AtLeast1 = 128
    seed: Seed = 0


def continuation(
    vocabulary: "Vocabulary", model: "Transformer", text: str, request: Request
) -> Iterator[str]:
    """Pieces of the text that the model makes after `text`, as they come; then speed, on stderr."""
    from experiments.data.text_stream import TextStream
    from experiments.models.generation import generate

    tokenizer = vocabulary.tokenizer()
    tokens = tokenizer.encode(text).ids or [vocabulary.end_of_text]
    stream = TextStream(tokenizer, tokens)
    made = generate(
        model,
        tokens,
        n_tokens=request.max_tokens,
        end=vocabulary.end_of_text,
        sampling=request,
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


def _number(text: str) -> object:
    """Number that a text says, or the text, which the request then refuses."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _texts(given: tuple[str, ...]) -> tuple[str, ...]:
    if given:
        return given
    if sys.stdin.isatty():
        raise ValueError("no text is given; put one in quotes after the run, or pipe one in")
    try:
        text = sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"standard input is not UTF-8 ({error}); convert it first") from None
    check_text(text, "convert standard input to it first")
    return (text,)


def _run(words: Words) -> None:
    if not words.plain:
        raise ValueError("no run is given; name the folder of one, results/<sweep>/<run_id>")
    run_dir, values = Path(words.plain[0]), dict(words.values)
    library, _ = values.pop(LIBRARY, None), values.pop(PATCH, None)
    request: Request = read(Request, {key: _number(value) for key, value in values.items()})
    record = finished_record(run_dir)
    change = named_patch(words.values, run_dir, record)
    if not record.causal_eval:
        raise ValueError(
            f"{run_dir} has a layer of expert choice, which routes by later tokens too: it is "
            "not causal and can't generate; train a causal one, as model=moe_fine"
        )
    texts = _texts(words.plain[1:])
    from experiments.finished.library import attach_library
    from experiments.finished.model import (
        read_finished,  # seconds, which a wrong word need not wait for
    )
    from experiments.system.environment import without_denormals

    record, vocabulary, model = read_finished(run_dir, words.overrides)
    if change is not None:
        change.change(model)
    if library is not None:
        attach_library(Path(library).expanduser(), run_dir, record, model)
    shown = sys.stdout.isatty()  # a model may write what moves a terminal's cursor; a file has it
    out = sys.stdout if shown else raw(sys.stdout)
    with without_denormals():
        for i, text in enumerate(texts):
            print("\n" * (i > 0) + text, end="", file=out, flush=True)
            for piece in continuation(vocabulary, model, text, request):
                print(printable(piece, "\n\t") if shown else piece, end="", file=out, flush=True)
            print(flush=True)


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    run_words(lambda: USAGE, _run, keys=(*_OWN, LIBRARY, PATCH), nodes=PLACES)


if __name__ == "__main__":
    main()

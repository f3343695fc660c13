"""Looks inside a finished run: `python -m experiments.inspect RUN [texts=NAME,...]`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.hydra_hints import choice_names
from experiments.config.words import Words
from experiments.records.record import finished_record
from experiments.system.command import run_words
from experiments.system.disk import check_writable
from experiments.system.text_table import aligned

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from experiments.inspection.cards import LayerCard
    from experiments.inspection.contributions import Contributions

USAGE = """\
usage: python -m experiments.inspect RUN [texts=NAME,...] [layers=NAME,...] ...

Reads texts with a finished run's model, and keeps of each layer which experts read them: tables,
a card of each layer and a page, inspect.html, in a folder. Interrupted, the same command goes on.
With text="..." it says instead what each expert adds to the logit of the next token.

  RUN                         the run's folder, results/<sweep>/<run_id>
  texts=NAME,...              sets ({sets}), files of text,
                              or folders of packed tokens; each is a domain. Without it, the run's
                              own validation text, as the run scored it
  layers=NAME,...             as blocks.1.ffn; all that can say so without it
  out=FOLDER                  instead of RUN/inspection
  text=TEXT                   one text, to be looked at token by token; nothing is written
  top=N                       experts a token that are shown of it; default 3
  evaluation.max_tokens=N     of each text, in windows spread evenly; all without it
  evaluation.batch_size=N     sequences; changes no result but by rounding
  trainer.accelerator=cpu     and other keys of trainer and paths
"""
_KEYS = ("texts", "layers", "out", "text", "top")
_NODES = ("evaluation", "trainer", "paths")


def inspect_run(
    run_dir: Path,
    texts: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    layers: Sequence[str] | None = None,
    folder: Path | None = None,
) -> "list[LayerCard]":
    """The cards of a run's layers over texts; all tables are in the folder then. Cards that are
    there already are read.

    Raises ValueError for a run that is not done, a layer that can't say which experts it reads, a
    text of another tokenizer, and a folder of other results.
    """
    record = finished_record(run_dir)
    folder = run_dir / "inspection" if folder is None else folder
    check_writable(folder, "or name another folder by out=...")
    # seconds, which what is refused need not wait for
    from experiments.finished.model import trained_model
    from experiments.inspection.cards import layer_card
    from experiments.inspection.interface import inspected_layers
    from experiments.inspection.page.page import page_of
    from experiments.inspection.reading import Pass, read_through
    from experiments.inspection.results import FORMAT, read_cards, write_results
    from experiments.inspection.statistics import Bounds
    from experiments.inspection.tables import inspection_of
    from experiments.inspection.texts import read_texts
    from experiments.system.disk import make_folder

    chosen, vocabulary, point = read_texts(run_dir, record, texts, overrides)
    model = trained_model(run_dir, point, vocabulary)
    found_layers = inspected_layers(model, layers)
    batch_size = point.config.evaluation.batch_size or point.config.ladder.batch_size
    identity: dict[str, Any] = {
        "format": FORMAT,
        "run_id": record.run_id,
        "layers_read": [layer.name for layer in found_layers],
        "texts": [{"name": t.name, "digest": t.digest, "max_tokens": t.max_tokens} for t in chosen],
        "batch_size": batch_size,
    }
    cards = read_cards(folder, identity)
    if cards is not None:
        return cards
    reading = Pass(
        texts=chosen,
        seq_len=point.config.data.seq_len,
        batch_size=batch_size,
        vocab_size=vocabulary.n_entries,
        end_of_text=vocabulary.end_of_text,
        bounds=Bounds(),
        identity=identity,
    )
    print(
        f"{len(found_layers)} layers over {reading.n_tokens():,} tokens of {len(chosen)} texts: "
        f"statistics take up to {reading.n_bytes(found_layers) / 2**20:,.0f} MiB of memory",
        flush=True,
    )
    make_folder(folder)
    found = read_through(model, found_layers, reading, folder)
    cards = [layer_card(layer, found[layer.name]) for layer in found_layers]
    whole = inspection_of(model, found_layers, cards, found, chosen, vocabulary, identity)
    write_results(folder, whole, page_of(whole, name=record.model))
    return cards


def explain_text(
    run_dir: Path,
    text: str,
    overrides: Sequence[str] = (),
    *,
    layers: Sequence[str] | None = None,
) -> "tuple[Tokenizer, list[int], list[Contributions]]":
    """The tokenizer, a text's ids, with the end of another document before them, and of each layer
    what its experts add to the logits of the next tokens.

    Raises ValueError as inspect_run does, and for a text longer than the model's window.
    """
    finished_record(run_dir)
    import torch

    from experiments.finished.model import read_finished
    from experiments.inspection.contributions import contributions
    from experiments.inspection.interface import inspected_layers

    record, vocabulary, model = read_finished(run_dir, overrides)
    tokenizer = vocabulary.tokenizer()
    ids = [vocabulary.end_of_text, *tokenizer.encode(text).ids]
    seq_len = model.config.seq_len
    if len(ids) > seq_len:
        raise ValueError(
            f"the text has {len(ids)} tokens, its beginning included, more than the {seq_len} that "
            f"{record.run_id} reads; shorten it"
        )
    chosen = inspected_layers(model, layers)
    return tokenizer, ids, contributions(model, chosen, torch.tensor(ids))


def _show(tokenizer: "Tokenizer", ids: Sequence[int], found: "Contributions", top: int) -> str:
    def shown(token: int) -> str:
        return repr(tokenizer.decode([token], skip_special_tokens=False))

    rows = [
        ("token", "next", "logit", "layer", "beside", f"the {top} experts of the largest parts")
    ]
    for t, token in enumerate(ids):
        parts: dict[int, float] = {}
        for expert, part in zip(found.slots.experts[t].tolist(), found.of_slots[t].tolist()):
            parts[expert] = parts.get(expert, 0.0) + part
        largest = sorted(parts, key=lambda expert: -abs(parts[expert]))[:top]
        rows.append(
            (
                shown(token),
                shown(int(found.targets[t])),
                f"{float(found.logits[t]):.3f}",
                f"{float(found.layer[t]):+.3f}",
                f"{float(found.beside[t]):+.3f}",
                "  ".join(f"{expert}: {parts[expert]:+.3f}" for expert in largest),
            )
        )
    return "\n".join([found.layer_name, *aligned(rows, n_left=2)])


def _top(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError(f"top={text} must be a whole number of at least 1")
    return int(text)


def _names(text: str | None) -> list[str]:
    """The names between commas, with brackets around them or without."""
    return [name for name in (text or "").strip("[]").split(",") if name]


def _run(words: Words) -> None:
    if len(words.plain) != 1:
        raise ValueError(
            f"one run's folder is needed, and {len(words.plain)} are given "
            f"({', '.join(words.plain)}); texts are given as texts=NAME,..."
        )
    run_dir, values = Path(words.plain[0]), words.values
    layers = _names(values.get("layers")) or None
    if "text" in values:
        if other := [key for key in ("texts", "out") if key in values]:
            raise ValueError(f"text= is looked at by itself; leave out {'= and '.join(other)}=")
        top = _top(values.get("top", "3"))
        tokenizer, ids, found = explain_text(
            run_dir, values["text"], words.overrides, layers=layers
        )
        print("\n\n".join(_show(tokenizer, ids, one, top) for one in found))
        return
    if "top" in values:
        raise ValueError("top= is of text=...; give one, or leave it out")
    out = Path(values["out"]).expanduser() if "out" in values else run_dir / "inspection"
    cards = inspect_run(
        run_dir, _names(values.get("texts")), words.overrides, layers=layers, folder=out
    )
    from experiments.inspection.cards import cards_table
    from experiments.inspection.results import PAGE

    print("\n".join(aligned(cards_table(cards), n_left=2)))
    if not all(card.routed for card in cards):
        print("* no router: of each token, the hidden units that write most")
    print(f"tables: {out}")
    print(f"page: {out / PAGE}")


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    run_words(
        lambda: USAGE.format(sets=", ".join(choice_names("eval"))),
        _run,
        keys=_KEYS,
        nodes=_NODES,
    )


if __name__ == "__main__":
    main()

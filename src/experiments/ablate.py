"""Takes experts away, and says what is lost: `python -m experiments.ablate RUN experts=[...]`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.words import Words
from experiments.inspection.command import run_on_texts
from experiments.records.finished import finished_record
from experiments.records.record import RunRecord
from experiments.system.disk import check_writable, followed, reached
from experiments.system.several_files import NotWholeError
from experiments.system.text_table import aligned

if TYPE_CHECKING:
    from experiments.inspection.ablation.facts import Facts
    from experiments.inspection.ablation.result import Ablation
    from experiments.models.transformer import Transformer

USAGE = """\
usage: python -m experiments.ablate RUN experts=[I,...] | domain=NAME | facts=FILE ...

Scores a finished run without some of its experts, and without as many random ones that are read as
much: by how much each loss rises, with intervals over documents or facts, and whether it rises more
where it was meant to. The run stays as it is; tables are in a folder beside it.

  RUN                         the run's folder, results/<sweep>/<run_id>
  layer=NAME                  as blocks.1.ffn; not needed where one layer alone has experts
  experts=[I,J-K]             these experts, on texts or on facts
  domain=NAME                 those of the highest lift in one of the texts; half of the documents
                              choose them, and the others are scored
  facts=FILE                  lines of JSON with prompt, target and siblings, at least 20: those of
                              the largest parts in the logits of each fact's target
  top=N                       experts that are chosen; default 16
{texts}
  draws=N                     sets of random experts, 2 to 1,000; default 5
  seed=N                      of the draws; default 0
  out=FOLDER                  instead of RUN/ablation
{keys}"""
_NUMBERS: dict[str, tuple[int, ...]] = {  # default, least and most
    "top": (16, 1),
    "draws": (5, 2, 1000),
    "seed": (0, 0),
}
_KEYS = ("layer", "experts", "domain", "facts", "texts", "out", *_NUMBERS)


def ablate_on_texts(
    run_dir: Path,
    texts: Sequence[str] = (),
    overrides: Sequence[str] = (),
    *,
    layer: str | None = None,
    experts: Sequence[int] | None = None,
    domain: str | None = None,
    top: int = 16,
    draws: int = 5,
    seed: int = 0,
    folder: Path | None = None,
) -> "Ablation":
    """Without experts, or those of the highest lift in a domain: the change of each text's loss.

    Raises ValueError for a run that is not done, a text with too few documents, and what can't be
    chosen so.
    """
    record, folder = _begun(run_dir, folder)
    # seconds, which what is refused need not wait for
    from experiments.finished.model import trained_model
    from experiments.inspection.ablation.of_texts import OfTexts, ablate_texts, units_of
    from experiments.inspection.interface import the_layer
    from experiments.inspection.texts import read_texts

    chosen, vocabulary, point = read_texts(run_dir, record, texts, overrides)
    names = [text.name for text in chosen]
    if domain is not None and (domain not in names or len(names) < 2):
        raise ValueError(
            f"domain={domain} must be one of at least two texts, and they are {', '.join(names)}; "
            "give texts=NAME,NAME"
        )
    batch_size = point.config.evaluation.batch_size or point.config.ladder.batch_size
    units = units_of(
        chosen,
        point.config.data.seq_len,
        batch_size,
        vocabulary.end_of_text,
        halved=experts is None,
    )
    model = trained_model(run_dir, point, vocabulary)
    found = the_layer(model, layer)
    asked = OfTexts(
        experts=None if experts is None else tuple(experts),
        target=domain,
        top=top,
        n_draws=draws,
        seed=seed,
    )
    identity = {
        **_identity(record, model, found.name, experts, top, draws, seed),
        "domain": domain,
        "texts": [{"name": t.name, "digest": t.digest, "max_tokens": t.max_tokens} for t in chosen],
    }
    return _once(folder, identity, lambda: ablate_texts(model, found, units, asked))


def ablate_on_facts(
    run_dir: Path,
    facts: "Facts",
    overrides: Sequence[str] = (),
    *,
    layer: str | None = None,
    experts: Sequence[int] | None = None,
    top: int = 16,
    draws: int = 5,
    seed: int = 0,
    folder: Path | None = None,
) -> "Ablation":
    """Without experts, or those of the largest parts in a fact's target: the change of its loss,
    of its siblings' and of other facts'.

    Raises ValueError for a run that is not done or not causal, and for facts that can't be scored.
    """
    record, folder = _begun(run_dir, folder)
    if not record.causal_eval:
        raise ValueError(
            f"{run_dir} has a layer of expert choice, which routes by later tokens too: it gives a "
            "target no probability of its own; give texts="
        )
    from experiments.finished.model import run_vocabulary, scored_point
    from experiments.finished.scores import scorer_of
    from experiments.inspection.ablation.of_facts import OfFacts, ablate_facts, encode_facts
    from experiments.inspection.interface import the_layer
    from experiments.tasks.scoring import Encoder

    point = scored_point(run_dir, record, overrides)
    vocabulary = run_vocabulary(run_dir, record, point)
    asked = encode_facts(facts, Encoder.of(vocabulary), point.config.data.seq_len, seed)
    scorer = scorer_of(run_dir, point, vocabulary)
    found = the_layer(scorer.model, layer)
    how = OfFacts(
        experts=None if experts is None else tuple(experts), top=top, n_draws=draws, seed=seed
    )
    identity = {
        **_identity(record, scorer.model, found.name, experts, top, draws, seed),
        "facts": facts.digest,
    }
    return _once(folder, identity, lambda: ablate_facts(scorer, found, asked, how))


def _once(folder: Path, identity: Mapping[str, Any], ask: Callable[[], "Ablation"]) -> "Ablation":
    """The ablation that answers a question: read, or asked where it is not there as it was
    written.
    """
    from experiments.inspection.ablation.saved import read_ablation, write_ablation

    try:
        result = read_ablation(folder, identity)
    except NotWholeError as error:
        print(f"{error}", file=sys.stderr, flush=True)
        result = None
    if result is None:
        result = ask()
        write_ablation(folder, result, identity)
    return result


def _begun(run_dir: Path, folder: Path | None) -> tuple[RunRecord, Path]:
    record = finished_record(run_dir)
    folder = reached(run_dir) / "ablation" if folder is None else folder
    check_writable(folder, "or name another folder by out=...")
    return record, folder


def _identity(
    record: RunRecord,
    model: "Transformer",
    layer: str,
    experts: Sequence[int] | None,
    top: int,
    draws: int,
    seed: int,
) -> dict[str, Any]:
    from experiments.models.digest import tensors_sha256

    return {
        "run_id": record.run_id,
        "weights": tensors_sha256(model.state_dict()),
        "layer": layer,
        "experts": None if experts is None else list(experts),
        "top": top if experts is None else None,
        "draws": draws,
        "seed": seed,
    }


def _run(words: Words) -> None:
    run_dir, values = Path(words.one_run("texts are given as texts=NAME,...")), words.values
    _check_keys(values)
    from experiments.inspection.editing.making import read_indices

    settings: dict[str, Any] = {
        "layer": values.get("layer"),
        "folder": followed(Path(values["out"]).expanduser()) if "out" in values else None,
        **{key: words.number(key, *about) for key, about in _NUMBERS.items()},
    }
    if "experts" in values:
        settings["experts"] = read_indices(values["experts"], "experts")
        if not settings["experts"]:
            raise ValueError("experts= names none; give experts=[17,40-52]")
    if "facts" in values:
        from experiments.inspection.ablation.facts import read_facts

        facts = read_facts(Path(values["facts"]).expanduser())
        result = ablate_on_facts(run_dir, facts, words.overrides, **settings)
    else:
        settings["domain"] = values.get("domain")
        result = ablate_on_texts(run_dir, words.names("texts"), words.overrides, **settings)
    _show(result, settings["folder"] or run_dir / "ablation", by_text="facts" not in values)


def _check_keys(values: Any) -> None:
    ways = [key for key in ("experts", "domain", "facts") if key in values]
    if not ways:
        raise ValueError("no experts are chosen; give experts=[17], domain=NAME or facts=FILE")
    if "domain" in values and len(ways) > 1:
        raise ValueError(f"{'= and '.join(ways)}= choose experts in two ways; give one")
    if "facts" in values and "texts" in values:
        raise ValueError("facts= and texts= are two ablations; give one of them")
    if "experts" in values and "top" in values:
        raise ValueError("top= is of domain= and facts=; leave it out, or leave out experts=")


def _show(result: "Ablation", folder: Path, *, by_text: bool) -> None:
    from experiments.inspection.ablation.saved import rows_table

    n = sorted({len(own) for own in result.experts.values()})
    each = "" if len(result.experts) == 1 else " for each fact"
    unit = "token" if by_text else "target"
    print(
        f"{result.layer}: without {'-'.join(map(str, n[:: max(1, len(n) - 1)]))} experts{each}; "
        f"{result.n_draws} draws of as many others have {result.mass_ratio:.2f} of their mass"
    )
    print(f"change of the loss, nats a {unit}, with 95 % intervals over {result.unit}s")
    print("\n".join(aligned(rows_table(result))))
    print(f"tables: {folder}")


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    run_on_texts(USAGE, _run, _KEYS)


if __name__ == "__main__":
    main()

"""Change of a loss without some experts, beside as many random ones."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.words import SCORING, Words
from experiments.inspection.command import Question
from experiments.records.finished import finished_record
from experiments.system.disk import check_writable, followed, reached
from experiments.system.several_files import NotWholeError
from experiments.system.text_table import aligned

if TYPE_CHECKING:
    from experiments.inspection.ablation.choosing import Choice
    from experiments.inspection.ablation.facts import Facts
    from experiments.inspection.ablation.result import Ablation, Estimate

_USAGE = """\
usage: python -m experiments.inspect ablate RUN experts=[I,...] | domain=NAME | facts=FILE ...

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


def ablate_run(
    run_dir: Path,
    choice: "Choice",
    *,
    facts: "Facts | None" = None,
    texts: Sequence[str] = (),
    layer: str | None = None,
    overrides: Sequence[str] = (),
    folder: Path | None = None,
) -> "Ablation":
    """Loss that the chosen experts spare: of each text, or of facts, their siblings and other
    facts. What was asked before is read from the folder.

    Raises ValueError for a run that is not done, one that is not causal with facts, a text with too
    few documents, and what can't be chosen or scored so.
    """
    record = finished_record(run_dir)
    folder = reached(run_dir) / "ablation" if folder is None else folder
    check_writable(folder, "or name another folder by out=...")
    if facts is not None and not record.causal_eval:
        raise ValueError(
            f"{run_dir} has a layer of expert choice, which routes by later tokens too: it gives a "
            "target no probability of its own; give texts="
        )
    # seconds, which what is refused need not wait for
    from experiments.finished.model import read_run, trained_model
    from experiments.finished.scores import make_scorer
    from experiments.inspection.ablation import of_facts, of_texts
    from experiments.inspection.ablation.result import read_ablation, write_ablation
    from experiments.inspection.interface import the_layer
    from experiments.inspection.texts import read_texts, with_sets
    from experiments.models.digest import tensors_sha256
    from experiments.tasks.scoring import Encoder

    run = read_run(run_dir, record, with_sets(texts, overrides), SCORING)
    seq_len = run.config.data.seq_len
    if facts is not None:
        encoder = Encoder.of(run.vocabulary)
        asked = of_facts.encode_facts(facts, encoder, seq_len, choice.seed)
        scorer = make_scorer(run)
        scored = scorer.model
        found = the_layer(scored, layer)
        about: dict[str, Any] = {"facts": facts.digest}
        ablate = partial(of_facts.ablate_facts, scorer, found, asked, choice)
    else:
        chosen = read_texts(run, texts)
        names = [text.name for text in chosen]
        if choice.domain is not None and (choice.domain not in names or len(names) < 2):
            raise ValueError(
                f"domain={choice.domain} must be one of at least two texts, and they are "
                f"{', '.join(names)}; give texts=NAME,NAME"
            )
        end, halved = run.vocabulary.end_of_text, choice.experts is None
        units = of_texts.make_units(chosen, seq_len, run.batch_size, end, halved=halved)
        scored = trained_model(run)
        found = the_layer(scored, layer)
        about = {"domain": choice.domain, "texts": [text.identity for text in chosen]}
        ablate = partial(of_texts.ablate_texts, scored, found, units, choice)
    identity = {
        "run_id": record.run_id,
        "weights": tensors_sha256(scored.state_dict()),
        "layer": found.name,
        "experts": None if choice.experts is None else list(choice.experts),
        "top": choice.top if choice.experts is None else None,
        "draws": choice.draws,
        "seed": choice.seed,
        **about,
    }
    result = None
    try:
        result = read_ablation(folder, identity)
    except NotWholeError as error:
        print(f"{error}", file=sys.stderr, flush=True)
    if result is None:
        result = ablate()
        write_ablation(folder, result, identity)
    return result


def _run(words: Words) -> None:
    run_dir, values = Path(words.one_run("texts are given as texts=NAME,...")), words.values
    ways = [key for key in ("experts", "domain", "facts") if key in values]
    if not ways:
        raise ValueError("no experts are chosen; give experts=[17], domain=NAME or facts=FILE")
    if "domain" in values and len(ways) > 1:
        raise ValueError(f"{'= and '.join(ways)}= choose experts in two ways; give one")
    if "facts" in values and "texts" in values:
        raise ValueError("facts= and texts= are two ablations; give one of them")
    if "experts" in values and "top" in values:
        raise ValueError("top= is of domain= and facts=; leave it out, or leave out experts=")
    from experiments.inspection.ablation.choosing import Choice
    from experiments.inspection.ablation.facts import read_facts
    from experiments.inspection.editing.patch import read_indices

    numbers = {key: words.number(key, *about) for key, about in _NUMBERS.items()}
    experts = read_indices(values["experts"], "experts") if "experts" in values else None
    if experts == ():
        raise ValueError("experts= names none; give experts=[17,40-52]")
    folder = followed(Path(values["out"]).expanduser()) if "out" in values else None
    result = ablate_run(
        run_dir,
        Choice(experts=experts, domain=values.get("domain"), **numbers),
        facts=read_facts(Path(values["facts"]).expanduser()) if "facts" in values else None,
        texts=words.names("texts"),
        layer=values.get("layer"),
        overrides=words.overrides,
        folder=folder,
    )
    unit = "target" if "facts" in values else "token"
    print("\n".join([*format_lines(result, unit), f"tables: {folder or run_dir / 'ablation'}"]))


def format_lines(result: "Ablation", unit: str) -> list[str]:
    """Lines for a terminal. unit: what the loss is of, a token or a target."""

    def shown(estimate: "Estimate") -> str:
        low, high = estimate.interval()
        return f"{estimate.value:+.4f} [{low:+.4f}, {high:+.4f}]"

    n = sorted({len(own) for own in result.experts.values()})
    each = "" if len(result.experts) == 1 else " for each fact"
    head = ("", f"{result.unit}s", "without the chosen", "without random ones", "difference")
    rows = [
        (row.what, f"{row.n_units:,}", *map(shown, (row.chosen, row.random, row.excess)))
        for row in result.rows
    ]
    return [
        f"{result.layer}: without {'-'.join(map(str, n[:: max(1, len(n) - 1)]))} experts{each}; "
        f"{result.n_draws} draws of as many others have {result.mass_ratio:.2f} of their mass",
        f"change of the loss, nats a {unit}, with 95 % intervals over {result.unit}s",
        *aligned([head, *rows]),
    ]


QUESTION = Question(
    usage=_USAGE, run=_run, keys=("layer", "experts", "domain", "facts", "texts", "out", *_NUMBERS)
)

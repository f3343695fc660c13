"""Study's appendix, from its records: `python -m tests.study.appendix`.

Writes results/study/appendix.md and results/study/runs.csv: a card of each layer, every rate that
was tried, the text, what it cost, and a row a run.
"""

import csv
import io
import math
import re
from collections import defaultdict

from analysis.numbers import flops
from experiments.records.files import find_records, read_record
from tests.study.records import RESULTS, ROOT

DOCUMENT = ROOT / "results" / "study" / "appendix.md"
RUNS = RESULTS / "runs.csv"
RATES = ("tuning", "rates", "zoo_rates", "rates_2")
DOMAINS = ("hpo", "mueller", "recipes")
OF_OTHERS = ("transfer", "muon", "precision_bf16", "precision_float32")  # of other documents
HEAD = """# Appendix of the study

Generated from the records by `python -m tests.study.appendix`; `make test-study` makes it again and
compares. [study.md](../../docs/study.md) is the text. [runs.csv](runs.csv) has a row a run:
its layer, rate, tokens, losses, commit, and whether its working tree was clean.
"""
_KEPT_BY_ALL = ("_target_", "n_experts", "value_init", "table_dtype", "vocab_size")


def sweeps():
    """Name of a sweep below results/study: its records that have a loss, so no trunks."""
    found = {}
    for folder in sorted(RESULTS.iterdir()):
        if folder.name in OF_OTHERS or not folder.is_dir():
            continue
        if paths := find_records(folder):
            known = [r for r in map(read_record, paths) if r.val_loss is not None]
            found |= {folder.name: known} if known else {}
    return found


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)


def name_of(record):
    return record.model if record.n_experts is None else f"{record.model}, {record.n_experts:,}"


def settings(record):
    """Layer's own, without what is a module's name or the same for all layers."""
    given = {k: v for k, v in record.config["model"].items() if k not in _KEPT_BY_ALL}
    said = {k: v for k, v in given.items() if v not in (None, False, 0)}
    return ", ".join(f"{key} {_plain(value)}" for key, value in said.items())


def _plain(value):
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def cards(found):
    """A row a layer and number of experts, at 1e13 FLOPs and four blocks."""
    cells = {}
    for record in (*found["zoo"], *found["isoflop"]):
        if (record.budget, record.n_layers, record.seed) in ((1e13, 4, 0), (1e13, 4, 1)):
            cells.setdefault((record.model, record.n_experts or 0), record)
    head = ["layer, experts", "settings", "parameters", "active", "FLOPs a token", "of them"]
    rows = []
    for _, record in sorted(cells.items()):
        terms = {k: v for k, v in record.flops_shares.items() if k.startswith("ffn.")}
        shares = ", ".join(f"{name[4:]} {share:.1%}" for name, share in terms.items())
        rows.append(
            [f"`{name_of(record)}`", settings(record), f"{record.n_params:,}",
             f"{record.n_active_params:,}", f"{record.flops_per_token:,.0f}", shares]
        )  # fmt: skip
    return table(head, rows)


def tried(records):
    """A row a cell: its rates, each with the losses of its seeds, seed 0 first."""
    cells = defaultdict(lambda: defaultdict(list))
    for r in sorted(records, key=lambda r: (r.lr, r.seed)):
        gate = r.config["model"].get("gate") if r.model == "moe" else None
        key = (r.budget, r.n_layers, r.model + (f", {gate} gate" if gate else ""), r.n_experts or 0)
        cells[key][r.lr].append(r.val_loss)
    rows = []
    for (budget, n_layers, model, n_experts), rates in sorted(cells.items()):
        said = [f"{rate:.3g}: {', '.join(f'{v:.4f}' for v in at)}" for rate, at in rates.items()]
        rows.append([flops(budget), n_layers, model, n_experts or "", "; ".join(said)])
    return table(["FLOPs", "blocks", "layer", "experts", "peak rate: loss"], rows)


def texts(found):
    """A row a training text, as records name it."""
    rows = {}
    for records in found.values():
        for r in records:
            weights = r.config["data"]["corpus"]["weights"]
            domains = ", ".join(name for name, weight in weights.items() if weight)
            held = f"{r.config['data']['n_eval_tokens']:,}"
            bytes_a_token = r.val_loss / (r.bits_per_byte * math.log(2))  # older records lack it
            key = (r.train_digest[:12], held)
            tokens = f"{r.n_tokens / r.epochs / 1e6:.2f} M"
            row = [f"`{key[0]}`", domains, tokens, held, f"{bytes_a_token:.3f}",
                   f"`{r.tokenizer_sha256[:12]}`"]  # fmt: skip
            rows.setdefault(key, [*row, 0])[-1] += 1
    head = ["training tokens' digest", "domains", "tokens", "held-out tokens",
            "held-out bytes a token", "tokenizer", "records"]  # fmt: skip
    return table(head, [rows[key] for key in sorted(rows)])


def trainings(found):
    """Records of all, each training once: one is in two sweeps, and some runs were trained twice,
    of another commit or on another machine.
    """
    return list({(r.run_id, r.started): r for own in found.values() for r in own}.values())


def costs(found):
    """A row a sweep, and one of all."""
    rows, once = [], trainings(found)
    for name, records in (*found.items(), ("all, each training once", once)):
        machines = sorted({_processor(r) for r in records})
        dirty = sum(bool(r.environment.get("git_dirty")) for r in records)
        commits = {r.environment.get("git_commit") for r in records}
        hours = sum(r.wall_seconds * (r.environment.get("n_threads") or 1) for r in records) / 3600
        spent = sum(r.achieved_flops for r in records)
        rows.append([name, len(records), f"{spent:.2g}", f"{hours:.1f}", len(commits), dirty,
                     "; ".join(machines)])  # fmt: skip
    head = ["sweep", "records", "FLOPs", "core hours", "commits", "of uncommitted trees",
            "processors"]  # fmt: skip
    return table(head, rows)


def _processor(record):
    device, kernel = (record.environment.get(name) or "" for name in ("device", "kernel"))
    level = re.search(r"avx\w+", kernel)
    return f"{device}{', ' + level[0] if level else ''}".strip()


def document(found):
    once = trainings(found)
    parts = [
        HEAD,
        "## A card of each layer",
        "At 1e13 FLOPs, four blocks 64 wide. [layers.md](../../docs/layers.md) has the equations "
        "and the initial\nvalues, [flops.md](../../docs/flops.md) every counted term. Settings "
        "that are off are left out. `of them` is what\nthe feed-forward layers of all four blocks "
        "take; three are dense.",
        cards(found),
        "## Every rate that was tried",
        "Losses in nats/token; of several seeds of a rate, seed 0 first. Sweeps that only repeat a "
        "rate are in\nruns.csv.",
    ]
    for name in RATES:
        parts += [f"### {name}", tried(found[name])]
    parts += [
        "## Text",
        "[data.md](../../docs/data.md) names the packages, their licences and the overlap of "
        "held-out text with training text.",
        texts(found),
        "## Compute",
        "Seconds are those of the runs themselves, and of a run that was taken up again those of "
        "its last process alone. Many shared their machine with other work.\n"
        f"Some of the {sum(map(len, found.values()))} records are copies of another sweep's. They "
        f"are of {len(once)} trainings, of {len({r.run_id for r in once})} runs.",
        costs(found),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def runs(found):
    """runs.csv as text."""
    rows = []
    for sweep, records in found.items():
        for r in sorted(records, key=lambda r: r.run_id):
            optim = r.config["optim"]
            scores = {d: r.evaluations.get(f"packages/{d}@max_tokens=131072") for d in DOMAINS}
            rows.append(
                {"sweep": sweep, "run_id": r.run_id, "model": r.model, "n_experts": r.n_experts,
                 "n_layers": r.n_layers, "d_model": r.d_model, "budget": f"{r.budget:g}",
                 "seed": r.seed, "lr": f"{r.lr:.6g}", "schedule": optim["schedule"],
                 "final_lr": optim["final_lr"], "n_tokens": r.n_tokens, "n_params": r.n_params,
                 "n_active_params": r.n_active_params, "loss": f"{r.val_loss:.5f}",
                 "bits_per_byte": f"{r.bits_per_byte:.5f}",
                 **{d: f"{s['loss']:.5f}" if s else "" for d, s in scores.items()},
                 "seconds": f"{r.wall_seconds:.0f}",
                 "commit": (r.environment.get("git_commit") or "")[:12],
                 "uncommitted": r.environment.get("git_dirty")}
            )  # fmt: skip
    out = io.StringIO()
    writer = csv.DictWriter(out, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def main():
    found = sweeps()
    DOCUMENT.write_text(document(found))
    RUNS.write_text(runs(found))


if __name__ == "__main__":
    main()

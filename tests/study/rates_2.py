"""Second edition's search of rates in a table: `python -m tests.study.rates_2`."""

import json

from experiments.records.files import find_records, read_record
from tests.study.committed import RESULTS

LAYERS = ("dense", "none", "moe_fine", "pkm", "peer")
BUDGETS = (1e12, 3e12, 1e13)


def trials():
    """(layer, budget): the records of its trials, lowest loss first."""
    found = {}
    for record in map(read_record, find_records(RESULTS / "rates_2")):
        found.setdefault((record.model, record.budget), []).append(record)
    return {key: sorted(own, key=lambda r: r.val_loss) for key, own in found.items()}


def fits():
    """Cells, by layer and budget, and the law of all layers that was chosen."""
    read = json.loads((RESULTS / "rates_2" / "rates.json").read_text())
    cells = {(cell["model"], cell["budget"]): cell for cell in read["cells"]}
    (of_all,) = (form for form in read["forms"] if len(form["models"]) > 1)
    (law,) = (one for one in of_all["laws"] if one["label"] == of_all["chosen"])
    return cells, law


def rate_by(law, layer, n_tokens):
    params = law["params"]
    return params[f"coefficient[{layer}]"] * n_tokens ** params["exponent[n_tokens]"]


def rows():
    """Layer, budget, trials, the lowest one's rate and loss, the best rate by its curve, the
    law's."""
    cells, law = fits()
    of = trials()
    table = []
    for layer in LAYERS:
        for budget in BUDGETS:
            own, cell = of[layer, budget], cells[layer, budget]
            best = cell["lr_opt"]
            known = "outside the range" not in cell["flags"]
            table.append(
                [layer, f"{budget:.0e}".replace("e+", "e"), str(len(own)), f"{own[0].lr:.4f}",
                 f"{own[0].val_loss:.4f}", f"{best:.4f}" if known else "",
                 f"{rate_by(law, layer, cell['at']['n_tokens']):.4f}"]
            )  # fmt: skip
    return table


if __name__ == "__main__":
    for cells in rows():
        print("| " + " | ".join(cells) + " |")

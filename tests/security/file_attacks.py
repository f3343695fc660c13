"""Attacks by what a submission asks of a shell, by files that are none, by endless cells, and by
texts and names that move a cursor: as those of attacks.py.
"""

import csv
import json
import os
from collections.abc import Callable
from typing import Any

from experiments.records.files import RECORD_NAME
from tests.conftest import REPOSITORY
from tests.security.attacks import ESCAPE, INIT_RUN, Place, named, of_place

SBATCH = """for word; do case $word in --wrap=*) eval "${word#--wrap=}";; esac; done
eval "$EXPERIMENTS_SETUP"; echo 1"""


@of_place
def _on_submission(
    here: Place, setup: str = "", *extra: str, mode: int = 0o644, **changes: Any
) -> list[str]:
    """Resources that a stranger has written, RAN among them the file; sbatch, if it is called, runs
    them.
    """
    folder = here.sweep()
    (folder / here.honest.name / RECORD_NAME).unlink()
    (folder / "slurm").mkdir()
    asked = [word.replace("RAN", str(here.ran)) for word in (setup, *extra)]
    values = {
        "name": "x", "run_ids": [here.honest.name], "code": "0", "devices": 1, "num_nodes": 1,
        "resources": {"setup": asked[0], "extra": asked[1:]}, **changes,
    }  # fmt: skip
    path = folder / "slurm" / "x.json"
    path.write_text(json.dumps(values))
    path.chmod(mode)
    (here.root / "bin").mkdir(exist_ok=True)
    for name, text in (("sbatch", SBATCH), ("squeue", ":")):
        (here.root / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (here.root / "bin" / name).chmod(0o755)
    return ["experiments.retry", "stranger"]


@of_place
def _special(here: Place, name: str, *words: str, device: bool = False) -> list[str]:
    """A pipe, or a link to a device, for a file of the run, or beside it."""
    run_dir = here.run()
    path = run_dir / name
    path.unlink(missing_ok=True)
    if device:
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path)
    return [word.replace("FILE", str(path)) for word in named(words, run_dir)]


@of_place
def _on_wandb(here: Place, cell: str) -> list[str]:
    """A table of W&B's public API with that cell."""
    path = here.root / "wandb.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["name", "summary", "config"], ["a", cell, "{}"]])
    return ["analysis", "isoflop", str(path)]


def _registered(here: Place) -> list[str]:
    """Committed study, held to a pre-registration whose words move a cursor."""
    path = here.root / f"{ESCAPE}.yaml"
    primary = "{name: gain, kind: difference, layer: peer, baseline: dense, refuted_if: holds 0}"
    path.write_text(
        f"about: {json.dumps(ESCAPE)}\nlayers: [dense, peer]\nbudgets: [3e13]\n"
        f"where: {{n_layers: [3, 4, 5, 6, 7]}}\nprimaries:\n- {primary}\n"
    )
    study = str(REPOSITORY / "results" / "study" / "isoflop")
    return ["analysis", "compare", study, "--preregistered", str(path), "--out", "out"]


def _named_patch(here: Place) -> list[str]:
    path = here.root / f"{ESCAPE}.json"
    path.write_text("{}")
    return ["experiments.generate", str(here.honest), "the", f"patch={path}"]


FILE_ATTACKS: dict[str, Callable[[Place], list[str]]] = {
    "setup in a submission: retry": _on_submission("touch RAN"),
    "setup in a submission of anybody's: retry": _on_submission("touch RAN", mode=0o666),
    "setup in a submission, signed by another: retry": _on_submission(
        "touch RAN", signature="0" * 64
    ),
    "extra in a submission: retry": _on_submission("", "--wrap=touch RAN"),
    "a shell's words in a submission's partition: retry": _on_submission(
        resources={"partition": "x; touch RAN", "account": "$(touch RAN)"}
    ),
    **{
        f"a pipe for {name}: {words[0].rpartition('.')[2]}": _special(name, *words)
        for name, words in (
            ("record.json", ("experiments.status", "stranger")),
            ("history.csv", ("experiments.status", "stranger")),
            ("events.jsonl", ("experiments.status", "stranger")),
            ("progress.json", ("experiments.status", "stranger")),
            ("../manifest.jsonl", ("experiments.status", "stranger")),
            ("../manifest.jsonl", ("experiments.retry", "stranger", "--local")),
            ("record.json", ("experiments.generate", "RUN", "a")),
            ("last.ckpt", ("experiments.generate", "RUN", "a")),
            ("last.ckpt", INIT_RUN),
            ("patch.json", ("experiments.generate", "RUN", "a", "patch=FILE")),
            ("r.yaml", ("analysis", "compare", "results/stranger", "--preregistered", "FILE")),
            ("table.csv", ("analysis", "isoflop", "FILE")),
        )
    },
    "a device for record.json: status": _special(
        "record.json", "experiments.status", "stranger", device=True
    ),
    "a device for last.ckpt: generate": _special(
        "last.ckpt", "experiments.generate", "RUN", "a", device=True
    ),
    "a device for a table: isoflop": _special(
        "table.csv", "analysis", "isoflop", "FILE", device=True
    ),
    "a list for a key in a cell of W&B: isoflop": _on_wandb("{[]: 1}"),
    "a cell of 100,000 characters of W&B: isoflop": _on_wandb("{'loss': " + "9" * 10**5 + "x}"),
    "control characters in a pre-registration: contrast": _registered,
    "control characters in a patch's name: generate": _named_patch,
}

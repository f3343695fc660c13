"""Strangers' folders, and the real commands that are tried on them: a name, a plan, a command."""

import dataclasses
import json
import os
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from experiments.adapters.library import lora_library
from experiments.adapters.storage import INDEX, save_library
from experiments.models.digest import tensors_sha256
from experiments.records.files import RECORD_NAME, read_record, write_record
from experiments.sweep.manifest import MANIFEST_NAME
from experiments.sweep.snapshot import take_snapshot
from experiments.training.checkpoints import LAST
from tests.adapters.small import adapter, write_peft
from tests.init.test_gguf import write as write_gguf
from tests.security.strangers import plant_config, plant_link, plant_manifest, with_target
from tests.security.test_checkpoints import planted

TARGET = "results.stranger.planted.payload.X"
ESCAPE = "de\x1b[2Jnse\x07"
START = ("budget=2e8", "data=local", "data.path=texts", "data.corpus.validation_every=5",
         "ladder.seq_len=32", "ladder.batch_size=4", "logger=csv", "dry_run=true")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Place:
    """A folder to work in, with an honest run; payloads make `ran`."""

    root: Path
    honest: Path

    @property
    def ran(self) -> Path:
        return self.root / "RAN"

    @property
    def thesis(self) -> Path:
        """A folder of the reader's, beside the results: no command may change it."""
        return self.root / "thesis"

    def sweep(self, name: str = "stranger") -> Path:
        """A copy of the honest sweep, with a module that makes `ran` when it is imported."""
        folder = self.root / "results" / name
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.honest.parent, folder)
        (folder / "planted").mkdir()
        (folder / "planted" / "payload.py").write_text(f"open({str(self.ran)!r}, 'w')\n")
        return folder

    def run(self, **changes: Any) -> Path:
        """Run in a copy, its record changed and its checksum right."""
        run_dir = self.sweep() / self.honest.name
        write_record(run_dir, dataclasses.replace(read_record(run_dir / RECORD_NAME), **changes))
        return run_dir


def environment(root: Path, trust: str = "") -> dict[str, str]:
    """A command's, with the programs of root/bin before the machine's."""
    return {
        **os.environ, "EXPERIMENTS_CACHE": str(root / "cache"), "EXPERIMENTS_TRUST": trust,
        "XDG_STATE_HOME": str(root / "state"),
        "OMP_NUM_THREADS": "1", "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def of_place(make: Callable[..., list[str]]) -> Callable[..., Callable[[Place], list[str]]]:
    """Function, called without its place: it returns one of the place alone."""
    return lambda *words, **values: lambda here: make(here, *words, **values)


@of_place
def _on_record(here: Place, *words: str, place: tuple[str, ...] = ("model",)) -> list[str]:
    """A record that names a class of the folder; RUN among the words is the run's folder."""
    config = json.loads(json.dumps(read_record(here.honest / RECORD_NAME).config))
    with_target(place, TARGET)(config)
    return named(words, here.run(config=config))


def named(words: tuple[str, ...], run_dir: Path) -> list[str]:
    return [word.replace("RUN", str(run_dir)) for word in words]


def _on_manifest(here: Place) -> list[str]:
    folder = here.sweep()
    config = read_record(here.honest / RECORD_NAME).config
    with_target(("model",), TARGET)(config)
    shutil.rmtree(folder / here.honest.name)
    (folder / MANIFEST_NAME).unlink()
    plant_manifest(folder, config)
    return ["experiments.retry", "stranger", "--local"]


def _on_config(here: Place) -> list[str]:
    folder = here.sweep()
    config = read_record(here.honest / RECORD_NAME).config
    with_target(("model",), TARGET)(config)
    plant_config(folder, config)
    return ["experiments.retry", "stranger", "--local"]


@of_place
def _on_checkpoint(here: Place, *words: str) -> list[str]:
    run_dir = here.run()
    planted(run_dir / LAST, here.ran)
    if words[0] == "experiments.retry":
        (run_dir / RECORD_NAME).unlink()
    return named(words, run_dir)


@of_place
def _on_lora(here: Place, change: Callable[[Path], None]) -> list[str]:
    """`library make` and `arrow` of one adapter."""
    folder, library = here.root / "lora", here.root / "L"
    for old in (folder, library):
        shutil.rmtree(old, ignore_errors=True)
    change(write_peft(folder, adapter("x", 2)))
    return ["experiments.library", "make", str(library), str(folder)]


def _config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def _deep(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": ' + "[" * 10**6)


def _nan(folder: Path) -> None:
    lora = adapter("x", 2)
    next(iter(lora.maps.values())).up[0, 0] = float("nan")
    shutil.rmtree(folder)
    write_peft(folder, lora)


def _pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    planted(folder / "adapter_model.bin", folder.parent / "RAN")


@of_place
def _on_library(here: Place, **values: Any) -> list[str]:
    folder = here.root / "L"
    shutil.rmtree(folder, ignore_errors=True)
    save_library(lora_library([adapter("a", 2)]), folder)
    index = json.loads((folder / INDEX).read_text())
    shutil.copy(folder / index["tables"], here.root / "other.safetensors")
    (folder / INDEX).write_text(json.dumps({**index, **values}))
    return ["experiments.library", "show", str(folder)]


@of_place
def _on_patch(here: Place, change: Callable[[dict[str, Any]], str]) -> list[str]:
    """`generate` with a patch for the honest run, that a stranger has changed."""
    record, path = read_record(here.honest / RECORD_NAME), here.root / "p.json"
    layer = {"name": "blocks.0.ffn", "kind": "Dense", "n_experts": 64,
             "remove": [1], "swap": [], "add": []}  # fmt: skip
    kept = torch.load(here.honest / LAST, weights_only=True)["state_dict"]
    own = {name[6:]: t for name, t in kept.items() if name.startswith("model.")}
    weights = tensors_sha256(own)
    file = {"format": 1, "run_id": record.run_id, "weights": weights, "layers": [layer]}
    path.write_text(change(file))
    return ["experiments.generate", str(here.honest), "the", "max_tokens=1", f"patch={path}"]


def _edited(**values: Any) -> Callable[[dict[str, Any]], str]:
    """Patch with other values of its layer, or of the file."""

    def change(file: dict[str, Any]) -> str:
        (layer,) = file["layers"]
        for key, value in values.items():
            (file if key in file else layer)[key] = value
        return json.dumps(file)

    return change


def _pickled_patch(here: Place) -> list[str]:
    planted(here.root / "p.json", here.ran)
    return ["experiments.generate", str(here.honest), "the", f"patch={here.root / 'p.json'}"]


@of_place
def _on_model(here: Place, make: Callable[[Path], None]) -> list[str]:
    """`init=hf` from a folder."""
    folder = here.root / "model"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make(folder)
    return ["experiments.run", "init=hf", f"init.path={folder}", *START]


def _auto_map(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "payload.X"}})
    )
    (folder / "payload.py").write_text(f"open({str(folder.parent / 'RAN')!r}, 'w')\n")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")


def _pickled_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    planted(folder / "pytorch_model.bin", folder.parent / "RAN")


def _llama(folder: Path, **changes: object) -> None:
    """A config.json that nothing is wrong with, but for the changes."""
    values = {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "vocab_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 4, "rms_norm_eps": 1e-5, **changes,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values))


def _header_bomb(folder: Path) -> None:
    _llama(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")


def _index_out(folder: Path) -> None:
    _llama(folder)
    index = {"weight_map": {"x": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _layers(folder: Path) -> None:
    _llama(folder, num_hidden_layers=10**9)
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")


def _gguf_counts(folder: Path) -> None:
    write_gguf(folder / "a.gguf")
    content = bytearray((folder / "a.gguf").read_bytes())
    content[8:16] = struct.pack("<Q", 2**40)
    (folder / "a.gguf").write_bytes(content)


@of_place
def _on_text(here: Place, text: str, *words: str) -> list[str]:
    """A name in records that is shown by a command."""
    here.run(model=text)
    return list(words)


def _on_code(here: Place) -> list[str]:
    folder = here.sweep()
    (folder / here.honest.name / RECORD_NAME).unlink()
    copy = take_snapshot(folder)
    with (copy / "src" / "experiments" / "training" / "execute.py").open("a") as file:
        file.write(f"\nopen({str(here.ran)!r}, 'w')\n")
    return ["experiments.retry", "stranger", "--local"]


@of_place
def _on_link(here: Place, name: str, *words: str, by_tar: bool = False) -> list[str]:
    """A sweep with a link to the reader's folder. name: in the sweep; RUN is the run's. What is
    retried has no record, and what is brought by tar occurs twice.
    """
    folder = here.sweep()
    run_dir = folder / here.honest.name
    plant_link(folder / name.replace("RUN", run_dir.name), here.thesis)
    if words[0] == "experiments.retry":
        (run_dir / RECORD_NAME).unlink()
    if by_tar:
        with tarfile.open(here.root / "sweep.tar", "w") as file:
            file.add(folder, folder.name)
        shutil.rmtree(folder)
        subprocess.run(["tar", "-xf", here.root / "sweep.tar"], cwd=folder.parent, check=True)
    return named(words, run_dir)


INIT_RUN = ("experiments.run", "init=run", "init.path=RUN", *START)
RETRY = ("experiments.retry", "stranger", "--local")
FORMULA, MARKUP = '=HYPERLINK("http://x")', "<script>alert(1)</script>"
# by name: makes the folder, and returns the words of the command after python -m
ATTACKS: dict[str, Callable[[Place], list[str]]] = {
    "_target_ in a record: evaluate": _on_record(
        "experiments.evaluate", "RUN", "eval=[validation]"
    ),
    "_target_ in a record: export": _on_record("experiments.export", "RUN", "out"),
    "_target_ in a record: generate": _on_record("experiments.generate", "RUN", "the"),
    "_target_ in a record: inspect": _on_record("experiments.inspect", "RUN"),
    "_target_ in a record: init=run": _on_record(*INIT_RUN),
    "_target_ in a record: library make": _on_record("experiments.library", "make", "L1", "RUN"),
    "_target_ of a tokenizer: generate": _on_record(
        "experiments.generate", "RUN", "the", place=("data", "tokenizer")
    ),
    "_target_ in a record: status": _on_record("experiments.status", "stranger"),
    "_target_ in a record: collect": _on_record("experiments.collect", "stranger"),
    "_target_ in a record: report": _on_record("analysis", "report", "results/stranger"),
    "_target_ in a manifest: retry": _on_manifest,
    "_target_ in config.yaml: retry": _on_config,
    "a pickle, sealed, in last.ckpt: generate": _on_checkpoint("experiments.generate", "RUN", "a"),
    "a pickle, sealed, in last.ckpt: init=run": _on_checkpoint(*INIT_RUN),
    "a pickle, sealed, in last.ckpt: retry": _on_checkpoint(
        "experiments.retry", "stranger", "--local"
    ),
    "an altered copy in .code: retry --local": _on_code,
    "a regular expression without end in a LoRA": _on_lora(
        _config(alpha_pattern={"(((a+)+)+)+b": 1})
    ),
    "deep JSON in a LoRA": _on_lora(_deep),
    "NaN in a LoRA": _on_lora(_nan),
    "a pickled LoRA": _on_lora(_pickled),
    "a library's tables elsewhere": _on_library(tables="../other.safetensors"),
    "a library's places without end": _on_library(n_places=10**15),
    "a pickle for a patch": _pickled_patch,
    "_target_ in a patch": _on_patch(_edited(_target_=TARGET)),
    "a patch of another run": _on_patch(_edited(run_id="f" * 12)),
    "a patch of other weights": _on_patch(_edited(weights="0" * 64)),
    "a patch of another layer": _on_patch(_edited(kind="PEER")),
    "an index beyond N in a patch": _on_patch(_edited(remove=[10**9])),
    "two edits of one expert in a patch": _on_patch(_edited(swap=[[1, 2]])),
    "10^9 experts in a patch": _on_patch(_edited(n_experts=10**9)),
    "rows without end in a patch": _on_patch(
        _edited(remove=[], add=[{"expert": 1, "rows": {"w_in": [0] * 10**6, "w_out": [0]}}])
    ),
    "deep JSON in a patch": _on_patch(lambda file: '{"layers": ' + "[" * 10**6),
    "NaN in a patch": _on_patch(
        _edited(add=[{"expert": 3, "rows": {"w_in": [float("nan")], "w_out": [1]}}])
    ),
    "control characters in a patch": _on_patch(_edited(name=ESCAPE)),
    "auto_map in a Hugging Face folder": _on_model(_auto_map),
    "a pickled model": _on_model(_pickled_model),
    "a safetensors header without end": _on_model(_header_bomb),
    "an index that leads out of its folder": _on_model(_index_out),
    "10^9 blocks in config.json": _on_model(_layers),
    "10^12 tensors in a gguf": _on_model(_gguf_counts),
    "control characters in a record: status": _on_text(ESCAPE, "experiments.status", "stranger"),
    "control characters in a record: collect": _on_text(ESCAPE, "experiments.collect", "stranger"),
    "control characters in a record: report": _on_text(
        ESCAPE, "analysis", "report", "results/stranger"
    ),
    "a link for tables: retry --local": _on_link("RUN/tables", *RETRY),
    "a link for tables, by tar: retry --local": _on_link("RUN/tables", *RETRY, by_tar=True),
    "a link for a run: retry --local": _on_link("RUN", *RETRY),
    "a link for history.csv: retry --local": _on_link("RUN/history.csv", *RETRY),
    "a link for .code: retry --local": _on_link(".code", *RETRY),
    "a link for a sweep: retry --local": _on_link("", *RETRY),
    "a link for .controllers: cancel": _on_link(".controllers", "experiments.cancel", "stranger"),
    "a link for a run: evaluate": _on_link(
        "RUN", "experiments.evaluate", "RUN", "eval=[validation]"
    ),
    "a link for inspection: inspect": _on_link("RUN/inspection", "experiments.inspect", "RUN"),
    "a link for ablation: ablate": _on_link(
        "RUN/ablation", "experiments.inspect", "ablate", "RUN", "experts=[1]", "texts=texts/a.txt"
    ),
    "a link for an export: export": _on_link("RUN/hf", "experiments.export", "RUN", "RUN/hf"),
    "a link for a table: collect": _on_link("records.csv", "experiments.collect", "stranger"),
    "a link for nanochat: collect": _on_link(
        "nanochat", "experiments.collect", "stranger", "--as", "nanochat"
    ),
    "a link for figures: report": _on_link("figures", "analysis", "report", "results/stranger"),
    "a link for paper: report --paper": _on_link(
        "paper", "analysis", "report", "results/stranger", "--paper"
    ),
    "a formula in a record: report": _on_text(FORMULA, "analysis", "report", "results/stranger"),
    "markup in a record: report": _on_text(MARKUP, "analysis", "report", "results/stranger"),
}

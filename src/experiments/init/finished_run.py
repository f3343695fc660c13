"""Weights of a finished run of ours, from its record and its last checkpoint."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.config import constraints
from experiments.config.nodes import find_target, make_node
from experiments.config.run_config import read_run_config
from experiments.config.schema import RunConfig
from experiments.init.first import first_command
from experiments.init.parent_tokenizer import ParentTokenizer
from experiments.init.place import placed
from experiments.init.reading import named, stamp
from experiments.init.source import Shape
from experiments.models.digest import tensors_sha256
from experiments.models.lora import merged
from experiments.records.files import RECORD_NAME, DamagedError, read_record
from experiments.records.record import RunRecord
from experiments.system.seals import find_damage
from experiments.system.table_files import load_whole

_LAST = "last.ckpt"  # training/checkpoints.py
_MODEL = "model."  # before the names of the model's tensors in a checkpoint
_REMEDY = "give the folder of a finished run, results/<sweep>/<run_id>"


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """path: the run's folder. Its layers may be any, in any of its blocks."""

    path: constraints.Path

    def shape(self, cache: Path) -> Shape:
        record, config = self._record()
        vocab_size, d_model = self._tensors(record)["embedding.weight"].shape
        n_heads = d_model // config.ladder.d_head
        return Shape(
            n_layers=config.size,
            d_model=d_model,
            d_head=config.ladder.d_head,
            attention=make_node(config.trunk.attention.explicit(n_heads)),
            vocab_size=vocab_size,
            tie_head=config.ladder.tie_head,
            positions=make_node(config.trunk.positions),
            norm=make_node(config.trunk.norm),
            residual=make_node(config.trunk.residual),
            ffns=tuple(make_node(ffn) for ffn in placed(config)),
            name=record.model,
        )

    def digest(self, cache: Path) -> str:
        """A hash of the names, types, sizes and bytes of all the model's tensors."""
        record, _ = self._record()
        return _digest(record.n_steps, *stamp(self._folder() / _LAST))

    def tokenizer(self, cache: Path) -> Mapping[str, Any]:
        record, _ = self._record()
        data = record.config["data"]
        if data["tokenizer"]["_target_"] == find_target(ParentTokenizer):
            return data["tokenizer"]
        return {
            "_target_": find_target(ParentTokenizer),
            "tokenizer": data["tokenizer"],
            "corpus": self.corpus(),
            "sha256": record.tokenizer_sha256,
        }

    def state(self, cache: Path) -> dict[str, Tensor]:
        """Low-rank adapters are added to the maps that they are beside."""
        record, _ = self._record()
        return merged(
            {
                name: tensor.to(
                    torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True
                )
                for name, tensor in self._tensors(record).items()
            }
        )

    def adapters(self) -> tuple[str | None, dict[str, tuple[Tensor, Tensor]]]:
        """Sha256 of the weights it started from, and by the path of the linear map that they
        are beside its low-rank adapters: A (rank, d_in) and B (d_out, rank). {} if it has none.
        """
        record, _ = self._record()
        tensors = self._tensors(record)
        stems = [name.removesuffix(".lora_a") for name in tensors if name.endswith(".lora_a")]
        pairs = {s: (tensors[f"{s}.lora_a"], tensors[f"{s}.lora_b"]) for s in stems}
        return record.init.get("sha256"), {s: (a.clone(), b.clone()) for s, (a, b) in pairs.items()}

    def corpus(self) -> dict[str, Any]:
        """Config node of the text that it was trained on; of a stream, of its base."""
        node: dict[str, Any] = self._record()[0].config["data"]["corpus"]
        return node.get("base", node)

    def parent(self) -> dict[str, Any]:
        """Run's id, its experts, and the training FLOPs that its weights have cost in all."""
        record, _ = self._record()
        flops = record.achieved_flops or 0.0
        before = record.init.get("parent", {}).get("flops", 0.0) + record.init.get("flops", 0.0)
        return {
            "run_id": record.run_id,
            "sweep": record.sweep,
            "n_experts": record.n_experts,
            "n_tokens": record.n_tokens,
            "flops": flops + before,
        }

    def optimizer_state(self) -> dict[str, Any]:
        """Optimizer's state at the run's end, as torch's optimizers have it."""
        record, _ = self._record()
        state: dict[str, Any] = _loaded(record.n_steps, *stamp(self._folder() / _LAST))
        return state["optimizer_states"][0]

    def _folder(self) -> Path:
        return Path(self.path).expanduser()

    def _record(self) -> tuple[RunRecord, RunConfig]:
        """Raises ValueError unless it is a run of ours that is done and has its checkpoint."""
        folder = self._folder()
        if not (folder / RECORD_NAME).is_file():
            first = first_command(folder)
            remedy = _REMEDY if first is None else f"train it first: {first}"
            raise ValueError(f"{folder} has no {RECORD_NAME}; {remedy}")
        try:
            record = read_record(folder / RECORD_NAME)
        except DamagedError as error:  # the remedy of others is that of the run's own sweep
            raise ValueError(
                f"{error.path} is damaged ({error.why}); put a copy of it back, or give again the "
                "command that trained it"
            ) from None
        if record.status != "done":
            raise ValueError(f"{folder} is {record.status}, and not done; {_REMEDY}")
        if not (folder / _LAST).is_file():
            first = first_command(folder, record.environment.get("command") or ())
            again = "train it again" if first is None else f"train it first: {first}"
            raise ValueError(
                f"{folder} has no {_LAST}, which has its weights; put a copy of it back, or delete "
                f"its {RECORD_NAME} and {again}"
            )
        with named(folder / RECORD_NAME):  # "sweep": an old one's name may not be allowed today
            config = read_run_config({**record.config, "sweep": "finished"})
        if config.optim.parametrization != "sp":
            raise ValueError(
                f"{folder} was trained with optim.parametrization={config.optim.parametrization}: "
                "its function is not of its weights alone; start from its export (init=hf)"
            )
        return record, config

    def _tensors(self, record: RunRecord) -> dict[str, Tensor]:
        return _read(record.n_steps, *stamp(self._folder() / _LAST))


@functools.lru_cache(maxsize=4)
def _digest(n_steps: int, path: Path, size: int, changed: int) -> str:
    return tensors_sha256(_read(n_steps, path, size, changed))


def _read(n_steps: int, path: Path, size: int, changed: int) -> dict[str, Tensor]:
    """Model's tensors, in the file until they are used."""
    state = _loaded(n_steps, path, size, changed)["state_dict"]
    return {k.removeprefix(_MODEL): v for k, v in state.items() if k.startswith(_MODEL)}


@functools.lru_cache(maxsize=1)
def _loaded(n_steps: int, path: Path, size: int, changed: int) -> dict[str, Any]:
    if (why := find_damage(path)) is not None:
        raise ValueError(f"{path} is damaged ({why}); put a copy of it back, or train again")
    try:
        loaded: dict[str, Any] = load_whole(path, mmap=True)
        _, step = loaded["state_dict"], loaded["global_step"]
    except Exception as error:  # torch has many, of several lines
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} holds no weights of a run ({reason}); {_REMEDY}") from None
    if step != n_steps:
        raise ValueError(f"{path} is of step {step}, and the run ended at {n_steps}; train again")
    return loaded

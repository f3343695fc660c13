"""Tables that the processes of a run have the columns of between them: trainer.table_ranks.

Process r of R has all rows of a table, and of them the columns r d/R to (r + 1) d/R, with their
gradient and moments: no gradient of a table is ever sent, so optim.table_gradient=rows and fused do
as well. The rest of the model is on every process, as in DDP. Of more than R processes each R are a
group, and those that have the same columns add up their gradients before a step. Another number of
processes can go on from its checkpoints: each of a group has written its columns
(system/table_files.py).
"""

import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.budget.plan import Plan
from experiments.config.optim import Optim
from experiments.config.schema import RunConfig
from experiments.models.digest import tensors_sha256
from experiments.models.ffn._rows import columns_alone
from experiments.models.roles import find_tables
from experiments.models.transformer import Transformer
from experiments.optim.gradients import add_replicas
from experiments.optim.groups import optimizers, parameter_groups, taker, trained_parameters
from experiments.optim.optimizer import GroupedOptimizer
from experiments.points.memory import estimate_memory, list_shapes, trained_shapes
from experiments.points.point import BuiltRun, Draft, Point, RunPart
from experiments.points.table_shares import find_share
from experiments.points.training_part import TrainingPart
from experiments.system import started
from experiments.system.agreement import told_by_all
from experiments.system.disk import explained, make_folder, sync_file
from experiments.system.distributed import patience
from experiments.system.exchange import Exchange
from experiments.system.seals import save_sealed, seal_path
from experiments.system.table_files import FOLDER, KEY, file_name, folder_name, join

_LEAST = 16  # columns of a process: 64 bytes, what memory is read by
_NAME = "trainer.table_ranks"


@dataclass(frozen=True, kw_only=True)
class TableColumns(RunPart):
    """size: the processes that have the columns of each table between them, of all that train.
    from_weights: the model begins as weights say. Then each process makes it whole first, and keeps
    its columns.
    """

    order = 100  # after parts that make the model what it is
    compiles = False
    scored_by_all = True
    by_columns = True
    size: int
    n_processes: int
    from_weights: bool

    @classmethod
    def of(cls, config: RunConfig) -> "TableColumns | None":
        trainer = config.trainer
        given, n = trainer.table_ranks, trainer.devices * trainer.num_nodes
        size = n if given == "all" else given
        if size is None or size == 1:
            return None
        return cls(size=size, n_processes=n, from_weights=config.init is not None)

    @property
    def n_replicas(self) -> int:
        """How many processes have the same columns."""
        return self.n_processes // self.size

    @property
    def table_ranks(self) -> int:
        return self.size

    def refuse(self, draft: Draft) -> None:
        why = self._why_not(draft)
        if why is not None:
            raise ValueError(f"{_NAME}={draft.config.trainer.table_ranks}{why}")

    def _why_not(self, draft: Draft) -> str | None:
        """What goes on after the setting's name, with the remedy; None: nothing is in the way."""
        config, world = draft.config, self.n_processes
        if world % self.size:
            return (
                f" with {world} processes (trainer.devices * trainer.num_nodes), which make no "
                f"groups of {self.size}; set it to all, or to a number that divides {world}"
            )
        if self.n_replicas > 1 and config.optim.table_gradient == "fused":
            return (
                f" with {world} processes and optim.table_gradient=fused: {self.n_replicas} groups "
                "have to add up their gradients, and fused makes none; set "
                "optim.table_gradient=rows, or trainer.table_ranks=all"
            )
        if config.kernel == "reference":
            return " with kernel=reference, which reads whole tables; use kernel=torch or auto"
        if config.trainer.compile is True:
            return " with trainer.compile=true: what is sent can't be compiled; set it to auto"
        if config.trainer.trunk == "fused":
            return " with trainer.trunk=fused, which reads whole tables; set it to auto"
        if draft.transformer.tables_alone:
            return (
                " with init.train=tables, which leaves DDP nothing to average; train by one "
                "process, or set init.train=layer"
            )
        others = [type(part).__name__ for part in draft.parts if not part.by_columns]
        if others:
            return f" with {others[0]}, which takes whole tables; leave one of them out"
        return self._why_not_layers(draft)

    def _why_not_layers(self, draft: Draft) -> str | None:
        layers = list_shapes(draft.transformer).ffn_layers()
        with_tables = [layer for layer in layers if find_tables(layer)]
        if not with_tables:
            return ", and no layer of the model has expert tables; set it to null"
        for layer in with_tables:
            name = type(layer).__name__
            if "by_columns" not in vars(type(layer)):
                return f" with {name}, whose tables have no form in columns; set it to null"
            for width in {table.shape[1] for table in find_tables(layer).values()}:
                why = self._why_not_width(width, draft.transformer.d_model)
                if why is not None:
                    return why
        return self._why_not_optimizer(draft)

    def _why_not_optimizer(self, draft: Draft) -> str | None:
        optim, model = draft.config.optim, trained_shapes(draft.transformer)
        among = optimizers(optim)
        for parameter in trained_parameters(model, 1.0, optim):
            by = taker(parameter, among)
            if parameter.kind == "table" and not by.elementwise:
                return (
                    f" with {by.choice}, which steps tables, and columns of them otherwise than in "
                    "the whole; set it to null"
                )
        return None

    def _why_not_width(self, width: int, d_model: int) -> str | None:
        of = f"d_model={d_model}" if width == d_model else f"rows of {width} numbers"
        most = width // _LEAST
        remedy = f"set it to at most {most}, or to null" if most > 1 else "set it to null"
        if width % self.size:
            return f" with {of}, whose columns {self.size} can't have between them; {remedy}"
        if width // self.size < _LEAST:
            return (
                f" with {of}: a process would have {width // self.size} columns, and {_LEAST} are "
                f"the least; {remedy}"
            )
        return None

    def plan(self, draft: Draft, plan: Plan) -> tuple[Draft, Plan]:
        return draft, replace(plan, memory=estimate_memory(draft, self.size))

    def plan_line(self, point: Point) -> tuple[str, str] | None:
        share = find_share(point, self.size)
        parts = ", ".join(f"{name} {count / 1e6:.3g}" for name, count in share.sent.items())
        seconds = ""
        if share.sending is not None and share.ddp_sending is not None:
            seconds = (
                f"; by its links, modelled and never measured, {1e3 * share.sending:.3g} ms and "
                f"{1e3 * share.ddp_sending:.3g} ms"
            )
        return (
            "Sent by each process in a step, MB, where they have the tables' columns between them",
            f"{parts} (counted in the record as it runs); the other gradients, by DDP "
            f"{share.by_ddp / 1e6:.3g}{seconds}",
        )

    def building(self) -> AbstractContextManager[object]:
        if self.from_weights:
            return nullcontext()
        return columns_alone(started.rank() % self.size, self.size)

    def training(self, run: BuiltRun, columns: Mapping[str, Any]) -> TrainingPart:
        wait = patience(run.point.config.trainer.stall_minutes)
        exchange = Exchange(started.rank(), self.n_processes, self.size, wait)
        if self.from_weights:
            if run.resumed is None:
                _check_alike(run)
            for table in _each_table(run.model):
                table.data = _take_columns(table.data, exchange)
        layer = next(run.model.ffn_layers())
        run.model.set_execution(replace(layer.execution, columns=exchange))
        return OwnColumns(run.model, run.point.config.optim, exchange, run.point.run_dir)


class OwnColumns(TrainingPart):
    """Columns of one process in steps and checkpoints. It has no state of its own."""

    state_name = "table_columns"

    def __init__(self, model: Transformer, optim: Optim, exchange: Exchange, folder: Path) -> None:
        super().__init__()
        self._exchange, self._folder = exchange, folder
        self._apart, self._tables = tuple(find_tables(model)), _each_table(model)
        self._places = _places(model, optim)
        self._n_steps, self._before = 0, dict[str, int]()
        self._sent: dict[str, float] = {}

    @property
    def apart(self) -> Collection[str]:
        return self._apart

    def set_optimizer(self, optimizer: GroupedOptimizer, model: Transformer) -> None:
        """Keeps the columns of moments that another part has given as those of whole tables."""
        for table in self._tables:
            state = optimizer.state.get(table, {})
            for name, value in state.items():
                if value.dim() and value.shape != table.shape:
                    state[name] = _take_columns(value, self._exchange)

    def before_step(self, step: int) -> None:
        if not self._n_steps:
            self._before = dict(self._exchange.sent)
        self._n_steps += 1

    def after_backward(self) -> None:
        if self._exchange.n_replicas > 1:
            add_replicas(self._tables, self._exchange)

    def end(self) -> None:
        """Leaves the count of bytes at that of steps, without scoring."""
        self._sent = {
            name: (count - self._before.get(name, 0)) / max(1, self._n_steps)
            for name, count in self._exchange.sent.items()
        }

    def columns(self) -> dict[str, Any]:
        exchange = self._exchange
        found = {"ranks": exchange.size, "replicas": exchange.n_replicas}
        return {"table_columns": {**found, "sent_bytes_per_step": self._sent}}

    def before_save(self, checkpoint: dict[str, Any]) -> None:
        """Writes this process's columns to a file of a new folder, of which the checkpoint says
        what is in it; the first group does. Nobody names that folder before all have written.
        """
        exchange, states = self._exchange, checkpoint["optimizer_states"][0]["state"]
        tables = {name: checkpoint["state_dict"].pop(name) for name in self._places}
        kept = {
            name: {
                "first": exchange.rank * table.shape[1],
                "of": exchange.size * table.shape[1],
                "weights": table,
                "state": states.pop(self._places[name], None),
            }
            for name, table in tables.items()
        }
        device = next(iter(tables.values())).device
        marks = exchange.gathered(torch.tensor([time.time_ns()], device=device))
        folder = folder_name(checkpoint["global_step"], int(marks[0, 0]))
        failed: Exception | None = None
        seal = "0" * 64
        try:
            if exchange.process < exchange.size:
                seal = self._written({"global_step": checkpoint["global_step"], KEY: kept}, folder)
        except Exception as error:  # the others wait to hear of it
            failed = error
        told = torch.tensor([failed is None, *seal.encode()], dtype=torch.int32, device=device)
        answers = exchange.gathered(told).tolist()
        if failed is not None:
            raise failed
        bad = [rank for rank, answer in enumerate(answers) if not answer[0]]
        if bad:
            raise RuntimeError(
                f"process {bad[0]} could not write its columns of the tables: its own message says "
                "why; the checkpoint before this one stays"
            )
        seals = [bytes(answer[1:]).decode() for answer in answers[: exchange.size]]
        checkpoint[KEY] = {"folder": folder, "seals": seals, "places": self._places}

    def _written(self, content: dict[str, Any], folder: str) -> str:
        """Seal of the file."""
        place = self._folder / FOLDER / folder
        path = place / file_name(self._exchange.rank, self._exchange.size)
        with explained(path):
            make_folder(place)
        save_sealed(content, path)
        for above in (place, place.parent):
            sync_file(above)
        return seal_path(path)

    def before_load(self, checkpoint: dict[str, Any]) -> None:
        """Takes this process's columns, of whichever files have them."""
        if KEY in checkpoint:
            join(checkpoint, (self._exchange.rank, self._exchange.size))
            return
        states = checkpoint["optimizer_states"][0]["state"]
        for name, place in self._places.items():
            whole = checkpoint["state_dict"][name]
            checkpoint["state_dict"][name] = _take_columns(whole, self._exchange)
            if place in states:
                states[place] = {
                    key: _take_columns(value, self._exchange) if value.dim() else value
                    for key, value in states[place].items()
                }


def _each_table(model: Transformer) -> list[nn.Parameter]:
    """Once each: layers may share them."""
    return list({id(table): table for table in find_tables(model).values()}.values())


def _take_columns(whole: Tensor, exchange: Exchange) -> Tensor:
    """This process's columns of a table, or of what the optimizer keeps of it."""
    width = whole.shape[1] // exchange.size
    return whole[:, exchange.rank * width : (exchange.rank + 1) * width].clone()


def _check_alike(run: BuiltRun) -> None:
    """Raises RuntimeError unless all processes have come to the same tables: columns of different
    ones would be no table. What the other parameters begin as is rank 0's, by DDP.
    """
    own = tensors_sha256({name: table.data for name, table in find_tables(run.model).items()})
    told = told_by_all(run.point.ranks, own)
    others = [rank for rank, digest in enumerate(told) if digest != told[0]]
    if others:
        raise RuntimeError(
            f"{_NAME}: process {others[0]} comes to other tables from the weights of init than "
            "process 0, as machines of two kinds do; let one process take the first steps, and "
            "go on from its checkpoint by as many as you like"
        )


def _places(model: Transformer, optim: Optim) -> dict[str, int | None]:
    """Where the optimizer's state has each table, by its name in a checkpoint; None: it is not
    trained.
    """
    groups = parameter_groups(model, 1.0, optim)
    order = {id(p): i for i, p in enumerate(p for group in groups for p in group["params"])}
    return {f"model.{name}": order.get(id(table)) for name, table in find_tables(model).items()}

"""Two steps of each run on a card that isn't there: a process started by test_fake_cuda.py.

Tensors are torch's fake ones: they have a device, a shape and a type, and no values. Lightning's
trainer takes the module through the step as in fit.py, so that a tensor on another device, an
operator without a fake or an unknown type end it, and the memory that is live is known.

    python fake_cuda.py CASES      a JSON list of cases to a JSON list of results
"""

import json
import math
import sys
import traceback
import warnings
import weakref
from collections import Counter
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from unittest.mock import Mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.data.batches import Batch
from experiments.kernels import torch_kernels
from experiments.models.recomputed import Recomputed
from experiments.points.planning import make_point
from experiments.system import distributed
from experiments.training.compiled import compile_trunk
from experiments.training.module import LanguageModel
from experiments.training.precision import TurnPrecision

CARD = torch.device("cuda:0")
GRAIN = 512  # bytes: what torch's allocator rounds blocks up to
aten = torch.ops.aten
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "grouped_product")
COPIES = {aten._to_copy.default: 0, aten.copy_.default: 1}  # and which argument is copied


class Card(TorchDispatchMode):
    """Counts the bytes that live on the card, and answers what only values could.

    Of a sort's P keys among n rows, as many are distinct as balanced routing would touch. Numbers
    that the host asks for are 1, and counted by the line that asks.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.n_rows = self.union = None
        self.asked, self.copied, self.float32 = Counter(), Counter(), Counter()
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is aten._local_scalar_dense.default:
            if args[0].device == CARD:
                self.asked[_line()] += 1
            if args[0].dtype == torch.bool:  # whether rows are distinct and in order
                return self.union is None
            return 1
        if func is aten.add_.Tensor and args[0].is_sparse:
            out = self._add_rows(*args)
        elif args and getattr(args[0], "is_sparse", False) and func in SPARSE:
            out = SPARSE[func](*args)
        elif func is aten.unique_consecutive.default:
            self.asked[_line()] += 1
            out = self._distinct(args[0])
        else:
            out = func(*args, **(kwargs or {}))
            if func is aten._sparse_coo_tensor_with_dims_and_tensors.default:
                out.parts = args[3:5]
        if func.overloadpacket.__name__ in PRODUCTS and args[0].dtype == torch.float32:
            self.float32[_line()] += 1
        elif func in COPIES and args[COPIES[func]].device.type == "cpu" and out.device == CARD:
            self.copied[_line()] += 1
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device == CARD:
                self._hold(tensor)
        return out

    def _distinct(self, keys):
        n, pairs = self.n_rows, keys.numel()
        found = self.union or max(1, round(-n * math.expm1(-pairs / n)))
        self.union = None
        new = keys.new_empty
        return new(found), new(0, dtype=torch.int64), new(found, dtype=torch.int64)

    def _add_rows(self, total, more):
        """Entries of one after those of the other, to be merged next."""
        n = len(total)
        of_both = (len(t.parts[1]) / n for t in (total, more))
        self.union = round(n * (1 - math.prod(1 - share for share in of_both)))
        pairs = zip((1, 0), total.parts, more.parts, strict=True)
        total.parts = [torch.cat(pair, dim) for dim, *pair in pairs]
        for part in total.parts:
            self._hold(part)
        return total._coalesced_(False)

    def _hold(self, tensor):
        if tensor.is_sparse:
            return  # its parts are known
        storage = tensor.untyped_storage()
        if id(storage) in self._known:
            return
        self._known.add(id(storage))
        size = -(-storage.nbytes() // GRAIN) * GRAIN
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, id(storage), size).atexit = False

    def _free(self, key, size):
        self._known.discard(key)
        self.live -= size


def _sparse(like, indices, values):
    tensor = torch.sparse_coo_tensor(indices, values, like.shape, check_invariants=False)
    tensor.parts = indices, values
    return tensor


# Fake sparse tensors lose their entries when they are copied. A gradient is not copied on a card.
SPARSE = {
    aten._indices.default: lambda tensor: tensor.parts[0],
    aten._values.default: lambda tensor: tensor.parts[1],
    aten.clone.default: lambda tensor: _sparse(tensor, *tensor.parts),
    aten.detach.default: lambda tensor: _sparse(tensor, *tensor.parts),
}


def _line():
    for frame in reversed(traceback.extract_stack()):
        if "/experiments/" in frame.filename:
            return f"{frame.filename.rpartition('/experiments/')[2]}:{frame.lineno}"
    return "?"


def attention(query, key, value, attn_mask=None, is_causal=False, scale=None, enable_gqa=False):
    """As on a card, nothing of (seq, seq) is held."""
    assert attn_mask is None
    if query.dtype == torch.float32:
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, None, True, 0.0, is_causal, scale=scale
        )[0]
    flash = aten._scaled_dot_product_flash_attention
    return flash(query, key, value, 0.0, is_causal, scale=scale)[0]


def launch(kernel, n_programs, first, *rest, **options):
    """In place of a Triton kernel's start: all that it is given is on the card."""
    for tensor in pytree.tree_leaves((first, rest)):
        assert not isinstance(tensor, torch.Tensor) or tensor.device == CARD, kernel.__name__


class AnyDevice(CPUAccelerator):
    """Sets nothing up."""

    def setup_device(self, device):
        pass


class OnCard:
    """Moves fake tensors to new ones, and not back, which a strategy can't do."""

    def model_to_device(self):
        moved = {}
        for module in self.model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        there = moved.get(id(tensor), tensor.detach().to(CARD))
                        if isinstance(tensor, torch.nn.Parameter) and id(tensor) not in moved:
                            there = torch.nn.Parameter(there, tensor.requires_grad)
                        held[name] = moved[id(tensor)] = there

    def teardown(self):
        pass


class Alone(OnCard, SingleDeviceStrategy):
    """One process."""


class FirstBuckets:
    """DDP's reducer, whose buckets stay in the order of the first step: ranks would agree by values
    on that of the second.
    """

    def __init__(self, reducer):
        self._reducer = reducer

    def __getattr__(self, name):
        return getattr(self._reducer, name)

    def _rebuild_buckets(self):
        return False


class Ranks(OnCard, DDPStrategy):
    """One of several, which nobody answers."""

    root_device = CARD  # Lightning checks the list of devices, which is a CPU's

    def setup_environment(self):
        self.accelerator = AnyDevice()
        super().setup_environment()

    def determine_ddp_device_ids(self):
        return None  # else it makes a stream of a card

    def _setup_model(self, model):
        made = super()._setup_model(model)
        made.logger = Mock()  # it asks for a card's clock
        made.reducer = FirstBuckets(made.reducer)
        return made


def strategy_of(point):
    precision = TurnPrecision(point.device)
    real = distributed.strategy(point.ranks, "cpu", None)
    if point.ranks.world_size == 1:
        return Alone(CARD, AnyDevice(), precision_plugin=precision)
    torch.distributed.init_process_group(
        "fake", store=FakeStore(), rank=0, world_size=point.ranks.world_size
    )
    return Ranks(
        parallel_devices=[torch.device("cpu")],
        cluster_environment=LightningEnvironment(),
        precision_plugin=precision,
        ddp_comm_hook=answer,
        init_sync=False,  # it compares values
        **real._ddp_kwargs,
    )


def answer(_, bucket):
    """Sum over ranks, which is made in place."""
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


class Zeros:
    """Iterators of batches of a shape, without end."""

    def __init__(self, shape):
        self.shape = shape

    def __iter__(self):
        while True:
            yield (
                Batch(*(torch.zeros(self.shape, dtype=torch.int64) for _ in "ab")) for _ in count()
            )


@contextmanager
def on_card(card):
    """Stand-ins for what a card itself does."""
    from experiments.kernels import (
        triton_adamw,
        triton_gather,
        triton_grouped,
        triton_search,
        triton_sums,
    )

    for module in (triton_adamw, triton_gather, triton_grouped, triton_search, triton_sums):
        module.launch = launch
    torch.cuda.get_device_capability = lambda device=None: (9, 0)  # that of cluster=h100
    torch.nn.functional.scaled_dot_product_attention = attention
    torch.cuda.is_bf16_supported = lambda including_emulation=True: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    sort = torch_kernels.TorchKernel.sort

    def counted(self, idx, n_rows):
        card.n_rows = n_rows
        return sort(self, idx, n_rows)

    torch_kernels.TorchKernel.sort = counted
    try:
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        torch_kernels.TorchKernel.sort = sort
        torch_kernels._ranks.cache_clear()
        triton_search._candidates.cache_clear()


def run(case):
    point = make_point(case["raw"])
    mode, card = FakeTensorMode(), Card()
    # the compiler does not work while another mode looks on; it counts nothing and is asked nothing
    with on_card(card), mode, nullcontext() if case["compiled"] else card:
        model = point.transformer.build()
        module = LanguageModel(
            model,
            point.plan,
            point.config.optim,
            kernel=point.config.kernel,
            n_micro=point.ranks.n_micro,
        )
        if point.config.trainer.recompute:
            module.trunk = Recomputed(model)
        if case["compiled"]:
            module._compiled = compile_trunk(module.model, backend="aot_eager")
        trainer = pl.Trainer(
            strategy=strategy_of(point),
            max_steps=2,
            max_epochs=-1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        shape = (point.ranks.n_sequences, point.config.data.seq_len)
        trainer.fit(module, Zeros(shape))
        assert trainer.global_step == 2
    graphs = torch._dynamo.utils.counters["stats"].pop("unique_graphs", 0)
    return {
        "peak": card.peak,
        "planned": point.plan.memory.total - point.plan.memory.program,
        "asked": dict(card.asked),
        "copied": dict(card.copied),
        "float32": dict(card.float32),
        "graphs": graphs,
    }


def main():
    warnings.filterwarnings("ignore")
    results = []
    for case in json.loads(Path(sys.argv[1]).read_text()):
        try:
            results.append(run(case))
        except Exception:
            results.append({"error": traceback.format_exc(limit=-9)})
    print(json.dumps(results))


if __name__ == "__main__":
    main()

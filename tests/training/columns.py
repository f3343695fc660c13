"""Steps of a model whose tables are held in columns, in any float type; and runs that stop midway.

Started by a test as a program of its own, which forks a process for each rank: python -m
tests.training.columns JOBS, a JSON. ways: pairs of n and some of WAYS, of which "<n> <way>.pt" of
rank 0 of n in groups of two is left beside it. runs: each (config, step to stop at, or null, save
in which rank 1 is killed, or null).
"""

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

from experiments.data.batches import Batch
from experiments.kernels.ops import Execution
from experiments.models.ffn._rows import columns_alone
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from experiments.models.roles import find_tables
from experiments.models.transformer import TransformerConfig
from experiments.optim.adamw import AdamWConfig
from experiments.optim.gradients import add_replicas, clip_gradients
from experiments.optim.groups import build_optimizer
from experiments.points.parts import table_columns
from experiments.points.planning import make_point
from experiments.system import interruption
from experiments.system.exchange import Exchange
from experiments.system.interruption import Interrupted
from experiments.training import checkpoints
from experiments.training.evaluation import evaluate
from experiments.training.execute import execute

D, VOCAB, SEQ, BATCH, STEPS, RANKS = 32, 40, 8, 4, 8, 2
WINDOWS = 2 * BATCH + 1
KEYS = {"n_experts": 64, "n_heads": 2, "top_k": 4, "d_key": 8}
LAYERS = {
    "peer": PEERConfig(**KEYS),
    "peer_glu": PEERConfig(**KEYS, glu=True, query_norm="layer"),
    "peer_narrow": PeerNarrowConfig(**KEYS, d_value=16),
    "pkm": PKMConfig(**KEYS),
    "memory_plus": MemoryPlusConfig(**KEYS),
    "memory_shared": MemoryPlusConfig(**KEYS, share_values=True),
    "ultramem": UltraMemConfig(**KEYS, value_factor=0.5, score="raw", heads_per_query=2),
    "omni": OmniConfig(n_experts=64, top_k=4, router_norm="batch_plain"),
    "peer_bf16": PEERConfig(**KEYS, table_dtype="bfloat16"),
}
# layer, table_gradient, grad_clip, forward passes a step
WAYS = {
    "peer rows clipped": ("peer", "rows", 0.5, 1),
    "peer dense": ("peer", "dense", None, 2),
    "peer fused": ("peer", "fused", None, 1),
    "glu dense clipped": ("peer_glu", "dense", 0.5, 1),
    "glu rows": ("peer_glu", "rows", None, 2),
    "glu fused": ("peer_glu", "fused", None, 1),
    "narrow rows clipped": ("peer_narrow", "rows", 0.5, 2),
    "narrow fused": ("peer_narrow", "fused", None, 1),
    "pkm rows clipped": ("pkm", "rows", 0.5, 2),
    "pkm fused": ("pkm", "fused", None, 1),
    "memory_plus fused": ("memory_plus", "fused", None, 1),
    "memory_plus shared rows clipped": ("memory_shared", "rows", 0.5, 2),
    "ultramem rows clipped": ("ultramem", "rows", 0.5, 2),
    "ultramem fused": ("ultramem", "fused", None, 1),
    "omni dense clipped": ("omni", "dense", 0.5, 2),
    "omni fused": ("omni", "fused", None, 1),
    "bf16 rows clipped": ("peer_bf16", "rows", 0.5, 1),  # tables and moments; all else in float32
    "bf16 fused": ("peer_bf16", "fused", None, 1),
}


def optim_of(way="rows", clip=None):
    return AdamWConfig(
        lr=1e-2, lr_d_model=D, lr_width_exponent=0.5, table_lr=2.0, key_lr=0.2, weight_decay=0.1,
        beta1=0.9, beta2=0.95, eps=1e-8, grad_clip=clip, schedule="cosine", warmup=0.1, decay=0.2,
        final_lr=0.1, table_gradient=way,
    )  # fmt: skip


def built(layer, rank=0, size=1, dtype=torch.float64, base=None):
    """Two blocks of the layer between blocks that have none. dtype: None leaves what it is."""
    torch.manual_seed(0)
    ffns = (LAYERS[layer], DenseConfig(), LAYERS[layer])
    config = TransformerConfig(
        d_model=D, d_head=16, vocab_size=VOCAB, seq_len=SEQ, tie_head=True, ffns=ffns,
        base=base,
    )  # fmt: skip
    with columns_alone(rank, size):
        model = config.build()
    return model if dtype is None else model.to(dtype)


def steps_of(name, process=0, n=1, size=1):
    """Losses and norms of STEPS steps, the rows whose gradients they had, the weights after them,
    what was sent, and scores.
    """
    layer, way, clip, n_micro = WAYS[name]
    dtype = None if layer == "peer_bf16" else torch.float64
    model = built(layer, process % size, size, dtype)
    columns = Exchange(process, n, size) if n > 1 else None
    model.set_execution(Execution(kernel="torch", columns=columns))
    optimizer = build_optimizer(model, 1e-2, optim_of(way, clip), "torch")
    # of rows, whose moments are float32 in a run
    optimizer.state_dtype = torch.bfloat16 if dtype is None else dtype
    tables = list(find_tables(model).values())
    own = {id(table) for table in tables}
    text = torch.Generator().manual_seed(1)
    losses, norms, n_rows = [], [], []
    for _ in range(STEPS):
        tokens = torch.randint(VOCAB, (n_micro, BATCH, SEQ + 1), generator=text)
        total = 0.0
        for batch in tokens:
            part = batch.view(n, BATCH // n, SEQ + 1)[process]
            logits = model(part[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()) / n_micro
            loss.backward()
            total += float(loss.detach())
        if columns is not None:
            total = float(columns.gathered(torch.tensor([total], dtype=torch.float64)).mean())
            for p in model.parameters():
                if id(p) not in own:
                    dist.all_reduce(p.grad)
                    p.grad /= n
            if n > size:
                add_replicas(tables, columns)
        losses.append(total)
        by_id = {id(t): t.grad for t in tables}  # two layers may share one
        n_rows.append([g._nnz() for g in by_id.values() if g is not None and g.is_sparse])
        if clip is not None:
            norms.append(float(clip_gradients(model.parameters(), clip, columns, tables)))
        optimizer.step()
        optimizer.zero_grad()
    counts = {} if columns is None else {"sent": dict(columns.sent), "calls": dict(columns.calls)}
    return {
        "losses": losses,
        "norms": norms,
        "n_rows": n_rows,
        "weights": model.state_dict(),
        **counts,
        **scores_of(model),
    }


def scores_of(model):
    """Of 9 windows, two full batches and a part of one, and of a shorter tail."""
    text = torch.Generator().manual_seed(2)
    tokens = torch.randint(VOCAB, (WINDOWS, SEQ + 1), generator=text)
    batches = [Batch(part[:, :-1], part[:, 1:]) for part in tokens.split(BATCH)]
    batches.append(Batch(tokens[:1, :3], tokens[:1, 1:4]))
    seen, each = [], []
    hook = model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    sizes = np.ones(VOCAB)
    found = evaluate(
        model, batches, sizes, torch.device("cpu"), lambda _, t, losses: each.append(losses)
    )
    hook.remove()
    return {"scores": asdict(found), "each": each, "n_scored_here": sum(seen)}


def _rank(rank, folder, n, size, names):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting of {n}", rank=rank, world_size=n
    )
    for name in names:
        twice = n == size and name == names[0]
        found = [steps_of(name, rank, n, size) for _ in range(2 if twice else 1)]
        if rank == 0:
            torch.save(found, Path(folder) / f"{n} {name}.pt")
    dist.destroy_process_group()


def _die_in_save(number):
    """Of rank 1, once it has written a part of a file of tables, the number-th one."""
    whole, count = table_columns.save_sealed, 0

    def save(content, path):
        nonlocal count
        count += 1
        whole(content, path)
        if count == number and os.environ["RANK"] == "1":
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    table_columns.save_sealed = save


def _train(raw, stop, die, environment):
    os.environ.update(environment)
    if die is not None:
        _die_in_save(die)

    def at(row):
        if row["step"] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    interruption.listen()  # as the command does; Lightning's handler would wait for a broadcast
    checkpoints.VOTE_STEPS = 1  # so that it stops at that step
    try:
        record = execute(make_point(raw), at)
        assert record.status == "done", record.error
    except Interrupted:
        assert stop is not None


def _main():
    context = multiprocessing.get_context("fork")
    path = Path(sys.argv[1])
    jobs = json.loads(path.read_text())
    for n, names in jobs["ways"]:
        given = (path.parent, n, RANKS, names)
        _join([context.Process(target=_rank, args=(r, *given)) for r in range(n)])
    for (raw, stop, die), port in zip(jobs["runs"], jobs["ports"], strict=True):
        n, ranks = raw["trainer"]["devices"], []
        environment = {
            "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(n),
            "TORCHELASTIC_RUN_ID": "columns",  # Lightning then reads these
        }  # fmt: skip
        for rank in range(n):
            own = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            ranks.append(context.Process(target=_train, args=(raw, stop, die, own)))
        _join(ranks)


def _join(processes):
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        sys.exit(f"exit codes {[process.exitcode for process in processes]}")


if __name__ == "__main__":
    _main()

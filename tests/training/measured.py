"""A process of several whose tables are in columns, and what it measures of itself.

Started by a test, RANK and WORLD_SIZE in its environment:
python -m tests.training.measured memory FOLDER
python -m tests.training.measured links FOLDER ADDRESS DEVICE RATES...    within a network namespace

It leaves <rank>.json in FOLDER.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from experiments.kernels.ops import Execution
from experiments.models.ffn._rows import columns_alone
from experiments.models.ffn.peer import PEERConfig
from experiments.models.roles import find_tables
from experiments.models.transformer import TransformerConfig
from experiments.optim.groups import build_optimizer
from experiments.system.exchange import Exchange
from tests.training.columns import optim_of

VOCAB = 64
MEMORY = {"d_model": 256, "n_experts": 256**2, "n_heads": 2, "top_k": 4}
N_TOKENS = 64  # of all processes, for memory
LINKS = {"d_model": 64, "n_experts": 32**2, "n_heads": 8, "top_k": 16}
SEQUENCES, SEQ_LEN = 64, 64  # of each process, for links
ROUNDS, STEPS = 4, 2  # timed, of each rate


class Trained:
    """A model of one layer of experts, and steps of it."""

    def __init__(self, rank, size, *, d_model, n_experts, n_heads, top_k, seq_len):
        torch.manual_seed(0)
        self.layer = PEERConfig(
            n_experts=n_experts, n_heads=n_heads, top_k=top_k, d_key=16, query_norm="layer"
        )
        config = TransformerConfig(
            d_model=d_model,
            d_head=32,
            vocab_size=VOCAB,
            seq_len=seq_len,
            tie_head=True,
            ffns=(self.layer,),
        )
        with columns_alone(rank, size):
            self.model = config.build()
        self.columns = Exchange(rank, size) if size > 1 else None
        self.model.set_execution(Execution(kernel="torch", columns=self.columns))
        self.optimizer = build_optimizer(self.model, 1e-3, optim_of("dense"), "torch")
        self.tables = list(find_tables(self.model).values())
        own = {id(table) for table in self.tables}
        self.others = [p for p in self.model.parameters() if id(p) not in own]

    def step(self, tokens):
        """One of (sequences, seq_len + 1) tokens. Bytes of its tables' tensors before it ends."""
        logits = self.model(tokens[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        if self.columns is not None:
            flat = torch.cat([p.grad.view(-1) for p in self.others])
            dist.all_reduce(flat)
            flat /= self.columns.size
            parts = flat.split([p.numel() for p in self.others])
            for p, part in zip(self.others, parts, strict=True):
                p.grad.copy_(part.view_as(p))
        self.optimizer.step()
        n_bytes = 0
        for table in self.tables:
            moments = (m for m in self.optimizer.state[table].values() if m.dim())
            n_bytes += table.nbytes + table.grad.nbytes + sum(m.nbytes for m in moments)
        self.optimizer.zero_grad()
        return n_bytes


def _status(name):
    """Bytes, of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def memory(rank, size):
    """Process's own growth, from before the model is built to its highest."""
    tokens = torch.randint(VOCAB, (N_TOKENS // size // 8, 9))
    Trained(rank, size, **{**MEMORY, "n_experts": 64}, seq_len=8).step(tokens)  # what is once
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    trained = Trained(rank, size, **MEMORY, seq_len=8)
    built = _status("VmHWM") - before
    of_tables = max(trained.step(tokens) for _ in range(3))
    return {"of_tables": of_tables, "built": built, "grown": _status("VmHWM") - before}


def links(rank, size, device, rates):
    """Of each rate, in Mbit/s (0: as fast as it goes): seconds of steps, bytes that went by the
    interface, and packets that TCP has sent again. The rates take turns, so that other work of the
    machine falls on all of them.
    """
    trained = Trained(rank, size, **LINKS, seq_len=SEQ_LEN)
    tokens = torch.randint(VOCAB, (SEQUENCES, SEQ_LEN + 1))
    counter = Path(f"/sys/class/net/{device}/statistics/tx_bytes")
    trained.step(tokens)
    found = {r: {"seconds": [], "on_device": 0, "resent": 0, "sent": Counter()} for r in rates}
    for _ in range(ROUNDS):
        for rate, mine in found.items():
            _limit(device, rate)
            trained.step(tokens)
            dist.barrier()
            trained.columns.sent.clear()
            before, resent = int(counter.read_text()), _resent()
            for _ in range(STEPS):
                begun = time.perf_counter()
                trained.step(tokens)
                mine["seconds"].append(time.perf_counter() - begun)
            mine["on_device"] += int(counter.read_text()) - before
            mine["resent"] += _resent() - resent
            mine["sent"] += trained.columns.sent
            dist.barrier()
    return {"rates": found, "n_others": sum(p.numel() for p in trained.others)}


def _resent():
    """Packets of this network namespace."""
    names, values = (
        line.split()
        for line in Path("/proc/self/net/snmp").read_text().splitlines()
        if line.startswith("Tcp:")
    )
    return int(values[names.index("RetransSegs")])


def _limit(device, rate):
    """Limits what the interface sends. tbf's bucket holds one packet of the test's."""
    how = ["tbf", "rate", f"{rate}mbit", "burst", "33kb", "latency", "2s"] if rate else ["pfifo"]
    subprocess.run(["tc", "qdisc", "replace", "dev", device, "root", *how], check=True)


def main():
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    what, folder, *more = sys.argv[1:]
    address = f"tcp://{more[0]}:29511" if more else f"file://{folder}/rendezvous"
    if size > 1:
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    if what == "memory":
        found = memory(rank, size)
    else:
        found = links(rank, size, more[1], list(map(int, more[2:])))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    if size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

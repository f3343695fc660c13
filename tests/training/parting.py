"""How far float32 training of two ranks leaves that of one process, and whether near ties lead.

    python -m tests.training.parting [STEPS]

A model of two PEER layers, fresh random text in each step, rows clipped. One process notes which
experts each token retrieves. Beside it train: the same process with the sequences of a step in the
other order, which is no more than another order of sums; two ranks; and these with the experts of
the one process forced on them, so that no tie can turn.
"""

import multiprocessing
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from experiments.kernels.ops import Execution
from experiments.models.ffn import _product_keys
from experiments.models.roles import find_tables
from experiments.optim.gradients import clip_gradients
from experiments.optim.groups import build_optimizer
from experiments.system.exchange import Exchange
from tests.training.columns import BATCH, RANKS, SEQ, VOCAB, built, optim_of


class Search:
    """A search that scores all experts, and notes the scores and what it retrieves.

    given: what to retrieve instead, by call.
    """

    def __init__(self, given=None):
        self.given, self.calls = given, []

    def __call__(self, queries, sub_keys, top_k, execution, n_first=None, bias=None):
        halves = queries.unflatten(-1, (2, -1))
        one, two = (torch.einsum("thd,sd->ths", halves[:, :, i], sub_keys[i]) for i in range(2))
        scores = (one.unsqueeze(-1) + two.unsqueeze(-2)).flatten(-2)
        indices = scores.topk(top_k, dim=-1).indices
        if self.given is not None:
            indices = self.given[len(self.calls)]
        self.calls.append((scores.detach(), indices))
        return scores.gather(-1, indices), indices


def trained(dtype, steps, rank=0, size=1, given=None, is_reversed=False):
    """Losses, and of each layer and step the scores and indices of this process's tokens.
    is_reversed: the sequences of a step in the other order.
    """
    search = _product_keys.product_key_topk = Search(given)
    model = built("peer", rank, size, dtype)
    columns = Exchange(rank, size) if size > 1 else None
    model.set_execution(Execution(kernel="torch", columns=columns))
    optimizer = build_optimizer(model, 1e-2, optim_of("rows", 0.5), "torch")
    optimizer.state_dtype = dtype
    tables = list(find_tables(model).values())
    text, losses = torch.Generator().manual_seed(1), []
    for _ in range(steps):
        tokens = torch.randint(VOCAB, (size, BATCH * RANKS // size, SEQ + 1), generator=text)[rank]
        if is_reversed:
            tokens = tokens.flip(0)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        total = loss.detach().double()
        if columns is not None:
            total = columns.total(total) / size
            for p in model.parameters():
                if all(p is not table for table in tables):
                    dist.all_reduce(p.grad)
                    p.grad /= size
        losses.append(float(total))
        clip_gradients(model.parameters(), 0.5, columns, tables)
        optimizer.step()
        optimizer.zero_grad()
    return losses, search.calls


def _rank(rank, folder, dtype, steps, given):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS
    )
    n = BATCH * SEQ
    forced = [indices[rank * n : (rank + 1) * n] for _, indices in given]
    found = [trained(dtype, steps, rank, RANKS, g) for g in (None, forced)]
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def of_both(dtype, steps):
    """Losses and calls of the one process and of two ranks; the losses of the one process with its
    sequences in the other order, and of two ranks with the experts of the one.
    """
    torch.set_num_threads(1)
    losses, calls = trained(dtype, steps)
    reversed_losses, _ = trained(dtype, steps, is_reversed=True)
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("fork")
        ranks = [
            context.Process(target=_rank, args=(r, folder, dtype, steps, calls))
            for r in range(RANKS)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        (free, forced), (free_1, _) = (torch.load(f"{folder}/{r}.pt") for r in range(RANKS))
    both = [
        tuple(torch.cat(parts) for parts in zip(*pair, strict=True))
        for pair in zip(free[1], free_1[1], strict=True)
    ]
    return (losses, calls), (free[0], both), (reversed_losses, forced[0])


def other_experts(one, two):
    """Of a layer in a step: the heads of tokens that retrieve other experts, and for each the gap
    of the scores of an expert that the one alone and one that the other alone retrieves, in units
    of the last place of float32.
    """
    (scores, mine), (_, others) = one, two
    chosen = [torch.zeros_like(scores).scatter_(-1, i, 1.0).bool() for i in (mine, others)]
    at = (chosen[0] != chosen[1]).any(-1)
    inside = scores.masked_fill(~(chosen[0] & ~chosen[1]), torch.inf).amin(-1)[at]
    outside = scores.masked_fill(~(chosen[1] & ~chosen[0]), -torch.inf).amax(-1)[at]
    unit = 2.0**-23 * 2.0 ** inside.abs().double().log2().floor()
    return int(at.sum()), (inside - outside).double() / unit


def main():
    """Prints, by step, how far losses are apart and how many heads retrieve other experts."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 120
    for dtype in (torch.float32, torch.float64):
        _print(dtype, steps)


def _print(dtype, steps):
    (losses, calls), (free, both), (turned, forced) = of_both(dtype, steps)
    n_layers, seen = len(calls) // steps, 0
    n_heads = calls[0][1][..., 0].numel() * n_layers
    print(f"{dtype}: of {n_heads} heads a step; losses relative to those of one process")
    print("step  other order  two ranks  its experts forced  other experts  gap in last places")
    for step in range(steps):
        layers = range(step * n_layers, (step + 1) * n_layers)
        found = [other_experts(calls[i], both[i]) for i in layers]
        n, gaps = sum(n for n, _ in found), torch.cat([gap for _, gap in found])
        a, b, c = (abs(other[step] / losses[step] - 1) for other in (turned, free, forced))
        if (n and seen < 3) or step % 10 == 0 or step == steps - 1:
            gap = f"{float(gaps.min()):.3g} to {float(gaps.max()):.3g}" if n else ""
            print(f"{step:4}  {a:11.1e}  {b:9.1e}  {c:18.1e}  {n:13}  {gap}", flush=True)
        seen += bool(n)


if __name__ == "__main__":
    main()

"""Two gloo ranks that have the columns of each table between them train what one process trains."""

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch

from experiments.budget.communication import (
    ACROSS,
    adding_up,
    calls_for_columns,
    sent_by_replicas,
    sent_for_columns,
)
from experiments.language.app import APP
from experiments.language.trunks import make_trunks
from experiments.points.planning import make_point
from experiments.records.files import RECORD_NAME
from experiments.system.seals import find_damage
from experiments.system.table_files import FOLDER
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from tests.conftest import REPOSITORY, TINY
from tests.training.columns import BATCH, LAYERS, RANKS, SEQ, WAYS, WINDOWS, D, steps_of
from tests.training.columns import KEYS as OF_LAYER
from tests.training.columns import STEPS as N_STEPS
from tests.training.test_ddp import KEYS, STEPS, _result

SHORT = "peer rows clipped", "glu fused"  # of WAYS, what a layer and a table can be
GROUPED = [name for name in WAYS if "fused" not in name and "bf16" not in name]
RUNS = {
    "rows": ("model=peer", *KEYS, "optim.table_gradient=rows"),
    "glu": ("model=peer", "model.glu=true", "model.query_norm=layer", *KEYS,
            "trainer.micro_batch_size=1"),
    "fused": ("model=peer", *KEYS, "optim.table_gradient=fused", "optim.grad_clip=null"),
    "pkm": ("model=pkm", *KEYS),
    "layer": ("model=peer", "model.query_norm=layer", *KEYS),
    "grown": (),  # the layer is that of the weights
    "lora": (),
}  # fmt: skip
NIGHT = ("glu", "fused", "pkm")


def _by_ranks(folder, *, ways=(), runs=(), dies=False):
    """By n and the name of a way, what rank 0 of n in groups of two has come to; of the first name
    twice where there is one group. ways: by n. Then trains runs by the ranks that they ask for, one
    after another: of each (raw, step to stop at, or None, save in which rank 1 is killed, or None).
    """
    ways = dict(ways)
    with ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in runs]
        for found in sockets:
            found.bind(("localhost", 0))
        ports = [found.getsockname()[1] for found in sockets]
    path, jobs = folder / "jobs.json", {"runs": list(runs), "ports": ports}
    path.write_text(json.dumps({"ways": list(ways.items()), **jobs}))
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.columns", path],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}"},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert (done.returncode != 0) == dies, done.stdout + done.stderr
    found = [(n, name) for n, names in ways.items() for name in names]
    return {(n, name): torch.load(folder / f"{n} {name}.pt") for n, name in found}


def _check(name, found, n=RANKS):
    """In float64: rounding grows from step to step (tests/training/parting.py)."""
    alone = steps_of(name)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-10)
    assert found["norms"] == pytest.approx(alone["norms"], rel=1e-10)
    for key, weights in alone["weights"].items():
        other = found["weights"][key]
        torch.testing.assert_close(
            other, weights[..., : other.shape[-1]] if weights.dim() else weights,
            rtol=1e-9, atol=1e-10,
        )  # fmt: skip
    _check_sent(name, found["sent"], found["calls"], n, alone["n_rows"])
    _check_scores(found, alone, n)


def _check_sent(name, sent, calls, n, n_rows):
    """The formula is of float32; here all is float64 but the indices."""
    layer, _, clip, n_micro = WAYS[name]
    n_tokens, cost = n_micro * BATCH * SEQ // n, LAYERS[layer].cost(D)
    expected = sent_for_columns(
        [cost] * 2, d_model=D, n_tokens=n_tokens, n_ranks=RANKS, clipped=clip is not None
    )
    ((rows, width),) = (
        (term.n_active // (term.d_row or D) // term.n_tables, term.d_row or D)
        for term in cost.terms
        if term.n_tables
    )
    indices = 2 * 4 * n_tokens * rows * (RANKS - 1)
    assert {key: count for key, count in sent.items() if ACROSS not in key} == {
        "all-gather": N_STEPS * (2 * expected["all-gather"] - indices),
        "all-to-all": N_STEPS * 2 * expected["all-to-all"],
    }
    expected = calls_for_columns([cost] * 2, n_passes=n_micro, clipped=clip is not None)
    expected = {key: N_STEPS * count for key, count in expected.items()}
    if n > RANKS:
        shared = any(term.shared is not None for term in cost.terms)
        n_tables = sum(term.n_tables for term in cost.terms) * (1 if shared else 2)
        by_rows = any(n_rows)
        each = n_rows if by_rows else [[OF_LAYER["n_experts"]] * n_tables] * N_STEPS
        sums = [adding_up(m * width // RANKS, n // RANKS, 8) for step in each for m in step]
        if by_rows:
            sums += [adding_up(OF_LAYER["n_experts"], n // RANKS, 1)] * (n_tables * N_STEPS)
        for kind in ("all-gather", "all-to-all"):
            assert sent[kind + ACROSS] == sum(n_bytes for n_bytes, _ in sums)
            expected[kind + ACROSS] = sum(n_calls for _, n_calls in sums)
    assert calls == expected


def _check_scores(found, alone, n):
    """Losses are float32, of logits in float64."""
    for mine, other in zip(found["each"], alone["each"], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
    assert found["scores"] == pytest.approx(alone["scores"], rel=1e-6)
    assert alone["n_scored_here"] == WINDOWS + 1
    assert found["n_scored_here"] == (WINDOWS - 1) // n + 1 + 1  # all score what is left


@pytest.mark.night
def test_steps_of_two_groups_in_all_ways(tmp_path):
    names = [name for name in GROUPED if name not in SHORT]
    found = _by_ranks(tmp_path, ways={4: names})
    for name in names:
        _check(name, found[4, name][0], 4)


@pytest.mark.night
def test_steps_of_all_ways_are_those_of_one_process_in_float64(tmp_path):
    names = [name for name in WAYS if name not in SHORT and "bf16" not in name]
    found = _by_ranks(tmp_path, ways={RANKS: names})
    for name in names:
        _check(name, found[RANKS, name][0])


@pytest.mark.night
def test_tables_and_moments_in_bfloat16_are_those_of_one_process(tmp_path):
    """Sums of float32 in another order turn a rounding to bfloat16 where its noise decides by as
    little: with a chance of 2**-24 / 2**-8 = 2e-5 for each of the 3 numbers of a weight and step.
    What has turned differs by bfloat16's last bit, and in a moment by that much of a step.
    """
    names = [name for name in WAYS if "bf16" in name]
    found = _by_ranks(tmp_path, ways={RANKS: names})
    for name in names:
        alone, two = steps_of(name), found[RANKS, name][0]
        assert two["losses"][:2] == pytest.approx(alone["losses"][:2], rel=1e-6)
        assert two["losses"] == pytest.approx(alone["losses"], rel=1e-4)
        assert two["norms"] == pytest.approx(alone["norms"], rel=1e-3)
        for key, weights in alone["weights"].items():
            if weights.dtype == torch.bfloat16:
                own = weights[..., : D // RANKS]
                assert (own != two["weights"][key]).float().mean() < 0.01, key


@pytest.fixture(scope="module")
def overrides(compose_raw, tmp_path_factory):
    """overrides(name, sweep): of a run of STEPS steps."""
    top = tmp_path_factory.mktemp("runs")

    def of(name, sweep, *more):
        has_text = any(word.startswith("data=") for word in more)
        tiny = [word for word in TINY if not (has_text and "data.corpus" in word)]
        fixed = (*tiny, *RUNS[name], "size=2", "logger.log_every_n_steps=1", *more)
        plan = make_point(compose_raw(*fixed, "budget=1e10")).plan  # many steps: any is near it
        budget = STEPS * plan.batch_tokens * plan.cost.training_flops
        paths = (f"paths.results={top}", f"paths.cache={top / 'cache'}")
        return (*fixed, f"budget={budget}", *paths, f"sweep={sweep}")

    of.top = top
    return of


def _together(given, n=RANKS, size=RANKS):
    return *given, f"trainer.devices={n}", f"trainer.table_ranks={size}"


def _check_run(alone, together, is_same=True):
    (losses, record), (of_two, record_of_two) = map(_result, (alone, together))
    assert (record.run_id == record_of_two.run_id) == is_same
    assert len(losses) == len(of_two) == STEPS
    # sums of float32 in another order, and what 20 steps of training make of that (test_ddp.py)
    assert of_two[:5] == pytest.approx(losses[:5], rel=1e-6)
    assert of_two == pytest.approx(losses, rel=1e-4)
    assert record_of_two.val_loss == pytest.approx(record.val_loss, rel=1e-4)
    return record_of_two


def _check_names(names, compose_raw, overrides, n=RANKS, ways=()):
    for name in names:
        execute(make_point(compose_raw(*overrides(name, f"alone_{n}"))))
    raws = [compose_raw(*_together(overrides(name, f"together_{n}"), n)) for name in names]
    runs = [(raw, None, None) for raw in raws]
    steps = _by_ranks(overrides.top, ways=ways, runs=runs)
    for name, raw in zip(names, raws, strict=True):
        point = make_point(raw)
        record = _check_run(overrides.top / f"alone_{n}" / point.run_id, point.run_dir)
        expected = sent_for_columns(
            point.transformer.block_costs(),
            d_model=point.transformer.d_model,
            n_tokens=point.plan.batch_tokens // n,
            n_ranks=RANKS,
            clipped=point.config.optim.grad_clip is not None,
        )
        found = record.parts["table_columns"]
        sent, by_rows = found.pop("sent_bytes_per_step"), name == "rows"
        assert found == {"ranks": RANKS, "replicas": n // RANKS}, name
        assert {key: value for key, value in sent.items() if ACROSS not in key} == expected, name
        expected, _ = sent_by_replicas(
            point.transformer.block_costs(),
            d_model=point.transformer.d_model,
            n_tokens=point.plan.batch_tokens,
            n_ranks=RANKS,
            n_replicas=n // RANKS,
            by_rows=by_rows,
        )
        of_replicas = {key: value for key, value in sent.items() if ACROSS in key}
        # routing is balanced to begin with, and not to the row
        assert of_replicas == (pytest.approx(expected, rel=0.1) if by_rows else expected), name
    return steps


def test_two_ranks_train_what_one_process_trains(compose_raw, overrides):
    """Steps in float64, of two groups too, which repeat to the bit, and a run; by one start of a
    program.
    """
    ways = {RANKS: SHORT, 2 * RANKS: SHORT[:1]}
    for (n, name), (first, *again) in _check_names(
        ["rows"], compose_raw, overrides, ways=ways
    ).items():
        _check(name, first, n)
        for other in again:
            assert first["losses"] == other["losses"]
            for key, weights in first["weights"].items():
                assert torch.equal(weights, other["weights"][key])


@pytest.mark.night
def test_runs_of_all_ways_are_those_of_one_process(compose_raw, overrides):
    _check_names(NIGHT, compose_raw, overrides)


@pytest.mark.night
def test_runs_of_two_groups_are_those_of_one_process(compose_raw, overrides):
    _check_names(["rows", "glu", "pkm"], compose_raw, overrides, 4)


@pytest.mark.night
@pytest.mark.parametrize("n", [RANKS, 2 * RANKS], ids=["one group", "two groups"])
def test_a_rank_killed_in_a_save_leaves_the_checkpoint_before(compose_raw, overrides, n):
    """Its file is half written, and rank 0's is whole; the others end by themselves."""
    given = (*overrides("rows", f"killed_{n}"), "trainer.checkpoint_minutes=0")
    alone = make_point(compose_raw(*overrides("rows", f"unkilled_{n}")))
    execute(alone)
    raw = compose_raw(*_together(given, n))
    _by_ranks(overrides.top, runs=[(raw, None, 6)], dies=True)
    folder = make_point(raw).run_dir
    assert find_damage(folder / LAST) is None
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 5
    _by_ranks(overrides.top, runs=[(raw, None, None)])
    assert len(list((folder / FOLDER).glob("*"))) == 1
    _check_run(alone.run_dir, folder)


@pytest.mark.night
def test_any_number_of_ranks_goes_on_from_any_other(compose_raw, overrides):
    """All pairs of 1, 2 and 4, in one run: it stops at each of these steps."""
    wide = ("ladder.d_per_layer=32",)  # 64 columns: 16 each of four
    given = (*overrides("rows", "resumed", *wide), "trainer.checkpoint_minutes=60")
    alone = make_point(compose_raw(*overrides("rows", "uninterrupted", *wide)))
    execute(alone)
    ranks, stops = (1, 2, 4, 1, 4, 2, 1), (3, 6, 9, 12, 15, 18, None)
    raws = {n: compose_raw(*_together(given, n, "all" if n > 1 else "null")) for n in set(ranks)}
    runs = [(raws[n], stop, None) for n, stop in zip(ranks, stops, strict=True)]
    _by_ranks(overrides.top, runs=runs)
    folder = make_point(raws[1]).run_dir
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [e["step"] for e in events if e["event"] == "interrupted"] == list(stops[:-1])
    assert not (folder / FOLDER).exists()
    _check_run(alone.run_dir, folder)


@pytest.mark.night
def test_a_stream_goes_on_by_as_many_ranks(compose_raw, overrides, streamed):
    """Each where it was: as if it had not been stopped. By another number it is refused."""
    raws = {
        name: compose_raw(*_together(overrides("rows", name, *streamed)))
        for name in ("stopped", "unstopped")
    }
    _by_ranks(overrides.top, runs=[(raws["unstopped"], None, None), (raws["stopped"], 8, None)])
    alone = make_point(compose_raw(*overrides("rows", "stopped", *streamed)))
    record = execute(alone)
    assert record.status == "failed"
    assert "ValueError: data.streaming=true by 1 processes, and those of " in record.error
    (alone.run_dir / RECORD_NAME).unlink()
    _by_ranks(overrides.top, runs=[(raws["stopped"], None, None)])
    stopped, unstopped = (_result(make_point(raws[name]).run_dir)[0] for name in raws)
    assert stopped == unstopped


@pytest.mark.night
def test_a_branch_of_a_trunk_in_columns_is_the_run_from_scratch(compose_raw, overrides):
    """The trunk is of two ranks; a branch of one, and one of two."""
    wsd = ("optim.schedule=wsd", "optim.warmup_tokens=640")
    alone = make_point(compose_raw(*overrides("rows", "scratch", *wsd)))
    execute(alone)
    given = (*overrides("rows", "branches", *wsd), "optim.branch_from=trunk")
    branch = make_point(compose_raw(*_together(given)))
    (trunk,) = make_trunks([branch])
    APP.enter([branch])
    _by_ranks(overrides.top, runs=[(dict(p.raw), None, None) for p in (trunk, branch)])
    assert len(list((trunk.run_dir / FOLDER).glob("*/*"))) == RANKS  # its last checkpoint's
    single = make_point(compose_raw(*overrides("rows", "single", *wsd),
                                    f"optim.branch_from={trunk.run_dir}"))  # fmt: skip
    record = execute(single)
    assert record.status == "done", record.error
    for found in (single, branch):
        _check_run(alone.run_dir, found.run_dir, is_same=False)


@pytest.mark.night
def test_starts_that_take_whole_tables(compose_raw, overrides):
    """Weights to start from, with more experts than they have, or as they are under adapters; and
    rates that follow from whole shapes. Each is stopped once.
    """
    parent = make_point(compose_raw(*overrides("layer", "parent")))
    execute(parent)
    weights = (
        "init=run", f"init.path={parent.run_dir}", "ladder.d_per_layer=null",
        "ladder.lr_d_model=64", "optim.table_gradient=rows",
    )  # fmt: skip
    ways = {
        "grown": (*weights, "init.how=bias", "init.train=all", "n_experts=256"),
        "lora": (*weights, "init.train=lora", "init.how=keep"),
        "rows": ("optim.parametrization=mup", "ladder.lr_d_model=16", "ladder.lr=0.01"),
    }
    alone, raws = [], []
    for name, given in ways.items():
        alone.append(make_point(compose_raw(*overrides(name, "started", *given))))
        execute(alone[-1])
        raws.append(compose_raw(*_together(overrides(name, "started_together", *given))))
    _by_ranks(overrides.top, runs=[(raw, stop, None) for raw in raws for stop in (8, None)])
    for one, raw in zip(alone, raws, strict=True):
        _check_run(one.run_dir, make_point(raw).run_dir)

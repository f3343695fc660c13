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
from experiments.points.planning import make_point
from experiments.system.seals import damage_of
from experiments.system.table_files import FOLDER
from experiments.training.checkpoints import LAST
from experiments.training.execute import execute
from tests.conftest import REPOSITORY, TINY, Killed, kill_at
from tests.training.columns import BATCH, LAYERS, RANKS, SEQ, WAYS, WINDOWS, D, steps_of
from tests.training.columns import KEYS as OF_LAYER
from tests.training.columns import STEPS as N_STEPS
from tests.training.test_ddp import KEYS, STEPS, _result

SHORT = "peer rows clipped", "glu fused"  # of WAYS, what a layer and a table can be
GROUPED = [name for name in WAYS if "fused" not in name]
RUNS = {
    "rows": ("model=peer", *KEYS, "optim.table_gradient=rows"),
    "glu": ("model=peer", "model.glu=true", "model.query_norm=layer", *KEYS,
            "trainer.micro_batch_size=1"),
    "fused": ("model=peer", *KEYS, "optim.table_gradient=fused", "optim.grad_clip=null"),
    "pkm": ("model=pkm", *KEYS),
}  # fmt: skip
NIGHT = ("glu", "fused", "pkm")


def _call(*arguments, dies=False, **environment):
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.columns", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'src'}",
             **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )  # fmt: skip
    assert (done.returncode != 0) == dies, done.stdout + done.stderr


def _by_two(raws, folder, dies=False):
    """Trains configs by two ranks, one after another; of each (raw, step to stop at, or None, save
    in which rank 1 is killed, or None).
    """
    jobs = folder / "jobs.json"
    jobs.write_text(json.dumps(raws))
    with ExitStack() as free:
        sockets = [free.enter_context(socket.socket()) for _ in raws]
        for found in sockets:
            found.bind(("localhost", 0))
        ports = [found.getsockname()[1] for found in sockets]
    _call("runs", jobs, dies=dies, PORTS=json.dumps(ports))


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """by_two(names): of each of WAYS what rank 0 has come to; of the first twice. Or by n processes
    in groups of two.
    """

    def of(names, n=RANKS):
        folder = tmp_path_factory.mktemp("columns")
        _call(folder, n, RANKS, *names)
        return {name: torch.load(folder / f"{name}.pt") for name in names}

    return of


def _check(name, found, n=RANKS):
    """In float64, where no near tie of two experts turns by rounding."""
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
        n_tables = 2 * sum(term.n_tables for term in cost.terms)
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


@pytest.mark.long
@pytest.mark.slow
def test_steps_are_those_of_one_process_in_float64(by_two):
    found = by_two(SHORT)
    first, again = found[SHORT[0]]
    assert first["losses"] == again["losses"]  # to the bit
    for key, weights in first["weights"].items():
        assert torch.equal(weights, again["weights"][key])
    for name in SHORT:
        _check(name, found[name][0])


@pytest.mark.long
@pytest.mark.slow
def test_steps_of_two_groups_are_those_of_one_process_in_float64(by_two):
    first, again = by_two(["peer rows clipped"], 4)["peer rows clipped"]
    assert first["losses"] == again["losses"]
    for key, weights in first["weights"].items():
        assert torch.equal(weights, again["weights"][key])
    _check("peer rows clipped", first, 4)


@pytest.mark.night
@pytest.mark.long
@pytest.mark.slow
def test_steps_of_two_groups_in_all_ways(by_two):
    found = by_two(GROUPED, 4)
    for name in GROUPED:
        _check(name, found[name][0], 4)


@pytest.mark.night
@pytest.mark.long
@pytest.mark.slow
def test_steps_of_all_ways_are_those_of_one_process_in_float64(by_two):
    names = [name for name in WAYS if name not in SHORT]
    found = by_two(names)
    for name in names:
        _check(name, found[name][0])


@pytest.fixture(scope="module")
def overrides(compose_raw, tmp_path_factory):
    """overrides(name, sweep): of a run of STEPS steps."""
    top = tmp_path_factory.mktemp("runs")

    def of(name, sweep):
        fixed = (*TINY, *RUNS[name], "size=2", "logger.log_every_n_steps=1")
        plan = make_point(compose_raw(*fixed, "budget=1e9")).plan
        budget = STEPS * plan.batch_tokens * plan.cost.training_flops
        paths = (f"paths.results={top}", f"paths.cache={top / 'cache'}")
        return (*fixed, f"budget={budget}", *paths, f"sweep={sweep}")

    of.top = top
    return of


def _together(given, n=RANKS):
    return *given, f"trainer.devices={n}", f"trainer.table_ranks={RANKS}"


def _check_run(alone, together):
    (losses, record), (of_two, record_of_two) = map(_result, (alone, together))
    assert record.run_id == record_of_two.run_id
    assert len(losses) == len(of_two) == STEPS
    # sums of float32 in another order, and what 20 steps of training make of that (test_ddp.py)
    assert of_two[:5] == pytest.approx(losses[:5], rel=1e-6)
    assert of_two == pytest.approx(losses, rel=1e-4)
    assert record_of_two.val_loss == pytest.approx(record.val_loss, rel=1e-4)
    return record_of_two


def _check_names(names, compose_raw, overrides, n=RANKS):
    for name in names:
        execute(make_point(compose_raw(*overrides(name, f"alone_{n}"))))
    raws = [compose_raw(*_together(overrides(name, f"together_{n}"), n)) for name in names]
    _by_two([(raw, None, None) for raw in raws], overrides.top)
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


@pytest.mark.long
@pytest.mark.slow
def test_a_run_of_two_ranks_is_that_of_one_process(compose_raw, overrides):
    _check_names(["rows"], compose_raw, overrides)


@pytest.mark.night
@pytest.mark.long
@pytest.mark.slow
def test_runs_of_all_ways_are_those_of_one_process(compose_raw, overrides):
    _check_names(NIGHT, compose_raw, overrides)


@pytest.mark.night
@pytest.mark.long
@pytest.mark.slow
def test_runs_of_two_groups_are_those_of_one_process(compose_raw, overrides):
    _check_names(["rows", "glu", "pkm"], compose_raw, overrides, 4)


@pytest.mark.night
@pytest.mark.long
@pytest.mark.slow
def test_a_rank_killed_in_a_save_leaves_the_checkpoint_before(compose_raw, overrides):
    """Its file is half written, and rank 0's is whole; rank 0 ends by itself."""
    given = (*overrides("rows", "killed"), "trainer.checkpoint_minutes=0")
    alone = make_point(compose_raw(*overrides("rows", "unkilled")))
    execute(alone)
    raw = compose_raw(*_together(given))
    _by_two([(raw, None, 6)], overrides.top, dies=True)
    folder = make_point(raw).run_dir
    assert damage_of(folder / LAST) is None
    assert torch.load(folder / LAST, weights_only=True)["global_step"] == 5
    _by_two([(raw, None, None)], overrides.top)
    assert len(list((folder / FOLDER).glob("*"))) == 1
    _check_run(alone.run_dir, folder)


@pytest.mark.night
@pytest.mark.long
@pytest.mark.slow
def test_one_process_goes_on_from_two_and_they_from_one(compose_raw, overrides):
    given = overrides("rows", "resumed")
    alone = make_point(compose_raw(*overrides("rows", "uninterrupted")))
    execute(alone)
    point = make_point(compose_raw(*given, "trainer.checkpoint_minutes=0"))
    with pytest.raises(Killed):
        execute(point, kill_at(8))
    assert not (point.run_dir / FOLDER).exists()
    _by_two([(compose_raw(*_together(given)), 14, None)], overrides.top)
    assert len(list((point.run_dir / FOLDER).glob(f"*/*-of-{RANKS}.ckpt"))) == RANKS
    record = execute(make_point(compose_raw(*given)))
    assert record.status == "done", record.error
    assert not (point.run_dir / FOLDER).exists()
    assert (point.run_dir / LAST).exists()
    _check_run(alone.run_dir, point.run_dir)

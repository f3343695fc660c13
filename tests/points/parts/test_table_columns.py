"""Tables in columns: what is refused, how they start, and their files, read by any number."""

import copy
import json
import multiprocessing
import os
import shutil
import socket
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.budget.communication import sent_by_ddp
from experiments.data.module import check_ranks
from experiments.models.ffn import _rows
from experiments.models.ffn._rows import columns_alone
from experiments.models.parametrization import Base, Scale
from experiments.models.roles import find_tables
from experiments.optim.groups import build_optimizer, parameter_groups
from experiments.points.parts.table_columns import OwnColumns, TableColumns
from experiments.points.planning import make_point
from experiments.records.kept import enter, keep, kept, kept_path, release
from experiments.system import seals
from experiments.system.agreement import look_at
from experiments.system.distributed import Ranks
from experiments.system.seals import find_damage, save_sealed
from experiments.system.table_files import FOLDER, KEY, drop_unnamed, load_whole, placed
from experiments.training.checkpoints import LAST, PREVIOUS, to_resume_from
from tests.conftest import TINY
from tests.training.columns import D, built, optim_of

PEER = ("model=peer", "model.d_key=8", "model.n_heads=2", "model.top_k=4", "n_experts=64")
TWO = (*TINY, *PEER, "size=2", "budget=1e9", "trainer.devices=2", "trainer.table_ranks=all")


class Together:
    """Processes that are threads: what OwnColumns asks of an Exchange."""

    def __init__(self, size, n_groups=1):
        n = size * n_groups
        self.size, self.n_replicas, self.n_processes = size, n_groups, n
        self.barrier, self.given = threading.Barrier(n, timeout=300), [None] * n

    def of(self, process):
        mine = copy.copy(self)
        mine.process, mine.rank = process, process % self.size
        return mine

    def gathered(self, values):
        self.given[self.process] = values
        self.barrier.wait()
        every = torch.stack(list(self.given))
        self.barrier.wait()
        return every


def whole_checkpoint(step=3):
    """Of one process, two steps on."""
    model = built("peer", dtype=torch.float32)
    optimizer = build_optimizer(model, 1e-2, optim_of(), "torch")
    for seed in range(2):
        torch.manual_seed(seed)
        model(torch.randint(40, (2, 8))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        "global_step": step,
        "loops": {},
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
    }


def _copied(checkpoint):
    return {
        **checkpoint,
        "state_dict": dict(checkpoint["state_dict"]),
        "optimizer_states": [copy.deepcopy(checkpoint["optimizer_states"][0])],
    }


def columns_of(checkpoint, rank, size):
    """A process's share, as the run's part takes it."""
    own = _copied(checkpoint)
    if size > 1:
        OwnColumns(built("peer"), optim_of(), Together(size).of(rank), None).before_load(own)
    return own


def save(checkpoint, size, folder, name=LAST, n_groups=1):
    """As so many groups of processes write it, each from its columns."""
    together, written = Together(size, n_groups), [None] * (size * n_groups)

    def run(process):
        own = columns_of(checkpoint, process % size, size)
        model = built("peer", process % size, size, torch.float32)
        OwnColumns(model, optim_of(), together.of(process), folder).before_save(own)
        written[process] = own

    threads = [threading.Thread(target=run, args=(p,)) for p in range(size * n_groups)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any("w_down" in key for key in written[0]["state_dict"])
    save_sealed(written[0], folder / name)


def assert_same(found, expected):
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    for name, tensor in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], tensor), name
    states, wanted = (c["optimizer_states"][0]["state"] for c in (found, expected))
    assert states.keys() == wanted.keys()
    for place, state in wanted.items():
        for name, tensor in state.items():
            assert torch.equal(states[place][name], tensor), (place, name)


@pytest.mark.parametrize(("size", "others"), [(1, (2, 4)), (2, (1, 2, 4)), (4, (1, 2, 4))])
def test_any_number_of_processes_reads_what_any_has_written(tmp_path, size, others):
    checkpoint = whole_checkpoint()
    if size == 1:
        save_sealed(checkpoint, tmp_path / LAST)
    else:
        save(checkpoint, size, tmp_path)
    assert find_damage(tmp_path / LAST) is None
    assert_same(load_whole(tmp_path / LAST), checkpoint)
    for n in others:
        for rank in range(n):
            loaded = torch.load(tmp_path / LAST, weights_only=True)
            loaded = placed(loaded, tmp_path / LAST)
            if n > 1:
                model = built("peer", rank, n, torch.float32)
                OwnColumns(model, optim_of(), Together(n).of(rank), None).before_load(loaded)
                model.load_state_dict(
                    {k.removeprefix("model."): v for k, v in loaded["state_dict"].items()}
                )
                assert_same(loaded, columns_of(checkpoint, rank, n))


def test_one_group_of_several_writes_files(tmp_path):
    checkpoint = whole_checkpoint()
    save(checkpoint, 2, tmp_path, n_groups=2)
    assert sorted(f.name for f in tmp_path.glob(f"{FOLDER}/*/*")) == ["0-of-2.ckpt", "1-of-2.ckpt"]
    assert_same(load_whole(tmp_path / LAST), checkpoint)


@pytest.mark.parametrize("size", [2])
def test_a_damaged_file_sends_all_to_the_checkpoint_before(tmp_path, size):
    save(whole_checkpoint(2), size, tmp_path, PREVIOUS)
    save(whole_checkpoint(3), size, tmp_path)
    (file,) = tmp_path.glob(f"{FOLDER}/3-*/1-of-2.ckpt")
    (other,) = tmp_path.glob(f"{FOLDER}/2-*/1-of-2.ckpt")
    right = file.read_bytes()
    assert to_resume_from(tmp_path) == tmp_path / LAST
    flipped = bytearray(right)
    flipped[len(right) // 2] ^= 1
    damages = {
        "its checksum is not that of its content": bytes(flipped),
        "1-of-2.ckpt: ": right[: len(right) // 2],
        "is of another checkpoint": other.read_bytes(),
        "is missing": None,
    }
    for why, content in damages.items():
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        assert why in find_damage(tmp_path / LAST)
        with pytest.warns(UserWarning, match=r"last\.ckpt is damaged \(its tables/3-"):
            assert to_resume_from(tmp_path) == tmp_path / PREVIOUS


class Disks:
    """A folder of checkpoints as each of two processes sees it: rank 1 may have one of its own."""

    def __init__(self, folder):
        self.folders = [folder, folder]
        save(whole_checkpoint(2), 2, folder, PREVIOUS)
        save(whole_checkpoint(3), 2, folder)

    def file(self, step, rank):
        (found,) = self.folders[1].glob(f"{FOLDER}/{step}-*/{rank}-of-2.ckpt")
        return found

    def apart(self):
        """Rank 1's own from now on."""
        self.folders[1] = self.folders[0].with_name("other")
        shutil.copytree(*self.folders)

    def damaged(self):
        """One bit of rank 1's columns is another one."""
        content = bytearray(self.file(3, 1).read_bytes())
        content[len(content) // 2] ^= 1
        self.file(3, 1).write_bytes(content)

    def removed(self):
        self.file(3, 1).unlink()

    def stale(self):
        self.file(3, 1).write_bytes(self.file(2, 1).read_bytes())

    def unseen(self):
        self.apart()
        (self.folders[1] / LAST).unlink()

    def other(self):
        """A whole one of another step."""
        self.apart()
        save(whole_checkpoint(4), 2, self.folders[1])

    def blind(self):
        self.apart()
        for name in (LAST, PREVIOUS):
            (self.folders[1] / name).unlink()


def _look(rank, port, folder, out):
    """Checkpoint a process would go on from, its warnings, and tables' files it has read."""
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="looks",
    )  # fmt: skip
    ranks, read, whole = Ranks(devices=2, num_nodes=1, n_micro=1, n_sequences=1), [], seals._hash
    seals._hash = lambda file, size: read.append(file.name) or whole(file, size)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            said = to_resume_from(folder, lambda path: look_at(path, ranks, 2)).name
        except RuntimeError as error:
            said = str(error)
    files = {Path(name).name for name in read}
    out.write_text(json.dumps([said, sorted(files - {LAST, PREVIOUS}), len(caught)]))


def _looks(folders, tmp_path):
    """Of both processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    context = multiprocessing.get_context("fork")
    looking = [
        context.Process(target=_look, args=(rank, port, folders[rank], outs[rank]))
        for rank in range(2)
    ]
    for process in looking:
        process.start()
    for process in looking:
        process.join()
    return [json.loads(out.read_text()) for out in outs]


@pytest.mark.parametrize(
    "how",
    [
        "damaged",
        "blind",
        *(
            pytest.param(h, marks=pytest.mark.night)
            for h in (None, "removed", "stale", "unseen", "other")
        ),
    ],
)
def test_what_one_process_cannot_go_on_from_none_does(tmp_path, how):
    """Each reads of the tables its own columns alone."""
    (tmp_path / "run").mkdir()
    disks = Disks(tmp_path / "run")
    if how is not None:
        getattr(disks, how)()
    (first, files, n_warnings), (second, others, none) = _looks(disks.folders, tmp_path)
    assert first == second.replace(str(disks.folders[1]), str(disks.folders[0]))
    assert files == ["0-of-2.ckpt"]
    assert (n_warnings, none) == ({None: 0, "blind": 2}.get(how, 1), 0)
    if how == "blind":
        assert first.startswith("process 1 sees no checkpoint in ")
        return
    assert first == (LAST if how is None else PREVIOUS)
    assert others == ["1-of-2.ckpt"]


def test_a_stream_goes_on_by_as_many_processes_alone(tmp_path):
    places = [(lane, 0, 0, 3, 0, 1) for lane in range(2)]
    kinds = {
        "two": {"by_rank": [places, places]},
        "before": {"positions": places, "rank": 0, "world_size": 2},  # rank 0's alone
        "packed": {"by_rank": [[], []]},
    }
    for name, state in kinds.items():
        torch.save({"TokenDataModule": state}, tmp_path / name)
        check_ranks(tmp_path / name, 2)
        if name == "packed":
            check_ranks(tmp_path / name, 1)
            continue
        with pytest.raises(ValueError, match=r"by 1 processes, and those of .* were 2"):
            check_ranks(tmp_path / name, 1)


def test_files_that_lack_columns_are_refused(tmp_path):
    save(whole_checkpoint(), 2, tmp_path)
    loaded = placed(torch.load(tmp_path / LAST, weights_only=True), tmp_path / LAST)
    one, other = sorted(tmp_path.glob(f"{FOLDER}/3-*/*.ckpt"))
    other.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match=r"w_down do not have each of its 32 columns once"):
        OwnColumns(built("peer"), optim_of(), Together(2).of(1), None).before_load(loaded)


def _step_4_follows(folder, checkpoint):
    """As a trunk that has kept its step 3 goes on."""
    keep(folder / LAST, 3)
    (folder / LAST).unlink()
    save({**checkpoint, "global_step": 4}, 2, folder)
    drop_unnamed(folder, (LAST, PREVIOUS, *(path.name for path in kept(folder).values())))


def test_tables_of_a_kept_checkpoint_stay_until_no_branch_waits(tmp_path):
    checkpoint = whole_checkpoint(3)
    save(checkpoint, 2, tmp_path)
    enter(tmp_path, "branch", 3)
    _step_4_follows(tmp_path, checkpoint)
    assert find_damage(kept_path(tmp_path, 3)) is None
    assert_same(load_whole(kept_path(tmp_path, 3)), checkpoint)
    names = [sorted(path.name.split("-")[0] for path in (tmp_path / FOLDER).iterdir())]
    release(tmp_path, "branch")  # the trunk goes on: what it has is its own to drop
    names.append(sorted(path.name.split("-")[0] for path in (tmp_path / FOLDER).iterdir()))
    assert names == [["3", "4"]] * 2
    assert not kept(tmp_path)


def test_tables_of_a_kept_checkpoint_go_with_it_once_the_trunk_has_ended(tmp_path, monkeypatch):
    checkpoint = whole_checkpoint(3)
    save(checkpoint, 2, tmp_path)
    enter(tmp_path, "branch", 3)
    _step_4_follows(tmp_path, checkpoint)
    ended = SimpleNamespace(status="done", n_steps=4)
    monkeypatch.setattr("experiments.records.kept.find_outcome", lambda folder: ended)
    release(tmp_path, "branch")
    assert [path.name.split("-")[0] for path in (tmp_path / FOLDER).iterdir()] == ["4"]
    assert find_damage(tmp_path / LAST) is None


@pytest.mark.parametrize("folder", ["../elsewhere", "/etc", "3", "3-xyz"])
def test_a_manifest_names_no_other_place(tmp_path, folder):
    path = tmp_path / LAST
    save_sealed({KEY: {"folder": folder, "seals": ["0" * 64], "places": {}}}, path)
    with pytest.raises(ValueError, match="which is no folder of ours"):
        load_whole(path)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("shape", [(64, 32), (37, 20), (5, 4)])
def test_a_table_drawn_in_blocks_is_that_drawn_whole(monkeypatch, shape, size):
    monkeypatch.setattr(_rows, "_BLOCK", 100)
    torch.manual_seed(0)
    whole = _rows.new_rows(*shape, "float32")
    after = torch.get_rng_state()
    width = shape[1] // size
    for rank in range(size):
        torch.manual_seed(0)
        with columns_alone(rank, size):
            own = _rows.new_rows(*shape, "float32")
        assert torch.equal(own, whole[:, rank * width : (rank + 1) * width])
        assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("base", [None, Base(d_model=16, d_head=16, n_layers=1)])
def test_a_model_in_columns_begins_as_the_whole_one(base):
    """With the rates of the whole one, whose factors are of whole shapes."""
    whole, own = (built("peer_glu", *share, base=base) for share in ((0, 1), (1, 2)))
    tables = find_tables(whole)
    assert len(tables) == 6
    for name, parameter in own.named_parameters():
        expected = whole.get_parameter(name)
        assert torch.equal(parameter, expected[:, D // 2 :] if name in tables else expected)
    assert own.scales() == whole.scales()
    groups = [parameter_groups(model, 1e-2, optim_of()) for model in (own, whole)]
    rates = [[{**group, "params": len(group["params"])} for group in g] for g in groups]
    assert rates[0] == rates[1]
    assert (base is None) == all(scale == Scale() for scale in whole.scales().values())


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("trainer.table_ranks=3",), " with 2 processes"),
        (("trainer.devices=4",), "d_model=32: a process would have 8 columns, and 16 are"),
        (("trainer.devices=3", "ladder.batch_size=3"), "d_model=32, whose columns 3 can't have"),
        (("kernel=reference",), "kernel=reference, which reads whole tables"),
        (("trainer.compile=true",), "trainer.compile=true"),
        (("trainer.trunk=fused", "model.query_norm=layer"), "trainer.trunk=fused"),
        (
            ("trainer.devices=4", "trainer.table_ranks=2", "optim.table_gradient=fused",
             "optim.grad_clip=null"),
            "with 4 processes and optim.table_gradient=fused: 2 groups have to add up",
        ),
        (("model=engram",), "with Engram, whose tables have no form in columns"),
        (("model=peer_narrow", *PEER[1:], "model.d_value=24"), "rows of 24 numbers: a process wou"),
        (("model=dense",), "no layer of the model has expert tables"),
    ],
)  # fmt: skip
def test_what_has_no_form_in_columns_is_refused_by_name(compose_raw, given, why):
    if given[0] == "model=dense":
        base = [o for o in TWO if o not in PEER]
    else:
        base = [o for o in TWO if not (given[0].startswith("model=") and o in PEER)]
    with pytest.raises(ValueError, match=r"^trainer\.table_ranks=.*" + why):
        make_point(compose_raw(*base, *given))


def _line_of(point):
    (part,) = (part for part in point.parts if isinstance(part, TableColumns))
    return part.plan_line(point)[1]


def test_the_plan_says_what_is_sent_and_who_holds_what(compose_raw):
    alone = make_point(compose_raw(*(o for o in TWO if "table_ranks" not in o)))
    point = make_point(compose_raw(*TWO))
    assert point.run_id == alone.run_id
    assert (alone.table_ranks, point.table_ranks) == (1, 2)
    tables = sum(t.n_params for t in point.plan.cost.terms if t.n_tables)
    memory, before = point.plan.memory, alone.plan.memory
    assert before.weights - memory.weights == 4 * tables // 2
    assert before.moments - memory.moments == 8 * tables // 2
    (part,) = (part for part in point.parts if isinstance(part, TableColumns))
    heading, line = part.plan_line(point)
    assert heading.startswith("Sent by each process in a step")
    assert line.startswith("all-gather ")
    own = sum(t.n_params for t in point.plan.cost.terms) - tables
    assert sent_by_ddp(point.plan.cost, 2, tables=False) == 4 * own
    assert "modelled" not in line
    make_point(compose_raw(*TWO, "optim.table_gradient=rows"))  # which DDP alone can't carry


def test_a_plan_of_groups_has_what_replicas_send(compose_raw):
    base = [o for o in TWO if "table_ranks" not in o]
    groups = (*base, "trainer.devices=4", "trainer.table_ranks=2")
    alone, dense = make_point(compose_raw(*base)), make_point(compose_raw(*groups))
    rows = make_point(compose_raw(*groups, "optim.table_gradient=rows"))
    assert alone.run_id == dense.run_id
    assert dense.table_ranks == 2
    lines = [_line_of(point) for point in (dense, rows)]
    tables = sum(t.n_params for t in dense.plan.cost.terms if t.n_tables)
    assert f"all-to-all of replicas {4 * tables / 2 / 2 / 1e6:.3g} " in lines[0]  # R, and a half
    assert "all-gather of replicas" in lines[1]
    assert alone.plan.memory.weights - dense.plan.memory.weights == 4 * tables // 2


def test_the_plan_for_a_cluster_has_milliseconds_where_its_links_are_known(compose_raw):
    lines = {}
    for card in ("h100", "v100"):
        point = make_point(compose_raw(*TWO, f"cluster={card}"))
        lines[card] = _line_of(point)
    assert "; by its links, modelled and never measured, 0.3" in lines["h100"]  # 10 calls
    assert "modelled" not in lines["v100"]

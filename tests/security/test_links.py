"""A link in a stranger's sweep, as git and tar bring them, leads no command out of it.

A folder of the reader's own, `thesis`, is beside the results: names, bytes and dates in it are the
same after each command, whatever is a link to it.
"""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from analysis.__main__ import main as analysis
from experiments import cancel, collect, evaluate, export, inspect
from experiments.adapters.library import lora_library
from experiments.adapters.storage import save_library
from experiments.points.planning import make_point
from experiments.records import kept
from experiments.records.files import RECORD_NAME
from experiments.sweep import manifest, submission
from experiments.sweep.control import controlling
from experiments.sweep.queues.slurm import FOLDER as SLURM
from experiments.sweep.snapshot import take_snapshot
from experiments.sweep.workers import redirect_output
from experiments.system import disk
from experiments.training.execute import execute
from tests.adapters.small import adapter
from tests.conftest import TINY
from tests.security.strangers import own_folder, plant_link, state_of

LINK = "is a link, and what is written there would go to"


@pytest.fixture
def thesis(tmp_path):
    return own_folder(tmp_path / "thesis")


# The functions that write, make and remove, of a path; those that replace or remove a link itself.
VERBS = {
    "append": lambda path: disk.opened(path, "ab").close(),
    "truncate": lambda path: disk.opened(path, "w").close(),
    "create": lambda path: disk.opened(path, "r+b", create=True).close(),
    "write_text": lambda path: disk.write_text(path, "mine"),
    "make_folder": disk.make_folder,
    "make_folder below": lambda path: disk.make_folder(path / "new" / "er"),
    "check_writable": disk.check_writable,
    "second_name": lambda path: disk.second_name(Path(__file__), path),
    "copy_file": lambda path: disk.copy_file(Path(__file__), path),
}
OF_THE_LINK = {
    "write_text_atomically": lambda path: disk.write_text_atomically(path, "mine"),
    "remove": disk.remove,
    "remove_tree": disk.remove_tree,
    "remove_empty": disk.remove_empty,
    "rename": lambda path: disk.rename(path, path.with_name("renamed")),
    "whole_folder": lambda path: disk.whole_folder(path).__enter__(),
}
PLACES = {"itself": ".", "its folder": "a", "far above": "a/b/c"}


TARGETS = ("chapter", "history.csv", "nothing there", ".")


@pytest.mark.parametrize("place", list(PLACES))
@pytest.mark.parametrize("verb", [*VERBS, *OF_THE_LINK])
def test_no_function_goes_through_a_link(verb, place, thesis, tmp_path):
    before = state_of(thesis)
    for n, target in enumerate((*TARGETS, *(thesis / name for name in TARGETS))):
        run_dir = tmp_path / "results" / f"{n}" / "run"
        run_dir.mkdir(parents=True)
        (run_dir / "link").symlink_to(Path("../../../thesis") / target)
        path = run_dir / "link" if place == "itself" else run_dir / "link" / PLACES[place] / "name"
        if verb in OF_THE_LINK and place == "itself":
            OF_THE_LINK[verb](path)
        else:
            with pytest.raises(RuntimeError, match=f"run/link {LINK} .*; delete it"):
                {**VERBS, **OF_THE_LINK}[verb](path)
        assert state_of(thesis) == before, target


@pytest.mark.parametrize("verb", list(VERBS | OF_THE_LINK))
def test_no_function_writes_into_a_second_name(verb, thesis, tmp_path):
    before, path = (thesis / "history.csv").read_bytes(), tmp_path / "name"
    path.hardlink_to(thesis / "history.csv")
    if verb in ("append", "truncate", "create", "write_text", "copy_file"):
        with pytest.raises(RuntimeError, match=r"name is a hard link: its file has 2 names, .*cp"):
            VERBS[verb](path)
    else:
        with suppress(OSError, RuntimeError):  # it is no folder
            (VERBS | OF_THE_LINK)[verb](path)
    assert (thesis / "history.csv").read_bytes() == before


def test_a_link_of_the_user_s_own_is_followed_where_it_is_named(thesis, tmp_path):
    (tmp_path / "results").symlink_to(thesis / "chapter")
    run_dir = disk.followed(tmp_path / "results") / "sweep" / "run"
    disk.make_folder(run_dir)
    assert (thesis / "chapter" / "sweep" / "run").is_dir()
    assert disk.followed(run_dir) == disk.reached(run_dir) == run_dir
    assert disk.reached(tmp_path / "results" / "sweep") == run_dir.parent
    (run_dir.parent / "other").symlink_to(run_dir)
    other = disk.reached(tmp_path / "results" / "sweep" / "other")
    with pytest.raises(RuntimeError, match=f"sweep/other {LINK}.*; delete it, or name that folder"):
        disk.write_text(other / "x", "")


@pytest.mark.parametrize("kind", ["relative", "absolute", "dangling", "folder"])
def test_a_run_with_a_link_out_of_it_is_not_begun(kind, thesis, tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "inner").symlink_to("events.jsonl")
    disk.refuse_links_in(run_dir)
    to = {"relative": "../thesis/history.csv", "absolute": thesis / "history.csv",
          "dangling": thesis / "none", "folder": "../thesis"}[kind]  # fmt: skip
    (run_dir / "history.csv").symlink_to(to)
    with pytest.raises(RuntimeError, match=f"run/history.csv {LINK}"):
        manifest.submitting(run_dir).__enter__()


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compose_raw):
    """A finished run of PEER that kept a checkpoint, and its config but for the paths."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("model=peer", "size=2", "budget=2e9", "trunk.ffn_blocks=[1]", "n_experts=256",
             "trainer.keep_at=[0.5]", *TINY)  # fmt: skip
    paths = (f"paths.results={folder / 'results'}", f"paths.cache={folder / 'cache'}")
    point = make_point(compose_raw(*words, *paths))
    assert execute(point).status == "done"
    manifest.add(point.run_dir.parent, [manifest.make_entry(point, None)])
    return point


class Place:
    """A copy of the sweep beside the thesis, and the commands on it, each in this process."""

    def __init__(self, trained, folder, compose, monkeypatch):
        self.sweep = folder / "results" / trained.config.sweep
        shutil.copytree(trained.run_dir.parent, self.sweep)
        self.run_dir = self.sweep / trained.run_id
        cache = trained.config.paths.cache
        words = {"paths": {"results": str(folder / "results"), "cache": cache}}
        self.point = make_point({**trained.raw, **words})
        self.cache, self.folder, self.monkeypatch = f"paths.cache={cache}", folder, monkeypatch
        monkeypatch.chdir(folder)

    def call(self, module, *words):
        self.monkeypatch.setattr(sys, "argv", [f"experiments.{module.__name__}", *map(str, words)])
        GlobalHydra.instance().clear()
        module.main()

    def run(self):
        """What `run` and `retry --local` do with a point that is not finished."""
        execute(self.point)

    def enter(self):
        """What a sweep writes before its runs begin, and what Slurm is told."""
        sweep_dir = self.point.run_dir.parent
        with manifest.submitting(sweep_dir), controlling(sweep_dir):
            code = take_snapshot(sweep_dir).name
            manifest.add(sweep_dir, [manifest.make_entry(self.point, code)])
            given = submission.Submission(
                name="x", run_ids=(self.point.run_id,), code=code, devices=1, num_nodes=1,
                resources={},
            )  # fmt: skip
            submission.write(sweep_dir / SLURM, given)

    def branch(self):
        kept.enter(self.point.run_dir, "0" * 12, 1)
        kept.release(self.point.run_dir, "0" * 12)

    def log(self):
        redirect_output(self.run_dir / "log.txt")

    def cancel(self):
        self.call(cancel, self.sweep)

    def collect(self):
        self.call(collect, self.sweep)

    def collect_as(self):
        self.call(collect, self.sweep, "--as", "nanochat", "--card")

    def evaluate(self):
        self.call(evaluate, self.run_dir, "eval=[validation]", self.cache)

    def inspect(self):
        self.call(inspect, self.run_dir, self.cache)

    def ablate(self):
        text = self.folder / "text.txt"
        text.write_text("the cat sat on a mat . " * 200)
        words = (self.run_dir, "experts=[1]", "draws=2", f"texts={text}", self.cache)
        self.call(inspect, "ablate", *words)

    def patch(self):
        words = (self.run_dir, self.run_dir / "p" / "p.json", "remove=[1]", self.cache)
        self.call(inspect, "patch", *words)

    def export(self):
        self.call(export, self.run_dir, self.run_dir / "hf", self.cache)

    def library(self):
        save_library(lora_library([adapter("a", 2)]), self.sweep / "library")

    def isoflop(self):
        analysis(["isoflop", str(self.sweep)])

    def report(self):
        analysis(["report", str(self.sweep), "--paper"])


# what is a link, in the sweep S with its run R
NAMED = {
    "run": ("S", "S/R", "S/R/tables", "S/R/history.csv", "S/R/events.jsonl", "S/R/.claim",
            "S/R/last.partial", "S/R/wandb", "S/R/config.yaml", "S/R/start.json", "S/R/branches"),
    "enter": ("S", "S/.code", "S/.controllers", "S/slurm", "S/manifest.jsonl", "S/.claim"),
    "branch": ("S/R", "S/R/branches", "S/R/tables"),
    "log": ("S/R/log.txt",),
    "cancel": ("S/.controllers",),
    "collect": ("S", "S/records.csv", "S/records.parquet"),
    "collect_as": ("S/nanochat",),
    "evaluate": ("S/R", "S/R/record.json"),
    "inspect": ("S/R/inspection", "S/R/inspection/card.json", "S/R/inspection/experts.csv"),
    "ablate": ("S/R", "S/R/ablation"),
    "patch": ("S/R/p/p.json",),
    "export": ("S/R/hf",),
    "library": ("S/library/tables.partial", "S/library/library.json"),
    "isoflop": ("S/fits.json", "S/isoflop.json", "S/isoflop.png", "S/isoflop.csv"),
    "report": ("S/figures", "S/paper", "S/report.html", "S/table.csv", "S/paper/tables"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # of what can't be written, which is said as it may
@pytest.mark.parametrize("kind", ["relative", "absolute"])
@pytest.mark.parametrize(("command", "name"), [(c, n) for c, names in NAMED.items() for n in names])
def test_no_command_goes_through_a_link(
    command, name, kind, trained, thesis, tmp_path, compose_raw, monkeypatch, capfd
):
    place = Place(trained, tmp_path, compose_raw, monkeypatch)
    link = place.sweep / name.removeprefix("S").removeprefix("/").replace("R", trained.run_id, 1)
    plant_link(link, thesis, absolute=kind == "absolute")
    if command == "run":
        (place.run_dir / RECORD_NAME).unlink()
    before = state_of(thesis)
    try:
        getattr(place, command)()
        code = 0
    except (RuntimeError, ValueError, OSError, SystemExit) as end:
        code = getattr(end, "code", 1)
    assert state_of(thesis) == before, capfd.readouterr()
    assert code in (0, 1, 2), capfd.readouterr()


@pytest.mark.parametrize("command", [name for name in NAMED if name != "log"])
def test_a_link_at_the_root_of_the_results_is_the_user_s_own(
    command, trained, tmp_path, compose_raw, monkeypatch, capfd
):
    """All of it works as without, on another disk."""
    place = Place(trained, tmp_path, compose_raw, monkeypatch)
    disk_folder = tmp_path / "scratch"
    (tmp_path / "results").rename(disk_folder)
    (tmp_path / "results").symlink_to(disk_folder)
    (place.run_dir / "p").mkdir()
    getattr(place, command)()
    assert (tmp_path / "results").is_symlink()


def test_git_and_tar_bring_links(tmp_path, thesis):
    """As this test makes them."""
    folder = tmp_path / "theirs" / "run"
    folder.mkdir(parents=True)
    (folder / "tables").symlink_to("../../thesis")
    subprocess.run(["tar", "-cf", "theirs.tar", "theirs"], cwd=tmp_path, check=True)
    shutil.rmtree(folder.parent)
    subprocess.run(["tar", "-xf", "theirs.tar"], cwd=tmp_path, check=True)
    with pytest.raises(RuntimeError, match=f"run/tables {LINK}"):
        disk.refuse_links(folder / "tables" / "chapter")

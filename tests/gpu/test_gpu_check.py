"""Command at toy size, on a CPU, as a machine would run it that has torch, triton and numpy."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from experiments import bench
from experiments.gpu import command
from experiments.gpu import report as reports
from experiments.gpu.report import Report

SOURCE = command.SOURCE
PARTS = command.find_parts(command.PARTS)
NAMES = [part.name for part in PARTS]
TOY = reports.card_folder(command.TOY_CARD)
# of those that a bare machine lacks, and what they bring
BLOCKED = (
    "hydra omegaconf lightning pytorch_lightning torchmetrics wandb pandas scipy tokenizers tqdm"
)


@pytest.fixture
def without(tmp_path):
    """without(names, "-m", ...): runs Python where these modules are not to be found."""
    blocker = tmp_path / "bare" / "sitecustomize.py"
    blocker.parent.mkdir()
    text = (
        "import sys\n"
        "class WithoutThem:\n"
        "    def __init__(self, finder):\n"
        "        self.finder = finder\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] not in {names}:\n"
        "            return self.finder.find_spec(name, *rest)\n"
        "    def __getattr__(self, name):\n"
        "        return getattr(self.finder, name)\n"
        "sys.meta_path[:] = map(WithoutThem, sys.meta_path)\n"
    )

    def run(names, *arguments):
        blocker.write_text(text.replace("{names}", str(names.split())))
        environment = {
            **os.environ,
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join([str(blocker.parent), str(SOURCE)]),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True
        )

    return run


@pytest.fixture
def bare(without):
    """bare("-m", ...): runs Python as on a machine with torch, triton and numpy alone."""
    return partial(without, BLOCKED)


def test_blocked_modules_can_not_be_imported(bare):
    for name in BLOCKED.split():
        assert f"No module named {name!r}" in bare("-c", f"import {name}").stderr


def test_the_command_is_there_on_a_bare_machine(bare):
    done = bare("-m", "experiments.bench", "gpu", "--help")
    assert done.returncode == 0, done.stderr
    assert "parts, in this order:\n  environment " in done.stdout


@pytest.mark.night
def test_all_parts_on_a_bare_machine(bare, tmp_path):
    """Command as it is typed: each part a process of its own, the harness's left out."""
    words = ("-m", "experiments.bench", "gpu", "--device", "cpu", "--minutes", "30")
    done = bare(*words, "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report(tmp_path / TOY)
    text = (tmp_path / TOY / reports.TEXT_NAME).read_text()
    assert "Toy sizes on a CPU" in text
    assert list(report.parts) == NAMES
    for part, entry in report.parts.items():
        if part == "ranks":
            assert entry["status"] == reports.LEFT_OUT, entry
            continue
        if part in ("isoflop", "harness"):
            why = "hydra, omegaconf, lightning, tokenizers not installed: make"
            assert (entry["status"], entry["why"][: len(why)]) == (reports.LEFT_OUT, why)
            continue
        if part == "sanitizer" and entry["status"] == reports.LEFT_OUT:
            start = ("compute-sanitizer is not installed", "memcheck could")
            assert entry["why"].startswith(start), entry
            continue
        assert entry["status"] == reports.DONE, entry
        assert entry["measurements"], f"{part} measured nothing"
        for measurement in entry["measurements"]:
            assert f"| {measurement['name']} |" in text


@pytest.mark.night
@pytest.mark.parametrize("part", ["isoflop", "harness"])
def test_the_harness_trains_with_the_wheels_packages_alone(without, tmp_path, part):
    """W&B and the analysis's packages are none of them."""
    Report(tmp_path, {"card": TOY, "toy": True}).begin(part)
    words = ("-m", "experiments.gpu.run_part", part, "--device", "cpu", "--toy")
    done = without("wandb pandas seaborn", *words, "--folder", str(tmp_path), "--seconds", "480")
    assert done.returncode == 0, done.stdout + done.stderr
    entry = Report(tmp_path).parts[part]
    assert entry["status"] == reports.DONE, entry
    if part == "harness":
        names = [m["name"] for m in entry["measurements"]]
        assert names == [
            f"n_workers={n}{what}"
            for n in (1, 2)
            for what in (
                ", dense: tokens/s",
                ", peer: tokens/s",
                ": processes on a card beyond its own",
            )
        ]
        return
    assert {row["model"] for row in entry["facts"]["table"]} == {"dense", "peer"}
    assert [m["unit"] for m in entry["measurements"]] == ["nats/token"] * 2


def test_without_a_card_it_says_so_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main(["gpu", "--out", str(tmp_path / "out")])
    assert capsys.readouterr().out == (
        "no GPU here: nothing to check (--device cpu runs the parts at toy size)\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_slurm_job_without_a_card_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with pytest.raises(SystemExit) as stop:
        bench.main(["gpu"])
    assert stop.value.code == 2
    assert "torch sees no GPU in Slurm job 12: submit it with --gpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "kernel"), "--only 'kernel' is not one of environment, harness,"),
        (("--minutes", "0"), "--minutes 0 must be above 0"),
        (("--minutes", "nan"), "--minutes nan must be above 0, and finite"),
        (("--only", ""), "--only '' is not one of environment, harness,"),
        (("--device", "tpu"), "invalid choice: 'tpu'"),
        (("--device", "gpu"), "--device cuda, but torch sees no GPU; use cpu, for toy sizes"),
    ],
)
def test_bad_input_is_one_line(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        bench.main(["gpu", *arguments])
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_the_default_order_is_that_of_the_help(capsys):
    with pytest.raises(SystemExit):
        bench.main(["gpu", "--help"])
    listed = re.findall(r"(?m)^  ([a-z]+) {2,}[A-Z0-9a-z]", capsys.readouterr().out)
    assert listed[-len(NAMES) :] == NAMES
    assert NAMES[0] == "environment"
    assert NAMES[-1] == "isoflop"
    assert sum(part.constants["SECONDS"] for part in PARTS[:3]) < 300


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A folder with a part that does what its text says, and the command on it."""
    package = tmp_path / "fake"
    package.mkdir()

    def run(text, *arguments, seconds=60):
        text = f'"""A part of a test."""\n\nSECONDS = {seconds}\nWORTH = 1\n\n{text}'
        (package / "fakepart.py").write_text(text)
        monkeypatch.setattr(command, "PARTS", package)
        monkeypatch.setattr(command, "_LEAST_SECONDS", 0)
        # the part's process finds it beside the real ones
        start = (
            "import experiments.gpu.parts, runpy, sys, types\n"
            # there is nothing to time, and torch is slow to import
            "toy = sys.modules['experiments.gpu.toy'] = types.ModuleType('toy')\n"
            "toy.shorten = lambda: None\n"
            f"experiments.gpu.parts.__path__.append({str(package)!r})\n"
            "sys.argv = ['run_part', *sys.argv[1:]]\n"
            "runpy.run_module('experiments.gpu.run_part', run_name='__main__')\n"
        )
        launch = subprocess.Popen

        def popen(words, **how):
            if "experiments.gpu.run_part" in words:
                words = [words[0], "-c", start, *words[3:]]
            return launch(words, **how)

        monkeypatch.setattr(command.subprocess, "Popen", popen)
        code = 0
        try:
            bench.main(["gpu", "--device", "cpu", "--out", str(tmp_path / "out"), *arguments])
        except SystemExit as stop:
            code = stop.code
        return code, Report(tmp_path / "out" / TOY).parts["fakepart"]

    return run


GOOD = "def run(job):\n    job.add('number', 1, 'ms')\n"


def test_what_is_done_is_not_done_again_unless_asked(fake):
    code, first = fake(GOOD)
    assert (code, first["status"]) == (0, reports.DONE)
    other = GOOD.replace("1", "22")  # of another length: its compiled form is told by that
    assert fake(other)[1] == first
    assert fake(other, "--again")[1]["measurements"][0]["value"] == 22


def test_a_part_that_fails_keeps_what_it_has_and_is_tried_again(fake):
    code, entry = fake(GOOD + "    raise RuntimeError('no such thing')\n")
    assert (code, entry["status"]) == (1, reports.FAILED)
    assert entry["why"] == "RuntimeError: no such thing"
    assert [m["name"] for m in entry["measurements"]] == ["number"]
    assert fake(GOOD)[1]["status"] == reports.DONE


def test_a_part_that_dies_is_a_failure(fake):
    code, entry = fake(GOOD + "    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)\n")
    assert (code, entry["status"]) == (1, reports.FAILED)
    assert entry["why"] == "its process ended with signal SIGSEGV"
    assert entry["measurements"]


def test_a_part_s_time_is_limited_and_its_children_end_with_it(fake, tmp_path):
    child = tmp_path / "child"
    text = (
        "    import subprocess, time\n"
        f"    open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid))\n"
        "    time.sleep(600)\n"
    )
    code, entry = fake(GOOD + text, seconds=12)  # to start takes some of them on a busy machine
    assert (code, entry["status"]) == (1, reports.OVERTIME)
    assert entry["measurements"]
    pid = int(child.read_text())
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the part's child outlived it")


def test_an_interrupted_call_keeps_what_it_has(fake):
    handler = signal.getsignal(signal.SIGTERM)
    text = "    import os, signal, time\n    os.kill(os.getppid(), signal.SIGTERM)\n"
    code, entry = fake(GOOD + text + "    time.sleep(60)\n")
    assert (code, entry["status"], entry["why"]) == (130, reports.FAILED, "interrupted")
    assert entry["measurements"]
    assert signal.getsignal(signal.SIGTERM) == handler
    assert fake(GOOD)[1]["status"] == reports.DONE


def test_a_part_that_lacks_something_is_left_out_with_the_reason(fake):
    text = "from experiments.gpu.job import LeftOut\ndef run(job):\n    raise LeftOut('no wheel')\n"
    code, entry = fake(text)
    assert (code, entry["status"], entry["why"]) == (0, reports.LEFT_OUT, "no wheel")
    assert fake(GOOD)[1]["status"] == reports.DONE


def test_a_wrong_value_fails_the_check(fake):
    text = (
        "from experiments.gpu.goals import NONE_DIFFERS\n"
        "def run(job):\n    job.add('bits', 3, goal=NONE_DIFFERS)\n"
    )
    code, entry = fake(text)
    assert (code, entry["why"]) == (1, "wrong: bits")


def test_too_little_time_starts_nothing(tmp_path, capsys):
    bench.main(["gpu", "--device", "cpu", "--minutes", "0.1", "--out", str(tmp_path)])
    assert "environment: no time left of --minutes 0.1" in capsys.readouterr().out
    assert json.loads((tmp_path / TOY / reports.JSON_NAME).read_text())["parts"] == {}

"""A GPU, proved in minutes, on a bare machine too (docs/gpu-check.md).

Kernels by value, speeds against floors and against what others reach, memory, resuming, and a
small isoFLOP, the most valuable first. Each part is a process of its own with a time limit of its
own, and what it finds is on disk at once: results/gpu/CARD/report.json and report.md. The same
command goes on with what is not done yet. All but the last need torch, triton and numpy alone.
"""

import argparse
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import torch

from experiments.config.constraints import check_once
from experiments.config.trainer import spelled
from experiments.gpu import report as reports
from experiments.gpu.report import Report, card_folder
from experiments.system import started
from experiments.system.command import FAILED
from experiments.system.disk import followed
from experiments.system.environment import git_state
from experiments.system.modules import Module, find_modules

SOURCE = Path(__file__).resolve().parents[2]
PARTS = SOURCE / "experiments" / "gpu" / "parts"
TOY_CARD = "CPU, toy sizes"
_LEAST_SECONDS = 10  # less is not worth a start


def arguments(parser: argparse.ArgumentParser) -> None:
    """As those of a measurement (bench.py)."""
    parts = find_parts(PARTS)
    parser.epilog = "\n".join(
        ["parts, in this order:", *(f"  {p.name:12} {p.about}" for p in parts)]
    )
    parser.add_argument("--only", metavar="PART,...", help=f"of {', '.join(p.name for p in parts)}")
    parser.add_argument("--again", action="store_true", help="parts that are done already too")
    parser.add_argument(
        "--device",
        type=spelled,
        default="auto",
        choices=("auto", "cuda", "cpu"),
        help="cpu: toy sizes, a test",
    )
    parser.add_argument("--minutes", type=float, default=8, help="for all parts (default 8)")
    parser.add_argument(
        "--out", type=Path, default=Path("results/gpu"), help="(default %(default)s)"
    )


def run(options: argparse.Namespace) -> None:
    """Exit code 0 without a GPU too; 1 if a part failed or ran out of time."""
    if not 0 < options.minutes < math.inf:
        raise ValueError(f"--minutes {options.minutes:g} must be above 0, and finite")
    parts = _chosen(options.only)
    device = options.device
    if device != "cpu" and not torch.cuda.is_available():
        if device == "cuda":
            raise ValueError("--device cuda, but torch sees no GPU; use cpu, for toy sizes")
        if job := started.in_words():
            raise ValueError(
                f"torch sees no GPU in{job}: submit it with --gpus-per-node=1, or "
                "install a torch that is made for CUDA"
            )
        print("no GPU here: nothing to check (--device cpu runs the parts at toy size)")
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        good = _check(options, parts, "cpu" if device == "cpu" else "cuda")
    finally:
        signal.signal(signal.SIGTERM, before)
    if not good:
        raise SystemExit(FAILED)


def find_parts(folder: Path) -> list[Module]:
    """Parts that are files there, the most valuable first."""
    return sorted(find_modules(folder), key=lambda part: -part.constants["WORTH"])


def _chosen(only: str | None) -> list[Module]:
    """Parts of --only, in its order; all without it. Raises ValueError for an unknown one."""
    known = {part.name: part for part in find_parts(PARTS)}
    names = known if only is None else only.split(",")
    for name in names:
        if name not in known:
            raise ValueError(f"--only {name!r} is not one of {', '.join(known)}")
    check_once(list(names), f"--only {only}")
    return [known[name] for name in names]


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _check(options: argparse.Namespace, parts: Sequence[Module], device: str) -> bool:
    """Whether all that was run is done."""
    about = _about(device)
    report = Report(followed(options.out) / card_folder(about["card"]), about)
    report.save()
    print(f"{about['card']}: {report.folder / reports.TEXT_NAME}", flush=True)
    end = time.monotonic() + 60 * options.minutes
    good = True
    for part in parts:
        if not options.again and report.parts.get(part.name, {}).get("status") == reports.DONE:
            print(f"== {part.name}: done already (--again repeats it)")
            continue
        seconds = min(part.constants["SECONDS"], end - time.monotonic())
        if seconds < _LEAST_SECONDS:
            print(f"== {part.name}: no time left of --minutes {options.minutes:g}")
            continue
        print(f"== {part.name}: {part.about} ({seconds:.0f} s at most)", flush=True)
        report.begin(part.name)
        report = _run(part, report.folder, device, seconds)
        entry = report.parts[part.name]
        good = good and entry["status"] in (reports.DONE, reports.LEFT_OUT)
        why = f": {entry['why']}" if entry["why"] else ""
        print(f"   {entry['status']} in {entry['seconds']:.0f} s{why}", flush=True)
    print("\n".join(["", *report.summary(), "", *report.verdict()]))
    return good


def _about(device: str) -> dict[str, Any]:
    """For the head of the report."""
    return {
        "card": TOY_CARD if device == "cpu" else torch.cuda.get_device_name(),
        "toy": device == "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": git_state(SOURCE)["git_commit"],
    }


def _run(part: Module, folder: Path, device: str, seconds: float) -> Report:
    """Report after the part, which its process writes while it runs."""
    command = [sys.executable, "-m", "experiments.gpu.run_part", part.name, "--device", device]
    command += ["--folder", str(folder), "--seconds", f"{seconds:.1f}"]
    path = os.pathsep.join(p for p in (str(SOURCE), os.environ.get("PYTHONPATH")) if p)
    begin = time.monotonic()
    # a session of its own: the processes that it starts end with it
    process = subprocess.Popen(
        [*command, *(["--toy"] if device == "cpu" else [])],
        env={**os.environ, "PYTHONPATH": path, "TQDM_DISABLE": "1"},
        start_new_session=True,
    )
    status, why = reports.FAILED, ""
    try:
        code = process.wait(seconds)
        if code:
            why = f"its process ended with {_ending(code)}"
    except subprocess.TimeoutExpired:
        status, why = reports.OVERTIME, f"ended after {seconds:.0f} s"
    except KeyboardInterrupt:
        _end(process)
        _close(Report(folder), part.name, reports.FAILED, time.monotonic() - begin, "interrupted")
        raise
    _end(process)
    report = Report(folder)
    _close(report, part.name, status, time.monotonic() - begin, why)
    return report


def _close(report: Report, part: str, status: str, seconds: float, why: str) -> None:
    """Says how a part ended that could not say it itself."""
    if report.parts[part]["status"] == reports.RUNNING:
        report.end(part, status, seconds, why)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the part's process and all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

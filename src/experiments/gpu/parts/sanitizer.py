"""compute-sanitizer on each kernel, if it is there: reads out of bounds, races."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from experiments.gpu.goals import NONE_DIFFERS
from experiments.gpu.job import Job, LeftOut

WORTH = 20
SECONDS = 90

TOOLS = ("memcheck", "racecheck")
_PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")
_CODE = 86  # what the tool ends with if it found something
_SUMMARY = re.compile(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)")


def run(job: Job) -> None:
    """Raises LeftOut where the tool is not there, or refuses this card."""
    binary = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(_PLACES)
    )
    if binary is None:
        raise LeftOut("compute-sanitizer is not installed")
    for tool in TOOLS:
        output = _output(binary, tool, job.seconds_left() / (2 if tool == TOOLS[0] else 1))
        summary = _SUMMARY.findall(output)
        if not summary:
            last = (output.strip().splitlines() or ["it said nothing"])[-1]
            raise LeftOut(f"{tool} could not run: {last}")
        job.add(f"{tool}: errors", int(summary[-1]), goal=NONE_DIFFERS, note=_first_error(output))


def _output(binary: str, tool: str, seconds: float) -> str:
    command = [binary, "--tool", tool, "--error-exitcode", str(_CODE)]
    command += [sys.executable, "-m", "experiments.gpu.parts.sanitizer"]
    # the allocator's own pool would make one large block of what must be separate
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=max(1.0, seconds - 2),
        )
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:.0f} s"
    return done.stdout


def _first_error(output: str) -> str:
    lines = (line.strip("= ") for line in output.splitlines() if "=========" in line)
    found = (line for line in lines if line.startswith(("Invalid", "Error", "Warning", "Race")))
    return next(found, "")


def small_cases(device: str) -> int:
    """Runs one case of each kernel; how many."""
    from experiments.gpu.kernel_checks import small

    cases = {case.kernel: case for case in small()}
    for case in cases.values():
        case.run(*case.inputs(device))
    return len(cases)


if __name__ == "__main__":
    print(Path(sys.argv[0]).name, small_cases(sys.argv[1] if len(sys.argv) > 1 else "cuda"))

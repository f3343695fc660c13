"""The library is built once, by what it was built from, and its absence is warned of once."""

import os
import shutil
import stat
import subprocess
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.kernels import build, cpp
from experiments.kernels.select import resolve_kernel
from experiments.points.planning import make_point
from tests.conftest import TINY, python


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


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """What is compiled takes a second then: few sources, and not the best code of them."""
    some = tmp_path / "csrc"
    some.mkdir()
    for path in build.SOURCES.iterdir():
        if path.suffix == ".h" or path.stem in ("level", "gather", "product"):
            (some / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(build, "SOURCES", some)
    monkeypatch.setattr(build, "_COMMON", tuple(f.replace("-O3", "-O0") for f in build._COMMON))


@pytest.fixture
def base_alone(monkeypatch, quick):
    """One level of the library; the suite's own has all."""
    monkeypatch.setattr(build, "LEVELS", {"base": ()})


def _libraries(folder):
    return sorted(folder.glob("*.so"))


@needs_compiler
def test_is_built_once_and_then_found(fresh, base_alone):
    build.load()
    (path,) = _libraries(fresh)
    before = path.stat().st_mtime_ns
    build.load()
    assert _libraries(fresh) == [path]
    assert path.stat().st_mtime_ns == before
    assert not list(fresh.glob("tmp*")), "temporary files of a build"


@pytest.mark.night
@needs_compiler
def test_other_flags_are_another_library(fresh, base_alone, monkeypatch):
    assert cpp.levels(build.load()) == ["base"]
    monkeypatch.setattr(build, "LEVELS", {"base": ("-DANOTHER",)})
    build.load()
    assert len(_libraries(fresh)) == 2


def test_without_a_compiler_the_torch_kernel_runs_and_says_so_once(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.warns(UserWarning, match="no-such-compiler not found; install g.. or set CXX"):
        assert resolve_kernel("auto", "cpu", torch.float32).name == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve_kernel("cpp", "cpu", torch.bfloat16).name == "torch"


@needs_compiler
def test_a_lower_level_than_the_processor_s_runs_if_asked_for(monkeypatch):
    load_cpp = cpp.load_cpp.__wrapped__  # what this process has loaded stays
    monkeypatch.delenv("EXPERIMENTS_KERNEL_LEVEL", raising=False)
    assert load_cpp().variant == cpp.levels(build.load())[-1]
    monkeypatch.setenv("EXPERIMENTS_KERNEL_LEVEL", "base")
    assert load_cpp().variant == "base"
    monkeypatch.setenv("EXPERIMENTS_KERNEL_LEVEL", "avx9")
    with pytest.raises(ValueError, match="LEVEL=avx9 is not one of this processor's: base"):
        load_cpp()


@pytest.mark.parametrize(
    ("level", "slow", "fastest"),
    [
        (4, 1, "amx"),
        (3, 1, "avx512"),
        (3, 0, "avx512_bf16"),
        (2, 1, "avx512"),
        (1, 1, "avx2"),
        (0, 0, "base"),
    ],
)
def test_the_fastest_level_is_last(level, slow, fastest):
    library = SimpleNamespace(processor_level=lambda: level, bf16_is_slow=lambda: slow)
    found = build.ordered_levels(library)
    assert found[-1] == fastest
    assert sorted(found) == sorted([*build.LEVELS][: level + 1])


@needs_compiler
def test_a_plan_refuses_a_level_that_the_processor_does_not_have(monkeypatch, compose_raw):
    monkeypatch.setenv("EXPERIMENTS_KERNEL_LEVEL", "avx9")
    with pytest.raises(ValueError, match="LEVEL=avx9 is not one of this processor's: base"):
        make_point(compose_raw("size=2", "budget=2e9", *TINY))


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch, tmp_path):
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'cannot open vectors.h' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(build.BuildError, match=r"cannot open vectors\.h"):
        build.load()
    assert not _libraries(fresh)


@needs_compiler
def test_a_level_that_the_compiler_does_not_know_is_left_out(fresh, quick, monkeypatch):
    monkeypatch.setattr(build, "LEVELS", {"base": (), "avx2": ("-mno-such-flag",)})
    assert cpp.levels(build.load()) == ["base"]


@pytest.mark.night
@needs_compiler
def test_a_level_of_which_one_file_does_not_compile_is_left_out_whole(
    fresh, quick, monkeypatch, tmp_path
):
    picky = tmp_path / "picky"
    compiler = shutil.which("g++") or shutil.which("c++")
    picky.write_text(
        f'#!/bin/sh\ncase "$*" in *LEVEL=avx2*product.cpp*) exit 1;; esac\nexec {compiler} "$@"\n'
    )
    picky.chmod(0o755)
    monkeypatch.setenv("CXX", str(picky))
    monkeypatch.setattr(build, "LEVELS", {"base": (), "avx2": ()})
    assert cpp.levels(build.load()) == ["base"]


@needs_compiler
def test_a_damaged_library_is_built_again(fresh, base_alone):
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


def _plant(fresh, tmp_path):
    """Of the name that will be loaded, a library that leaves a file behind when it is loaded."""
    source, mark = tmp_path / "planted.c", tmp_path / "PLANTED"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) static void f(void)"
        f'{{ FILE *o = fopen("{mark}", "w"); if (o) fclose(o); }}\n'
    )
    compiler = build._compiler()
    path = build.binary_path(compiler)
    command = [compiler, "-x", "c", "-shared", "-fPIC", str(source), "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.chmod(0o755)
    return path, mark


@needs_compiler
def test_a_planted_library_would_run(fresh, tmp_path):
    """What the tests below rely on: one of our own, by this name, is loaded."""
    _, mark = _plant(fresh, tmp_path)
    build.load()
    assert mark.exists()


@needs_compiler
@pytest.mark.parametrize("danger", ["link", "group", "others", "owner"])
def test_a_library_that_others_may_have_put_there_is_not_loaded_but_built(
    fresh, base_alone, tmp_path, danger
):
    path, mark = _plant(fresh, tmp_path)
    if danger == "link":
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    elif danger == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(path, 65534, 65534)
    else:
        path.chmod(0o775 if danger == "group" else 0o757)
    assert cpp.levels(build.load())
    assert not mark.exists()
    found = path.lstat()
    assert stat.S_ISREG(found.st_mode)
    assert found.st_uid == os.getuid()
    assert not found.st_mode & 0o022


@needs_compiler
def test_what_was_looked_at_is_what_is_loaded(fresh, tmp_path, monkeypatch):
    """Another file takes the name after the check."""
    path, mark = _plant(fresh, tmp_path)
    other = path.rename(tmp_path / "other.so")
    command = [build._compiler(), "-x", "c", "-shared", "-fPIC", os.devnull, "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.chmod(0o755)
    fstat = os.fstat

    def exchange(descriptor):
        found = fstat(descriptor)
        if other.exists():
            other.replace(path)
        return found

    monkeypatch.setattr(os, "fstat", exchange)
    if not Path("/proc/self/fd").exists():
        pytest.skip("without /proc it is loaded by its name")
    assert build._loaded(path) is not None
    assert not other.exists()
    assert not mark.exists()


@pytest.mark.parametrize(
    ("danger", "message"),
    [
        ("group", r"cache can be written by others \(mode 775\); chmod go-w"),
        ("others", r"cache can be written by others \(mode 757\); chmod go-w"),
        ("link", r"cache is a symbolic link, and .*; name the folder itself"),
        ("owner", r"cache belongs to another user \(id 65534\); choose a folder of your own"),
    ],
)
def test_a_named_cache_that_others_may_write_is_refused(fresh, tmp_path, danger, message):
    _endanger(fresh, tmp_path, danger)
    with pytest.raises(build.BuildError, match=f"EXPERIMENTS_KERNEL_CACHE=.*{message}"):
        build._cache()
    with pytest.warns(UserWarning, match=message):
        assert resolve_kernel("auto", "cpu", torch.float32).name == "torch"


def _endanger(folder, tmp_path, danger):
    if danger == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
        return
    folder.mkdir(mode=0o700)
    if danger == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, 65534, 65534)
    else:
        folder.chmod(0o775 if danger == "group" else 0o757)


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """User's cache, and the temporary folder that is taken where that one won't do."""
    monkeypatch.delenv("EXPERIMENTS_KERNEL_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "home").mkdir()
    return tmp_path / "home/experiments-kernels", tmp_path / f"experiments-kernels-{os.getuid()}"


def test_the_user_s_own_cache_is_made_and_kept_private(homeless):
    home, _ = homeless
    before = os.umask(0o002)
    try:
        assert build._cache() == home
    finally:
        os.umask(before)
    assert home.stat().st_mode & 0o777 == 0o700
    home.chmod(0o777)  # as an earlier version made it
    assert build._cache() == home
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("danger", ["link", "owner"])
def test_a_cache_of_somebody_else_is_passed_over(homeless, tmp_path, danger):
    home, fallback = homeless
    _endanger(home, tmp_path, danger)
    assert build._cache() == fallback
    assert fallback.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("danger", ["link", "owner"])
def test_a_temporary_folder_of_somebody_else_is_refused(homeless, tmp_path, danger):
    home, fallback = homeless
    home.write_text("")  # no folder
    _endanger(fallback, tmp_path, danger)
    with pytest.raises(build.BuildError, match=r"can't be written, and .*set EXPERIMENTS_KERNEL_C"):
        build._cache()


@needs_compiler
def test_torch_and_the_library_share_one_pool_of_threads():
    """Two OpenMP runtimes would fight for the cores."""
    program = (
        "import torch; from experiments.kernels import build; build.load();"
        "maps = open('/proc/self/maps').read().split();"
        "print(len({m for m in maps if 'libgomp' in m or 'libomp' in m or 'libiomp' in m}))"
    )
    assert python("-c", program).stdout == "1\n"


def test_names_and_devices_that_there_are_not():
    with pytest.raises(ValueError, match="kernel='fast' is not one of auto, reference, torch"):
        resolve_kernel("fast", "cpu", torch.float32)
    with pytest.raises(ValueError, match="kernel=cpp is for CPUs, and the tables are on cuda"):
        resolve_kernel("cpp", "cuda", torch.float32)
    assert resolve_kernel("reference", "cpu", torch.float32) is None
    for others in (torch.float64, torch.float16):
        assert resolve_kernel("cpp", "cpu", others).name == "torch"

"""Compiles csrc/ to a shared library, once: its name is a hash of all that goes into it.

Plain C functions, called through ctypes: no header of torch or Python is read, so a build takes
seconds and outlives both. OpenMP's symbols are left for the runtime that torch has loaded, so that
all threads are in one pool. A second runtime is linked only where that fails.

The name can be computed by anybody, so a library is loaded only from a folder that nobody else may
write, and only if it is this user's or root's file, no link, and not to be written by others.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.system.locks import lock
from experiments.system.ownership import distrust, open_itself

SOURCES = Path(__file__).parent / "csrc"
_COMMON = (
    "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti",
    "-fno-math-errno", "-ffp-contract=fast",
)  # fmt: skip
_AVX512 = (
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512",
)  # fmt: skip
_BUILDING = "building-"  # a folder of objects
LEVELS: dict[str, tuple[str, ...]] = {  # in the order of processor_level() in csrc/level.cpp
    "base": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512_bf16": (*_AVX512, "-mavx512bf16"),
    "amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
}


class BuildError(RuntimeError):
    """Why the library can't be built here."""


def load(levels: Sequence[str] | None = None) -> ctypes.CDLL:
    """Loaded library, built first if this cache has none that may be loaded and loads.

    levels: those to compile, which takes some seconds each; None: all. A level that the compiler
    doesn't know is left out. Raises BuildError.
    """
    compiler, wanted = _compiler(), _flags(levels)
    path = _path(compiler, wanted)
    library = _loaded(path)
    if library is None:
        with (path.parent / "build.lock").open("w") as file:
            lock(file)  # of many workers that start at once, one builds
            for left in path.parent.glob(f"{_BUILDING}*"):  # by one that was ended meanwhile
                shutil.rmtree(left, ignore_errors=True)
            library = _loaded(path) or _build(compiler, wanted, path)
    return library


def processor_levels() -> list[str]:
    """Levels that this processor can run, the fastest last. Raises BuildError."""
    return ordered_levels(load(()))


def ordered_levels(library: ctypes.CDLL) -> list[str]:
    """Same, as any of the libraries says."""
    known = list(LEVELS)[: library.processor_level() + 1]
    if "avx512_bf16" in known and library.bf16_is_slow():
        known.remove("avx512_bf16")
        known.insert(known.index("avx512"), "avx512_bf16")
    return known


def binary_path(compiler: str) -> Path:
    """Path of this compiler's library of all levels, which may not exist yet."""
    return _path(compiler, _flags(None))


def _path(compiler: str, levels: Mapping[str, tuple[str, ...]]) -> Path:
    return _cache() / f"kernels-{_fingerprint(compiler, levels)}.so"


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise BuildError(f"no C++ compiler: {', '.join(names)} not found; install g++ or set CXX")


def _cache() -> Path:
    """EXPERIMENTS_KERNEL_CACHE, the user's cache, or else a temporary folder of this user.

    Raises BuildError for an EXPERIMENTS_KERNEL_CACHE in which others could put a library, and if
    the temporary folder is such a one. Folders above it are not looked at.
    """
    given = os.environ.get("EXPERIMENTS_KERNEL_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    wanted = Path(given or Path(base) / "experiments-kernels")
    why = "can't be written"
    try:
        wanted.mkdir(mode=0o700, parents=True, exist_ok=True)
        danger = _danger(wanted, tighten=not given)
        if danger and given:
            raise BuildError(f"EXPERIMENTS_KERNEL_CACHE={wanted} {danger}")
        why = danger or why
        if not danger:
            with tempfile.TemporaryFile(dir=wanted):
                return wanted
    except OSError:
        pass
    fallback = Path(tempfile.gettempdir()) / f"experiments-kernels-{os.getuid()}"
    try:
        fallback.mkdir(mode=0o700, exist_ok=True)
        danger = _danger(fallback, tighten=True)
    except OSError as error:
        danger = f"can't be made: {error.strerror}"
    if danger:
        raise BuildError(
            f"{wanted} {why}, and {fallback} {danger}; set EXPERIMENTS_KERNEL_CACHE to a folder "
            "that only you can write"
        )
    return fallback


def _danger(folder: Path, *, tighten: bool) -> str | None:
    """Why others could put a library into the folder, with the remedy; None if they can't.

    tighten: whether to take others' right to write from a folder of this user.
    """
    found = folder.lstat()
    why = distrust(found)
    if why is None:
        return None
    if stat.S_ISLNK(found.st_mode):
        return f"{why}; name the folder itself"
    if found.st_uid not in (os.getuid(), 0):
        return f"{why}; choose a folder of your own"
    if tighten and found.st_uid == os.getuid():
        folder.chmod(0o700)
        return None
    return f"{why}; chmod go-w {folder}"


def _fingerprint(compiler: str, levels: Mapping[str, tuple[str, ...]]) -> str:
    """A hash of sources, flags, compiler and the kind of machine: nodes may share a cache."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    machine = (platform.machine(), platform.libc_ver())
    digest.update(repr((_COMMON, levels, machine)).encode() + version)
    return digest.hexdigest()[:16]


def _flags(levels: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Compiler's flags for each of these levels that this kind of machine has."""
    known = LEVELS if platform.machine() in ("x86_64", "AMD64") else {"base": ()}
    return {name: flags for name, flags in known.items() if levels is None or name in levels}


def _build(compiler: str, levels: Mapping[str, tuple[str, ...]], path: Path) -> ctypes.CDLL:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=_BUILDING) as name:
        folder = Path(name)
        jobs: list[tuple[str, str, tuple[str, ...], Path]] = [
            ("level", "", (), SOURCES / "level.cpp")
        ]
        jobs += [
            (level, f"-DLEVEL={level}", flags, source)
            for level, flags in levels.items()
            for source in sorted(SOURCES.glob("*.cpp"))
            if source.stem != "level"
        ]

        def compile_one(job: tuple[str, str, tuple[str, ...], Path]) -> Path | None:
            level, define, flags, source = job
            target = folder / f"{source.stem}.{level}.o"
            command = [compiler, *_COMMON, *flags, *define.split(), "-c", str(source)]
            done = _run([*command, "-o", str(target)])
            if done.returncode == 0:
                return target
            if level in ("level", "base"):
                raise BuildError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            return None  # a compiler that doesn't know the level: the others do

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = list(zip(jobs, pool.map(compile_one, jobs), strict=True))
        unknown = {level for (level, *_), target in compiled if target is None}  # left out whole
        objects = [t for (level, *_), t in compiled if t is not None and level not in unknown]
        built = folder / "kernels.so"
        for openmp in ((), ("-fopenmp",)):
            done = _run([compiler, "-shared", *openmp, "-o", str(built), *map(str, objects)])
            if done.returncode:
                continue
            built.chmod(0o755)  # whatever the umask
            if (library := _loaded(built)) is not None:
                built.replace(path)
                return library
    raise BuildError(f"linking failed:\n{done.stderr[-2000:]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _loaded(path: Path) -> ctypes.CDLL | None:
    """Library of this file; None if there is none, if it may not be loaded, or doesn't load."""
    try:
        descriptor = open_itself(path)
    except OSError:  # also a link
        return None
    found = os.fstat(descriptor)
    if distrust(found) is None and stat.S_ISREG(found.st_mode):
        # What was looked at is what is loaded, should its name become another file's meanwhile.
        # Where there is no /proc it is loaded by its name.
        by_descriptor = Path(f"/proc/self/fd/{descriptor}")
        try:
            # It stays open: of a number used again the loader would return the old library.
            return ctypes.CDLL(str(by_descriptor if by_descriptor.exists() else path))
        except OSError:
            pass
    os.close(descriptor)
    return None

"""Compiles csrc/ to a shared library, once: its name is a hash of all that goes into it.

Plain C functions, called through ctypes: no header of torch or Python is read, so a build takes
seconds and outlives both. OpenMP's symbols are left for the runtime that torch has loaded, so that
there is one pool of threads; only where that can't be is a second runtime linked.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.locks import lock

SOURCES = Path(__file__).parent / "csrc"
_COMMON = (
    "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti",
    "-fno-math-errno", "-ffp-contract=fast",
)  # fmt: skip
_AVX512 = (
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512",
)  # fmt: skip
LEVELS: dict[str, tuple[str, ...]] = {  # in the order of processor_level() in csrc/level.cpp
    "base": (),
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512_bf16": (*_AVX512, "-mavx512bf16"),
}


class BuildError(RuntimeError):
    """The library can't be built here; says why."""


def load() -> ctypes.CDLL:
    """The loaded library, built first if this cache has none that loads. Raises BuildError."""
    compiler = _compiler()
    path = binary_path(compiler)
    if not _loads(path):
        with (path.parent / "build.lock").open("w") as file:
            lock(file)  # of many workers that start at once, one builds
            if not _loads(path):
                _build(compiler, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path} can't be loaded: {error}") from error


def binary_path(compiler: str) -> Path:
    """Where the library of this compiler lies, or will."""
    return _cache() / f"kernels-{_fingerprint(compiler)}.so"


def _compiler() -> str:
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    for name in names:
        if (found := shutil.which(name)) is not None:
            return found
    raise BuildError(f"no C++ compiler: {', '.join(names)} not found; install g++ or set CXX")


def _cache() -> Path:
    """EXPERIMENTS_KERNEL_CACHE, the user's cache, or for read-only homes a temporary folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    wanted = os.environ.get("EXPERIMENTS_KERNEL_CACHE") or Path(base) / "experiments-kernels"
    try:
        Path(wanted).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return Path(wanted)
    except OSError:
        fallback = Path(tempfile.gettempdir()) / f"experiments-kernels-{os.getuid()}"
        fallback.mkdir(mode=0o700, exist_ok=True)
        if fallback.stat().st_uid != os.getuid():
            raise BuildError(f"{wanted} can't be written, and {fallback} is another's") from None
        return fallback


def _fingerprint(compiler: str) -> str:
    """Of sources, flags, compiler, and the kind of machine: nodes may share a cache."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    machine = (platform.machine(), platform.libc_ver())
    digest.update(repr((_COMMON, LEVELS, machine)).encode() + version)
    return digest.hexdigest()[:16]


def _levels() -> dict[str, tuple[str, ...]]:
    return LEVELS if platform.machine() in ("x86_64", "AMD64") else {"base": ()}


def _build(compiler: str, path: Path) -> None:
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        jobs: list[tuple[str, str, tuple[str, ...], Path]] = [
            ("level", "", (), SOURCES / "level.cpp")
        ]
        jobs += [
            (level, f"-DLEVEL={level}", flags, source)
            for level, flags in _levels().items()
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
            objects = [target for target in pool.map(compile_one, jobs) if target is not None]
        built = folder / "kernels.so"
        for openmp in ((), ("-fopenmp",)):
            done = _run([compiler, "-shared", *openmp, "-o", str(built), *map(str, objects)])
            if done.returncode == 0 and _loads(built):
                built.replace(path)
                return
    raise BuildError(f"linking failed:\n{done.stderr[-2000:]}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _loads(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        ctypes.CDLL(str(path))
    except OSError:
        return False
    return True

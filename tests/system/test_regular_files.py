"""Only regular files are opened, and no more of one is read than its kind may have."""

import ast
import os
import re
import socket
from pathlib import Path

import pytest

from experiments.system import regular_files
from experiments.system.regular_files import (
    FileRefusedError,
    open_regular,
    read_regular,
    read_regular_text,
    regular,
)
from tests.conftest import REPOSITORY

THIS = Path(__file__).stat()


@pytest.fixture(params=["a named pipe", "a link to one", "/dev/zero", "a link to it", "a socket"])
def special(request, tmp_path):
    """A file that is not regular, and what it is called."""
    path, what = tmp_path / "x", request.param
    if what == "a named pipe" or what == "a link to one":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
        return (tmp_path / "pipe" if what == "a named pipe" else path), "a named pipe"
    if what == "a socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
        return path, "a socket"
    path.symlink_to("/dev/zero")
    return (Path("/dev/zero") if what == "/dev/zero" else path), "a device"


@pytest.mark.parametrize("read", [open_regular, read_regular, read_regular_text, regular])
def test_what_is_no_regular_file_is_refused_at_once(special, read):
    path, what = special
    with pytest.raises(FileRefusedError, match=f"^{path}: it is {what}, and only regular files"):
        read(path)
    with pytest.raises(OSError, match="regular"):  # whoever explains what the system refuses
        read(path)
    with pytest.raises(ValueError, match="regular"):  # and whoever explains bad content
        read(path)


def test_a_pipe_that_comes_between_the_look_and_the_opening(tmp_path, monkeypatch):
    path = tmp_path / "x"
    os.mkfifo(path)
    monkeypatch.setattr(Path, "stat", lambda self, **_: THIS)
    with pytest.raises(FileRefusedError, match="it is a named pipe"):
        open_regular(path)


def test_a_file_and_a_link_to_it_are_read(tmp_path):
    path, link = tmp_path / "x", tmp_path / "link"
    path.write_bytes(b"a\r\nb\rc\n\xff" * 10**5)
    link.symlink_to(path)
    for name in (path, link):
        assert read_regular(name) == path.read_bytes()
        assert read_regular_text(name, "replace") == path.read_text("utf-8", "replace")
        assert regular(name) == name
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(link, follow=False)
    with pytest.raises(IsADirectoryError):
        read_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "y")
    assert read_regular(Path("/proc/self/status")).startswith(b"Name:")  # it says no size


def test_a_file_has_a_limit_of_size(tmp_path):
    path = tmp_path / "x"
    path.touch()
    os.truncate(path, 2**40 + 1)  # it takes no room on the disk
    for read in (open_regular, regular, read_regular):
        with pytest.raises(FileRefusedError, match="it has 1,099,511,627,777 bytes, and "):
            read(path)
    os.truncate(path, 2**20)
    assert len(read_regular(path, 2**20)) == 2**20
    with pytest.raises(FileRefusedError, match="and 1,048,575 are the most"):
        read_regular(path, 2**20 - 1)


def test_a_file_that_grows_is_read_no_further_than_its_limit(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"x" * 2**21)
    monkeypatch.setattr(regular_files.os, "fstat", lambda _: THIS)  # smaller
    with pytest.raises(FileRefusedError, match="has 2,097,152 bytes, and 1,048,576 are the most"):
        read_regular(path, 2**20)


# What opens a file by its name: methods of a path, functions, and libraries' own
METHODS = {"read_text", "read_bytes"}
FUNCTIONS = {
    "torch.load", "np.load", "np.memmap", "np.loadtxt", "np.fromfile", "pd.read_csv",
    "pd.read_parquet", "pd.read_json", "zipfile.ZipFile", "ZipFile", "gzip.open", "tarfile.open",
    "safetensors.safe_open", "safetensors.load_file", "load_file", "pyarrow.parquet.ParquetFile",
    "OmegaConf.load", "os.open", "open",
}  # fmt: skip
LAST = {"open", *METHODS, *(name.rpartition(".")[2] for name in FUNCTIONS)}
OPENS = re.compile(rf"\b(?:{'|'.join(LAST)})\(")
WRITES = ("'w", "'a", "'x", "O_WRONLY", "flags", "_create", "devnull")
GUARDED = ("open_regular", "regular", "read_regular", "StringIO", "BytesIO")
# rooms and files that read nothing of anybody's, and why
OWN = {
    "src/experiments/config/hydra_hints.py": "conf/ of this project",
    "src/experiments/config/hydra_settings.py": "Hydra's own package",
    "src/experiments/budget/": "it may import nothing of system, and asks is_file() first",
    "src/experiments/benchmarks/": "its own files and the kernel's",
    "src/experiments/gpu/": "its own files",
    "src/experiments/kernels/": "its own sources and the libraries that it built",
    "src/experiments/system/regular_files.py": "the place itself",
    "src/experiments/system/disk.py": "what it writes",
    "src/experiments/system/ownership.py": "a library that this user built",
    "src/experiments/system/processes.py": "the kernel's files",
    "src/experiments/system/device.py": "the kernel's files",
    "src/experiments/system/environment.py": "the kernel's files, and the copy that runs",
    "src/experiments/system/modules.py": "this project's own sources",
    "src/experiments/system/page/shell.py": "this project's own pages",
    "src/experiments/training/guest.py": "the kernel's files",
    "src/experiments/config/trust.py": "the user's conf/",
    "src/experiments/init/first.py": "the user's conf/",
    "src/experiments/init/smollm2.py": "a wheel whose hash was checked",
    "src/experiments/interchange/": "its own template, and the export that it just wrote",
    "src/experiments/init/run_parts/weights.py": "the user's cache",
    "src/experiments/data/checked.py": "the user's cache",
    "src/experiments/data/debs.py": "the user's cache",
    "src/experiments/data/facts.py": "a wheel whose hash was checked",
    "src/experiments/data/packages/": "the user's cache",
    "src/experiments/data/packed.py": "the user's cache",
    "src/experiments/data/packing.py": "the user's cache",
    "src/experiments/data/vocabulary.py": "the user's cache",
    "src/experiments/data/tokenizer.py": "a wheel whose hash was checked",
    "src/experiments/data/wikitext.py": "a wheel whose hash was checked",
    "analysis/parser.py": "this project's own sources",
    "analysis/unchanged.py": "this repository's committed figures",
    "analysis/benchmark/times.py": "the figure of a package",
}


def _openings(source: str):
    """Line and name of each call that opens a file to read it by its name."""
    if not OPENS.search(source):
        return
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call):
            continue
        last = getattr(call.func, "attr", getattr(call.func, "id", None))
        if last not in LAST:
            continue
        name = ast.unparse(call.func)
        words = " ".join(ast.unparse(word) for word in (*call.args, *call.keywords))
        opens = (
            name in FUNCTIONS or last in METHODS or (last == "open" and name != "webbrowser.open")
        )
        writes = any(mark in words for mark in WRITES)
        safe = any(f"{guard}(" in words for guard in GUARDED) or words.startswith(("raw", "file"))
        if opens and not writes and not safe:
            yield call.lineno, name


def test_only_regular_files_opens_what_may_be_a_stranger_s():
    """A rule: whoever reads a file of a run, a sweep or a user does so by regular_files.py."""
    found = []
    for top in ("src/experiments", "analysis"):
        for path in sorted((REPOSITORY / top).rglob("*.py")):
            name = path.relative_to(REPOSITORY).as_posix()
            if not name.startswith(tuple(OWN)):
                found += [f"{name}:{line}: {what}" for line, what in _openings(path.read_text())]
    assert found == [], "open it by experiments.system.regular_files, or say in OWN whose it is"


@pytest.mark.parametrize(
    "source",
    ["path.read_bytes()", "(a / b).read_text('utf-8')", "path.open('rb')", "open(path)",
     "torch.load(path)", "pd.read_csv(path, dtype=str)", "np.load(path)", "gzip.open(path)",
     "zipfile.ZipFile(path)", "os.open(path, os.O_RDONLY)"],
)  # fmt: skip
def test_the_rule_sees_what_it_is_about(source):
    assert list(_openings(source))
    assert not list(_openings(f"{source.partition('(')[0]}(regular(path))")) or "read_" in source

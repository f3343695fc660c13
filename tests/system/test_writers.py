"""system/disk.py alone writes, makes and removes: what does so by other means is found here.

Its functions refuse a path with a link in it; Path's, shutil's and those of other packages follow
it, to a folder of the reader's (docs/trust.md).
"""

import ast
from functools import cache

import pytest

from tests.conftest import REPOSITORY

DISK = "src/experiments/system/disk.py"
# By the file: the calls that it may make, or None for all, and why.
ALLOWED: dict[str, tuple[set[str] | None, str]] = {
    DISK: (None, "it is the one"),
    "src/experiments/benchmarks/": (None, "folders of its own in the system's, and a typed file"),
    "src/experiments/kernels/build.py": (None, "a cache of its own, whose owner it checks"),
    "src/experiments/system/signatures.py": (
        {"mkdir", "mkstemp", "hardlink_to", "unlink"},
        "the user's own key, out of any results",
    ),
    "src/experiments/system/regular_files.py": ({"open"}, "to read alone"),
    "src/experiments/system/claims.py": ({"TemporaryFile"}, "in a folder that it has claimed"),
    "src/experiments/system/seals.py": ({"save"}, "into a file that opened() has opened"),
    "src/experiments/data/debs.py": ({"ZipFile"}, "in memory"),
    "src/experiments/training/guest.py": ({"rmtree"}, "a folder of its own in the system's"),
    "src/experiments/training/trackers/owners/serving.py": ({"rmtree"}, "the same one"),
    "src/experiments/training/trackers/owners/wandb_owner.py": (
        {"mkdir"},
        "in the run's, which is claimed: it has nothing but the standard library",
    ),
    "src/experiments/gpu/parts/resume.py": ({"save"}, "a folder of its own in the system's"),
    "src/experiments/gpu/wheels.py": ({"copytree"}, "what remove_tree has just removed"),
    "src/experiments/gpu/documents.py": ({"write_text"}, "a document of the repository"),
    # Other packages write whole files into a folder that disk.py or tempfile has just made.
    "src/experiments/adapters/peft_folder.py": ({"save_file"}, "a new folder"),
    "src/experiments/adapters/storage.py": ({"save_file"}, "after remove() of the same path"),
    "src/experiments/collect.py": ({"TemporaryDirectory", "to_parquet"}, "a new folder"),
    "src/experiments/init/retrofit_folder.py": ({"save_file", "save_pretrained"}, "a new folder"),
    "src/experiments/interchange/folder.py": ({"save_file"}, "a new folder"),
    "analysis/staging.py": ({"TemporaryDirectory"}, "in a folder that make_folder has made"),
    "analysis/command.py": ({"savefig"}, "a new folder"),
    "analysis/report/gallery.py": ({"print_pdf", "print_png"}, "a new folder"),
    "analysis/report/paper/write.py": ({"print_pdf"}, "a new folder"),
}
_ALWAYS = {
    *("write_text", "write_bytes", "mkdir", "makedirs", "rmdir", "removedirs", "rmtree", "unlink"),
    *("touch", "symlink_to", "hardlink_to", "symlink", "link", "mkfifo", "mknod", "chmod", "chown"),
    *("copyfile", "copytree", "copy2", "move", "extractall", "renames", "copymode"),
    *("save_file", "save_pretrained", "to_parquet", "to_hdf", "to_excel", "savefig", "print_pdf"),
    *("print_png", "savetxt", "tofile", "mkstemp", "FileHandler"),
}
_OF_MODULES = {
    "os": {"remove", "replace", "rename", "truncate"},
    "shutil": {"copy"},
    "torch": {"save"},
}
_WITH_PATH = {"save", "savez", "savez_compressed"}  # of np
_ONE_PATH = {"rename", "replace"}  # of Path; of a text or a table they have two, or keywords
_IN_FOLDER = {"TemporaryDirectory", "TemporaryFile", "NamedTemporaryFile", "mkdtemp"}
_OPENERS = {"open", "ZipFile", "TarFile", "GzipFile", "memmap"}


def writes(code: str) -> list[tuple[int, str]]:
    """Lines of calls that write, make or remove by a path, and the functions' names."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return sorted((call.lineno, _name(call)) for call in calls if _is_write(call, _name(call)))


def _name(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_write(call: ast.Call, name: str) -> bool:
    is_method = isinstance(call.func, ast.Attribute)
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    texts = [ast.unparse(argument) for argument in call.args]
    if name == "write_text" and not is_method:  # disk.py's
        return False
    if name in _ALWAYS or name in _OF_MODULES.get(owner, ()):
        return not (texts and texts[0].endswith(".fileno()"))
    if name in _WITH_PATH and owner in ("np", "numpy"):
        return not texts[0].startswith("file")
    if name in _ONE_PATH and is_method:
        return len(texts) == 1 and not keywords
    if name == "to_csv" and is_method:
        return bool(texts) or "path_or_buf" in keywords
    if name in _IN_FOLDER:
        return "dir" in keywords
    if name in _OPENERS and owner == "os":
        return not set(texts[1].split(" | ")) <= {"os.O_RDONLY", "os.O_NOFOLLOW"} and (
            texts[0] != "os.devnull"
        )
    if name in _OPENERS:
        return _is_for_writing(call, keywords, is_path=is_method and owner not in ("gzip", "io"))
    return False


def _is_for_writing(call: ast.Call, keywords: dict[str | None, str], is_path: bool) -> bool:
    """Whether the mode says so, the first argument of a path's open(), and else the second."""
    if any(name in keywords for name in ("fileobj", "opener")):
        return "opener" in keywords
    place = 0 if is_path else 1
    given = [ast.unparse(argument) for argument in call.args[place : place + 1]]
    mode = keywords.get("mode", given[0] if given else "'r'")
    return mode.startswith(("'", '"')) and bool(set(mode) & set("wax+"))


def sources() -> list[str]:
    paths = [*(REPOSITORY / "src").rglob("*.py"), *(REPOSITORY / "analysis").rglob("*.py")]
    return sorted(str(path.relative_to(REPOSITORY)) for path in paths)


def allowed(path: str) -> set[str] | None:
    return next((calls for name, (calls, _) in ALLOWED.items() if path.startswith(name)), set())


@cache
def found() -> list[tuple[str, int, str]]:
    """File, line and function of each."""
    texts = ((path, (REPOSITORY / path).read_text(encoding="utf-8")) for path in sources())
    return [(path, *one) for path, text in texts for one in writes(text)]


def test_all_that_is_written_goes_through_disk():
    others = [
        f"{path}:{line}: {name}"
        for path, line, name in found()
        if (names := allowed(path)) is not None and name not in names
    ]
    assert not others, (
        "write by the functions of experiments.system.disk, or say why not in ALLOWED"
    )


def test_each_exception_is_needed():
    for name, (names, why) in ALLOWED.items():
        assert why
        used = {call for path, _, call in found() if path.startswith(name)}
        assert used
        assert names is None or names == used


@pytest.mark.parametrize(
    "line",
    [
        "path.write_text('')", "path.write_bytes(b'')", "(a / 'b').open('w')", "path.open('ab')",
        "path.open(mode='x')", "open(path, 'r+b')", "open(path, mode='w')", "os.open(p, os.O_RDWR)",
        "os.open(p, flags)", "gzip.open(path, 'wt')", "ZipFile(path, 'a')", "path.mkdir()",
        "os.makedirs(p)", "shutil.rmtree(p)", "rmtree(p)", "path.unlink()", "os.remove(p)",
        "path.rename(b)", "path.replace(b)", "os.replace(a, b)", "path.touch()", "path.rmdir()",
        "path.symlink_to(b)", "os.link(a, b)", "shutil.copy(a, b)", "shutil.copytree(a, b)",
        "shutil.move(a, b)", "torch.save(x, path)", "np.savez(path, x=x)", "torch.save_file(x, p)",
        "figure.savefig(path)", "table.to_csv(path)", "table.to_parquet(path)", "path.chmod(0)",
        "os.truncate(p, 0)", "tempfile.TemporaryDirectory(dir=p)", "archive.extractall(p)",
        "open(path, opener=own)", "model.save_pretrained(p)",
    ],
)  # fmt: skip
def test_a_write_that_is_planted_is_found(line):
    assert len(writes(f"def f():\n    {line}\n")) == 1


@pytest.mark.parametrize(
    "line",
    [
        "path.open('rb')", "path.open()", "open(path)", "text.replace('w', 'a')", "names.remove(a)",
        "table.rename(columns=names)", "dataclasses.replace(a, b=1)", "table.to_csv(index=False)",
        "os.open(p, os.O_RDONLY | os.O_NOFOLLOW)", "tempfile.TemporaryDirectory()", "rename(a, b)",
        "ZipFile(path)", "gzip.GzipFile(fileobj=raw, mode='wb')", "np.savez(file, x=x)", "x.copy()",
        "path.read_text()", "os.utime(file.fileno())", "self.save(trainer)", "write_text(p, t)",
    ],
)  # fmt: skip
def test_what_reads_or_is_no_file_is_not(line):
    assert writes(f"def f():\n    {line}\n") == []

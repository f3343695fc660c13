"""Text in local files: JSON lines, parquet and plain text, as a folder, a glob or one file."""

import codecs
import functools
import glob
import gzip
import hashlib
import importlib.util
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

from experiments.config.effects import Unset
from experiments.config.fields import used
from experiments.data.corpus import TRAIN, VALIDATION, check_split
from experiments.system.regular_files import open_regular, regular
from experiments.system.version import install

SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".parquet", ".txt", ".txt.gz")

_READ = f"read are {', '.join(SUFFIXES)}"
_LONGEST = 1 << 28  # bytes of a line or a paragraph: past it a file is not what its name says
_END = 1 << 16  # bytes at either end of a file that its fingerprint reads
_ROWS = 256  # of parquet in memory at once
_DAMAGED_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)

TextUnit = Literal["paragraph", "line", "file"]


@dataclass(frozen=True, kw_only=True)
class LocalText:
    """Texts of `path`: a folder (with its subfolders), a glob or one file of SUFFIXES.

    Other suffixes and names that start with a dot are ignored in a folder; a glob must not match
    them. Files are read in the order of their relative paths, and each is a shard.

    validation_path: files held out, None to hold out the documents with
    blake2b(text) mod validation_every = 0; so equal texts are on the same side, wherever they are.
    text_field: the field of JSON lines and parquet.
    text_unit: what a document is in plain text; paragraphs are separated by blank lines. Line ends
    become \\n, and a document has none at its end.

    Texts of white space only and blank lines of JSON lines are no documents. Anything else that
    can't be read is a ValueError that names the file and the line or row, never skipped.
    Holds a line, a paragraph or a batch of rows in memory; with text_unit="file", a file.

    Raises ValueError, when it is made, if there is nothing to read, and RuntimeError if there is
    parquet but no pyarrow.
    """

    splits: ClassVar[tuple[str, ...]] = (TRAIN, VALIDATION)

    path: str
    validation_path: str | None = None
    validation_every: int = used(Unset("validation_path"), idle=200, default=200)
    text_field: str = "text"
    text_unit: TextUnit = "paragraph"

    def __post_init__(self) -> None:
        if self.validation_every < 2:
            raise ValueError(
                f"validation_every={self.validation_every} must be at least 2: one document in "
                "that number is held out, the others train"
            )
        train = find_files(self.path)
        held_out = find_files(self.validation_path) if self.validation_path is not None else []
        both = {f.resolve() for _, f in train} & {f.resolve() for _, f in held_out}
        if both:
            raise ValueError(
                f"path={self.path!r} and validation_path={self.validation_path!r} both have "
                f"{min(both)}; keep apart what trains and what is held out"
            )
        parquet = [f for _, f in train + held_out if f.name.lower().endswith(".parquet")]
        if parquet and importlib.util.find_spec("pyarrow") is None:
            raise RuntimeError(f"{parquet[0]} needs pyarrow to be read: {install('hub')}")

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Texts of a split, file after file.

        Raises ValueError for an unknown split, for text that can't be read, and for a split that
        has no document.
        """
        n = 0
        for _, file in self._files(split):
            for text in self._read_documents(file, split):
                n += 1
                yield text
        if n == 0:
            raise ValueError(
                f"no document of path={self.path!r} is in the split {split}: it holds those with "
                f"blake2b(text) mod validation_every={self.validation_every} "
                f"{'= 0' if split == VALIDATION else '> 0'}; "
                "change validation_every, or name held-out files with validation_path"
            )

    def n_shards(self, split: str, cache: Path) -> int:
        """Number of files that documents of a split come from."""
        return len(self._files(split))

    def shard_documents(self, split: str, shard: int, start: int, cache: Path) -> Iterator[str]:
        """Texts of a split in one file, from the file's number `start` of that split on.

        Earlier documents are read and skipped. Raises as documents() does, but a file may have
        no document of the split.
        """
        files = self._files(split)
        if not 0 <= shard < len(files):
            raise ValueError(f"shard={shard} of {split} must be from 0 to {len(files) - 1}")
        yield from islice(self._read_documents(files[shard][1], split), start, None)

    def identity(self) -> dict[str, Any]:
        """Texts' identity: the content of the files, not their place; see fingerprint()."""
        held_out = self.validation_path
        return {
            "files": fingerprint(find_files(self.path)),
            "validation_files": fingerprint(find_files(held_out)) if held_out is not None else None,
            "validation_every": self.validation_every if held_out is None else None,
            "text_field": self.text_field,
            "text_unit": self.text_unit,
        }

    def _files(self, split: str) -> list[tuple[str, Path]]:
        check_split(split, self.splits)
        if split == VALIDATION and self.validation_path is not None:
            return find_files(self.validation_path)
        return find_files(self.path)

    def _read_documents(self, file: Path, split: str) -> Iterator[str]:
        texts = read_documents(file, self.text_field, self.text_unit)
        if self.validation_path is not None:
            yield from texts
            return
        for text in texts:
            key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
            if (key % self.validation_every == 0) == (split == VALIDATION):
                yield text


def find_files(path: str) -> list[tuple[str, Path]]:
    """(relative path, file) of what `path` names, in the order of the relative paths.

    Relative to the folder, to the part of a glob before its first wildcard, or to a file's own
    folder. Raises ValueError if there is nothing to read.
    """
    if not path.strip():
        raise ValueError(f"path={path!r} is empty; name a folder, a glob or a file ({_READ})")
    root = Path(path).expanduser()
    if root.is_dir():
        found = [f for f in _glob(f"{glob.escape(str(root))}/**") if _is_read(f)]
        if not found:
            raise ValueError(f"path={path!r} is a folder without a file to read; {_READ}")
    elif root.is_file():
        found, root = [root], root.parent
    else:
        found = _glob(str(root))
        if not found:
            what = "does not exist" if glob.escape(path) == path else "matches no file"
            where = ""
            if not root.is_absolute():
                where = (
                    f" below {Path.cwd()}, where this command works (a run that was trained with a "
                    "relative path is read from the folder where it was trained)"
                )
            raise ValueError(
                f"path={path!r} {what}{where}; name a folder, a glob or a file ({_READ})"
            )
        plain = [i for i, part in enumerate(root.parts) if glob.escape(part) != part]
        root = Path(*root.parts[: plain[0]])
    for file in found:
        if not _is_read(file):
            raise ValueError(f"path={path!r}: {file} has a suffix that is not read; {_READ}")
    return sorted((file.relative_to(root).as_posix(), file) for file in found)


def fingerprint(files: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    """Number of files and of bytes, and a sha256 that stands for their content.

    It is taken over each file's relative path, its size and a sha256 of its first and last 64 KiB.
    So that terabytes need not be read, an edit deeper in a file that keeps its size is
    not noticed. (In a .gz it is: the last bytes are a checksum of the whole.)
    """
    digest = hashlib.sha256()
    n_files = n_bytes = 0
    for name, file in files:
        stat = file.stat()
        ends = _ends_sha256(str(file.resolve()), stat.st_size, stat.st_mtime_ns)
        digest.update(json.dumps([name, stat.st_size, ends]).encode())
        n_files, n_bytes = n_files + 1, n_bytes + stat.st_size
    return {"n_files": n_files, "n_bytes": n_bytes, "sha256": digest.hexdigest()}


@functools.cache  # the points of a sweep share a process and its corpus
def _ends_sha256(path: str, n_bytes: int, mtime_ns: int) -> str:
    with open_regular(Path(path)) as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, n_bytes - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()


def read_documents(path: Path, text_field: str, text_unit: TextUnit) -> Iterator[str]:
    """Texts of one file, but for those of white space only.

    Raises ValueError, naming the file, the line or row and the remedy, for what can't be read.
    """
    name = path.name.lower()
    n = 0
    try:
        if regular(path).stat().st_size == 0:
            raise ValueError(f"{path} is empty (0 bytes); remove it, or write it again")
        if name.endswith(".parquet"):
            texts = _parquet_texts(path, text_field)
        elif name.endswith((".txt", ".txt.gz")):
            texts = _plain_texts(path, text_unit)
        else:
            texts = _json_texts(path, text_field)
        for text in texts:
            if text.strip():
                n += 1
                yield text
    except _DAMAGED_GZIP as error:
        raise ValueError(
            f"{path} is a truncated or damaged gzip: {n} documents could be read, then: {error}; "
            "download or write it again"
        ) from error
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}") from error
    if n == 0:
        raise ValueError(f"{path} holds no document, only white space; remove it")


def _json_texts(path: Path, text_field: str) -> Iterator[str]:
    for n, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}: line {n}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{where} is not JSON ({error}); every line must hold one whole object"
            ) from error
        if not isinstance(row, dict):
            raise ValueError(
                f"{where} is a JSON {type(row).__name__}, not an object; write one object a line, "
                f'as {{"{text_field}": "..."}}'
            )
        if text_field not in row:
            raise ValueError(_no_field(where, text_field, row))
        yield _checked(row[text_field], where, text_field)


def _plain_texts(path: Path, unit: TextUnit) -> Iterator[str]:
    if unit == "file":
        yield "\n".join(line for _, line in _lines(path))
        return
    paragraph: list[str] = []
    size = 0
    for n, line in _lines(path):
        if unit == "line":
            yield line
        elif line.strip():
            paragraph.append(line)
            size += len(line)
            if size > _LONGEST:
                raise ValueError(
                    f"{path}: the paragraph that holds line {n} is longer than {_LONGEST} "
                    "characters; separate documents by blank lines, or set text_unit=line"
                )
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph, size = [], 0
    if paragraph:
        yield "\n".join(paragraph)


def _parquet_texts(path: Path, text_field: str) -> Iterator[str]:
    import pyarrow  # of the extra `hub`, and slow to import
    import pyarrow.parquet

    n = 0
    try:
        with pyarrow.parquet.ParquetFile(regular(path)) as file:
            if text_field not in file.schema_arrow.names:
                raise ValueError(_no_field(str(path), text_field, file.schema_arrow.names))
            for batch in file.iter_batches(batch_size=_ROWS, columns=[text_field]):
                for text in batch.column(0).to_pylist():
                    n += 1
                    yield _checked(text, f"{path}: row {n}", text_field)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is truncated or damaged parquet: {n} rows could be read, then: "
            f"{str(error).splitlines()[0]}; download or write it again"
        ) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number from 1, text without its end) of every line."""
    n = 0
    packed = path.name.lower().endswith(".gz")
    with open_regular(path) as raw, gzip.open(raw, "rb") if packed else raw as file:
        while line := file.readline(_LONGEST):
            n += 1
            where = f"{path}: line {n}"
            if len(line) == _LONGEST:
                raise ValueError(
                    f"{where} is longer than {_LONGEST} bytes; this is not a file of lines"
                )
            if n == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if b"\0" in line:
                raise ValueError(
                    f"{where} holds a NUL byte: a binary file, or not UTF-8; remove it, or convert "
                    "it with iconv -t UTF-8"
                )
            try:
                yield n, line.rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{where} is not UTF-8 (byte {error.start} is 0x{line[error.start]:02x}): a "
                    "binary file, or of another encoding; remove it, or convert it with "
                    "iconv -t UTF-8"
                ) from error


def _checked(text: Any, where: str, text_field: str) -> str:
    if not isinstance(text, str):
        kind = "null" if text is None else f"of type {type(text).__name__}"
        raise ValueError(f"{where}: {text_field!r} is {kind}, not a string; correct or remove it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{where}: {text_field!r} holds a lone surrogate at character {error.start}, which is "
            "not Unicode text; correct or remove it"
        ) from error
    return text


def _no_field(where: str, text_field: str, known: Iterable[str]) -> str:
    return (
        f"{where} has no field {text_field!r}; it has {', '.join(known) or 'none'}; "
        "name the one that holds the text with text_field"
    )


def _glob(pattern: str) -> list[Path]:
    # Path.glob takes no absolute pattern, and before Python 3.13 enters no linked folder
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207
    return [f for f in map(Path, found) if f.is_file()]


def _is_read(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)

"""Text of Hugging Face datasets, streamed from the hub or from a folder of the same layout."""

import functools
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from experiments.data.corpus import check_split
from experiments.data.files import fingerprint
from experiments.system.version import install

_PROBE_TIMEOUT = 2.0  # seconds
_PAUSES = (1.0, 5.0, 20.0)  # seconds before each new try in mid-stream, after datasets' own tries
_ROWS = 256  # taken from datasets at once
_NETWORK_PACKAGES = {"aiohttp", "httpcore", "httpx", "httpx2", "huggingface_hub", "requests"}


@dataclass(frozen=True, kw_only=True)
class HubText:
    """Texts of a dataset of the hub, streamed file by file: each file is a shard.

    path: the dataset's name (allenai/c4), or a folder with the same files and README.md.
    name: its configuration (en), None for its default. revision: a commit, tag or branch of the
    hub's, None for the newest; pin it where results must stay comparable. No meaning for a folder.
    splits: the dataset's name of each of our splits. text_field: the column of the text.

    Texts of white space only are no documents. Hugging Face's own caches are where it puts them.
    Raises ValueError, when it is made, for a folder that does not exist and for empty splits.
    """

    path: str
    name: str | None
    revision: str | None
    splits: Mapping[str, str]
    text_field: str

    def __post_init__(self) -> None:
        if not self.splits or not all(isinstance(s, str) for s in self.splits.values()):
            raise ValueError(
                f"splits={self.splits!r} must name the dataset's split of each of ours, "
                "as {train: train, validation: validation}"
            )
        like_a_path = self.path.startswith(("/", ".", "~")) or self.path.count("/") > 1
        if not self.path.strip() or (like_a_path and self._folder() is None):
            raise ValueError(
                f"path={self.path!r} is neither a folder nor the name of a dataset; name a "
                "folder of the dataset's layout or a dataset, as allenai/c4 (data=local reads "
                "other files)"
            )

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Texts of a split, file after file.

        Raises ValueError for a split or column it does not have and for text that can't be read,
        and RuntimeError if the hub can't be reached or `datasets` is not installed.
        """
        stream = self._open(split)
        for shard in range(stream.num_shards):
            yield from self._texts(stream, split, shard)

    def n_shards(self, split: str, cache: Path) -> int:
        """Number of files of a split; raises as documents() does."""
        n: int = self._open(split).num_shards
        return n

    def shard_documents(self, split: str, shard: int, start: int, cache: Path) -> Iterator[str]:
        """Texts of one file from its number `start` on; earlier ones are skipped.

        Not with datasets' skip(), which counts rows without text too and is no faster.
        Raises as documents() does.
        """
        stream = self._open(split)
        if not 0 <= shard < stream.num_shards:
            raise ValueError(f"shard={shard} of {split} must be from 0 to {stream.num_shards - 1}")
        yield from islice(self._texts(stream, split, shard), start, None)

    def identity(self) -> dict[str, Any]:
        """Identity of the texts: for a folder its content, not its place.

        All its files count, but for those whose name starts with a dot: README.md too, since it
        says which files are a split's.
        """
        folder = self._folder()
        source: dict[str, Any] = {"path": self.path, "revision": self.revision}
        if folder is not None:
            files = (f for f in folder.rglob("*") if f.is_file())
            named = sorted((f.relative_to(folder).as_posix(), f) for f in files)
            source = {"files": fingerprint((n, f) for n, f in named if "/." not in f"/{n}")}
        return {
            **source,
            "name": self.name,
            "splits": dict(self.splits),
            "text_field": self.text_field,
        }

    def _folder(self) -> Path | None:
        folder = Path(self.path).expanduser()
        return folder if folder.is_dir() else None

    def _open(self, split: str) -> Any:
        """datasets' stream of a split; with the column of the text only, where columns are known.

        (Older versions of datasets don't know a JSON file's before they read it.)
        """
        check_split(split, self.splits)
        _import()
        folder, theirs = self._folder(), self.splits[split]
        try:
            if folder is not None:
                stream = _load(str(folder), self.name, None, theirs)
            else:
                stream = _load_from_hub(self.path, self.name, self.revision, theirs)
        except Exception as error:
            if folder is None and is_network_error(error):
                raise HubUnreachable(unreachable(self.path, error)) from error
            raise ValueError(
                f"{self._called(theirs)} can't be opened: {_first_line(error)}; "
                "check path, name, revision and splits"
            ) from error
        columns = stream.column_names
        if columns is not None and self.text_field not in columns:
            raise ValueError(
                f"{self._called(theirs)} has no column {self.text_field!r}; it has "
                f"{', '.join(columns)}; name the one that holds the text with text_field"
            )
        return stream if columns is None else stream.select_columns([self.text_field])

    def _texts(self, stream: Any, split: str, shard: int) -> Iterator[str]:
        rows = stream.shard(num_shards=stream.num_shards, index=shard)
        where = f"{self._called(self.splits[split])}, file {shard} of {stream.num_shards}"
        remote = self._folder() is None
        n_rows = n_texts = 0
        try:
            column = functools.partial(_column, rows, self.text_field, where)
            for text in resumed(column, self.path, remote):
                n_rows += 1
                if not isinstance(text, str):
                    kind = "missing" if text is None else f"of type {type(text).__name__}"
                    raise _BadText(f"{where}: row {n_rows}: {self.text_field!r} is {kind}")
                if text.strip():
                    n_texts += 1
                    yield text
        except (_BadText, HubUnreachable):
            raise
        except Exception as error:  # whatever the formats that datasets reads may raise
            raise ValueError(
                f"{where} can't be read after {n_rows} rows: {type(error).__name__}: "
                f"{_first_line(error)}; fetch the file again"
            ) from error
        if n_texts == 0:  # datasets skips an empty file silently
            raise ValueError(f"{where} holds no text; fetch the file again, or remove it")

    def _called(self, their_split: str) -> str:
        return f"{self.path} ({', '.join(filter(None, (self.name, their_split)))})"


class HubUnreachable(RuntimeError):
    """Says that the hub can't be reached, or no longer."""


class _BadText(ValueError):
    pass


def resumed(
    open_at: Callable[[int], Iterator[Any]], path: str, remote: bool = True
) -> Iterator[Any]:
    """Items of open_at(0). After a network error, those of open_at(number of items had).

    Raises HubUnreachable after len(_PAUSES) new tries in a row that brought nothing.
    """
    n_had = n_tries = 0
    while True:
        try:
            for item in open_at(n_had):
                n_had, n_tries = n_had + 1, 0
                yield item
            return
        except Exception as error:
            if not (remote and (is_network_error(error) or isinstance(error, EOFError))):
                raise
            if n_tries == len(_PAUSES):
                raise HubUnreachable(unreachable(path, error)) from error
        time.sleep(_PAUSES[n_tries])
        n_tries += 1


def is_network_error(error: BaseException) -> bool:
    """Whether an error is about the network.

    Decided by the package of its class, because datasets changes its HTTP client between versions.
    """
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return True
    if isinstance(error, ValueError):  # a name that those packages refuse
        return False
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return not packages.isdisjoint(_NETWORK_PACKAGES)


def unreachable(path: str, error: BaseException) -> str:
    """One line for a user whose machine does not reach the hub."""
    return (
        f"can't reach the Hugging Face hub for {path} ({_first_line(error)}); use data=packages, "
        "which needs no hub, or data.path= with a local folder of the same layout"
    )


@functools.cache  # one set of requests in a process for the many files of a split
def _load_from_hub(path: str, name: str | None, revision: str | None, split: str) -> Any:
    datasets, hub = _import()
    if not datasets.config.HF_HUB_OFFLINE:  # offline, datasets looks in its own cache
        probe(hub.constants.ENDPOINT)
    return _load(path, name, revision, split)


def probe(endpoint: str) -> None:
    """Raises ConnectionError if nothing answers there, or at the proxy before it.

    The clients would find out as well, after half a minute of tries.
    """
    url = urlsplit(endpoint)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(url.hostname or ""):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    server = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection(server, timeout=_PROBE_TIMEOUT).close()
    except OSError as error:
        raise ConnectionError(f"{server[0]}: {error.strerror or error}") from error


def _load(path: str, name: str | None, revision: str | None, split: str) -> Any:
    datasets, _ = _import()
    return datasets.load_dataset(path, name, split=split, revision=revision, streaming=True)


def _import() -> tuple[Any, Any]:
    try:
        import datasets  # of the extra `hub`, and slow to import
        import huggingface_hub
    except ImportError as error:
        raise RuntimeError(
            f"reading a dataset of the hub needs the package datasets ({error}): {install('hub')}"
        ) from error
    return datasets, huggingface_hub


def _column(rows: Any, column: str, where: str, start: int) -> Iterator[Any]:
    # by batches: row by row, a stream in a DataLoader's worker yields that worker's share of its
    # files only, and of a single file nothing in any worker but the first
    for batch in (rows.skip(start) if start else rows).iter(batch_size=_ROWS):
        if column not in batch:
            raise _BadText(f"{where} has no column {column!r}; it has {', '.join(batch)}")
        yield from batch[column]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""Packed tokens that are read only once they have been found to be what was written.

Before a run's first step every shard that it reads is hashed and compared with the index. That it
was, is kept beside the folder, in .<folder>.verified, so that the next run, rank or sweep of a big
corpus need not read it all again. The stamp holds the hash of the index, and the size, times of
change and inode of each shard. Any write to a shard, a copy of it and a move to another disk change
one of these, and all is read again; and so it is after a week, because a stamp can't see a disk
that returns other bytes for a file that nobody wrote to. Where the cache can't be written there is
no stamp, and every run reads everything.
"""

import json
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from experiments.data.cache import locked
from experiments.data.packed import INDEX_NAME, PackedText, file_sha256
from experiments.system.disk import write_text_atomically

_DAYS = 7  # a stamp holds
_LARGE = 10**9  # bytes, above which the wait is worth a line


def open_verified(folder: Path) -> PackedText:
    """The tokens, whole. A second process waits for the first, and then finds its stamp.

    Raises DamagedError, naming the file, for an index or a shard that is not as it was written.
    """
    text = PackedText(folder)
    if _is_stamped(text):
        return text
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that can't be written
            stack.enter_context(locked(folder))
        if not _is_stamped(text):
            n_bytes = text.n_tokens * text.dtype.itemsize
            if n_bytes > _LARGE:
                print(f"checking {n_bytes / 1e9:.1f} GB of tokens in {folder}", flush=True)
            facts = _facts(text)  # of before: a write meanwhile is seen
            text.verify()
            stamp(text, facts)
    return text


def stamp(text: PackedText, facts: dict[str, Any] | None = None) -> None:
    """Notes that the tokens were found whole. facts: of the files, before they were read."""
    content = {"time": time.time(), **(facts or _facts(text))}
    with suppress(RuntimeError):  # the next one reads them again
        write_text_atomically(_stamp_path(text), json.dumps(content) + "\n")


def _is_stamped(text: PackedText) -> bool:
    try:
        content = json.loads(_stamp_path(text).read_bytes())
        age = time.time() - content.pop("time")
        return 0 <= age < _DAYS * 24 * 3600 and content == _facts(text)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False  # none, or none that can be believed


def _facts(text: PackedText) -> dict[str, Any]:
    """A file's facts, which change if it does."""
    stats = {shard.file: (text.folder / shard.file).stat() for shard in text.shards}
    return {
        "index": file_sha256(text.folder / INDEX_NAME),
        "shards": {
            file: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for file, s in stats.items()
        },
    }


def _stamp_path(text: PackedText) -> Path:
    return text.folder.with_name(f".{text.folder.name}.verified")

"""Signatures that this user alone can give: whether a file is the work of this user's commands.

An HMAC with SHA-256 (RFC 2104), by a key that is made at the first signature and stays in the
user's own folder. A clone or an archive of somebody else's has none, whoever owns its files here.
Machines that share the home share the key. Whoever has lost it has lost the signatures, and nothing
else. Standard library only.
"""

import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from experiments.system.regular_files import open_regular

_BYTES = 32  # of a key
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def key_path() -> Path:
    """Key's file, by XDG_STATE_HOME. Raises RuntimeError for a user without a home."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "experiments" / "signing.key"


def signature(content: bytes) -> str | None:
    """64 hex digits; the first makes the key. None where no key can be kept for this user alone."""
    key = _key()
    if key is None:
        with suppress(OSError, RuntimeError):
            _make_key()
        key = _key()
    return None if key is None else hmac.digest(key, content, hashlib.sha256).hex()


def is_signed(content: bytes, given: object) -> bool:
    """Whether this user gave that signature for the content."""
    key = _key()
    if key is None or not isinstance(given, str):
        return False
    own = hmac.digest(key, content, hashlib.sha256).hex()
    return hmac.compare_digest(own.encode(), given.encode(errors="replace"))


def _key() -> bytes | None:
    """None if there is none, or others can read it, and so sign too."""
    with suppress(OSError, RuntimeError), open_regular(key_path(), follow=False) as file:
        found, key = os.fstat(file.fileno()), file.read(_BYTES)
        if found.st_uid == os.getuid() and not found.st_mode & _OTHERS and len(key) == _BYTES:
            return key
    return None


def _make_key() -> None:
    """Whole, under its name, for this user alone; the first of several that make it at once."""
    path = key_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)  # of mode 600
    try:
        os.write(descriptor, secrets.token_bytes(_BYTES))
        os.fsync(descriptor)
        with suppress(FileExistsError):
            path.hardlink_to(name)
    finally:
        os.close(descriptor)
        Path(name).unlink()

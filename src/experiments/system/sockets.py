"""A folder for multiprocessing's sockets whose name is short enough, whatever TMPDIR is.

A socket's path is a field of 108 bytes (104 on macOS), and multiprocessing puts sockets into
TMPDIR, which a cluster may make longer than that. Python before 3.14 then fails.
"""

import os
import sys
import tempfile
from multiprocessing import util

_LONGEST = 107 if sys.platform == "linux" else 103  # bytes, without the zero that ends them
_ADDED = len("/pymp-12345678/listener-12345678")


def shorten_sockets() -> None:
    """To be called before a fork server is started. Processes that it starts use the folder too.

    The folder is the user's alone and goes with this process. Raises ValueError if there is no
    place for it.
    """
    if _fits(tempfile.gettempdir()):
        return
    before = tempfile.tempdir
    tempfile.tempdir = _short_place()
    try:
        util.get_temp_dir()  # made now, and then asked for no more
    finally:
        tempfile.tempdir = before


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + _ADDED <= _LONGEST


def _short_place() -> str:
    places = (os.environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/var/tmp", "/dev/shm")
    for place in places:
        if place and _fits(place) and os.access(place, os.W_OK | os.X_OK):
            return place
    raise ValueError(
        f"TMPDIR={tempfile.gettempdir()} is too long for a socket's path, and none of "
        f"{', '.join(p for p in places if p)} can be written; set a TMPDIR of at most "
        f"{_LONGEST - _ADDED} characters"
    )

"""Whether a file can be another's work: what it says is run as this user. Stdlib only."""

import os
import stat
from pathlib import Path

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def distrust(found: os.stat_result) -> str | None:
    """Why somebody else may have written a file, or put one into a folder; None if only this user
    and root could.
    """
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link, and who owns it could change it"
    if found.st_uid not in (os.getuid(), 0):
        return f"belongs to another user (id {found.st_uid})"
    if found.st_mode & _OTHERS_WRITE:
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):o})"
    return None


def open_itself(path: Path) -> int:
    """A descriptor of a file that is read, but of no link: what is looked at is what is read."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)

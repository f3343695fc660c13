"""Text inside Debian packages: fetched by apt by name, version and hash, never installed."""

import io
import lzma
import subprocess
import tarfile
from pathlib import Path
from zipfile import ZipFile

from experiments.data.progress import doing
from experiments.system.disk import file_sha256
from experiments.system.made_once import made_once

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes of a member's header in an ar archive: man 5 ar
_SIZE = slice(48, 58)


def fetch_deb(requirement: str, sha256: str, cache: Path) -> Path:
    """Path of the package `name==version`, downloaded by apt-get once, and of the given hash.

    Raises RuntimeError with apt's last line if it can't be had, and ValueError if it does not have
    the hash.
    """
    folder = made_once(cache / "debs" / sha256[:16], lambda f: _download(requirement, sha256, f))
    (deb,) = folder.glob("*.deb")
    digest = file_sha256(deb)
    if digest != sha256:
        raise ValueError(f"{deb} has sha256 {digest}, not {sha256}; delete {folder} and try again")
    return deb


def open_deb(path: Path) -> ZipFile:
    """Regular files of a Debian package as a zip file in memory, by their paths from the root.

    A package is an ar archive whose member data.tar.xz has the files (man 5 deb). Nothing is
    written, and links are left out. Raises ValueError if it isn't one.
    """
    zipped = io.BytesIO()
    with ZipFile(zipped, "w") as files, tarfile.open(fileobj=_data(path)) as packed:
        for member in packed:
            if member.isfile() and (file := packed.extractfile(member)):
                files.writestr(member.name.removeprefix("./"), file.read())
    return ZipFile(zipped)


def _data(path: Path) -> io.BytesIO:
    """Tar archive of a package's files."""
    content = path.read_bytes()
    place = len(_MAGIC)
    while content.startswith(_MAGIC) and place < len(content):
        header = content[place : place + _HEADER]
        size, start = int(header[_SIZE]), place + _HEADER
        if header.startswith(b"data.tar.xz"):
            return io.BytesIO(lzma.decompress(content[start : start + size]))
        place = start + size + size % 2  # members begin at even places
    raise ValueError(f"{path} is no Debian package with a data.tar.xz")


def _download(requirement: str, sha256: str, folder: Path) -> None:
    name, _, version = requirement.partition("==")
    by_hand = f"or put a .deb with sha256 {sha256} into {folder.parent / sha256[:16]}"
    command = ["apt-get", "download", "-qq", f"{name}={version}"]
    try:
        with doing(f"downloading {requirement}"):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise RuntimeError(
            f"{requirement} is a package of Debian, and this machine has no apt-get; leave its "
            f"domain out, {by_hand}"
        ) from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        last = lines[-1] if lines else f"apt-get ended with {done.returncode}"
        raise RuntimeError(
            f"can't download {requirement}: {last}; try apt-get update, leave its domain out, "
            f"{by_hand}"
        )

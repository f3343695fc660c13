"""A run's record as others may see it: results and settings, and nothing of machines or people.

A record of ours holds the place of its files, the host, numbers of jobs and where curves were
sent. Of a path the last part stays alone, which names the text or the weights. Kept of the
environment is what says how the run was computed.
"""

import getpass
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.records.record import RunRecord
from experiments.system.credentials import CUT, cut

_KEPT = (
    "python", "packages", "device", "n_threads", "command", "git_commit", "git_dirty", "kernel",
    "trunk",
)  # fmt: skip
_OF_PLACE = re.compile(r"[+~]*(?:paths|logger|hydra\.launcher|hydra/launcher)\b")  # of a command
_START = r"(?:file://)?(?:~[\w.-]*[\\/]|/+(?=[\w.~])|(?:\.\.[\\/])+|[A-Za-z]:[\\/](?!/))"
_WHOLE = re.compile(rf"{_START}[^\n]*")
_INSIDE = re.compile(rf"(?<![\w./~:\\-]){_START}[^\s\"'`,;:()\[\]{{}}<>|]*")
_AFTER = re.compile(rf"(?<=\w:)(?!//){_START}[^\s\"'`,;:()\[\]{{}}<>|]*")  # key:/a/b, and no URL
_HOMES = ("home", "Users")
_NO_LOGGER = {"wandb": "disabled", "project": "experiments", "entity": None}


def public_record(record: RunRecord) -> RunRecord:
    """Record without places, names of machines and people, and credentials. Ids stay, as they
    don't depend on any of them.
    """
    environment = {k: v for k, v in record.environment.items() if k in _KEPT}
    if isinstance(given := environment.get("command"), list):
        environment["command"] = [_word(str(w)) for w in given if not _OF_PLACE.match(str(w))]
    values = {name: _plain(value) for name, value in vars(record).items() if name != "environment"}
    error = values["error"]
    return replace(
        record,
        **values
        | {
            "environment": _plain(environment),
            "config": _public_config(values["config"]),
            "error": None if error is None else without_names(error, private_names([record])),
        },
    )


def private_names(records: Iterable[RunRecord]) -> frozenset[str]:
    """Names of the user and of the hosts: of this machine, and of those that ran the records."""
    hosts = {socket.gethostname(), *(str(r.environment.get("host") or "") for r in records)}
    found = {*hosts, *(host.partition(".")[0] for host in hosts), Path.home().name}
    with suppress(OSError, KeyError, ImportError):  # a user without a name, as in some containers
        found.add(getpass.getuser())
    return frozenset(found - {""})


def without_names(text: str, names: Iterable[str]) -> str:
    """Text with each of these words cut."""
    words = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", CUT, text) if words else text


def find_folder(content: bytes, folders: Sequence[Path]) -> Path | None:
    """First of these folders whose path a file's content has; None if it has none."""
    for folder in folders:
        if re.search(re.escape(os.fsencode(folder)) + rb"(?![\w-])", content):
            return folder
    return None


def _public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config that can still be run: files beside the reader's own, curves sent nowhere."""
    public = dict(config)
    if "paths" in public:
        public["paths"] = {"results": "results", "cache": ".cache"}
    if isinstance(logger := public.get("logger"), Mapping):
        public["logger"] = _NO_LOGGER | {k: v for k, v in logger.items() if isinstance(v, int)}
    return public


def _plain(value: Any) -> Any:
    """Values with each text cleaned, keys too."""
    if isinstance(value, Mapping):
        return {_text(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _text(value) if isinstance(value, str) else value


def _word(word: str) -> str:
    """Word of a command line: a name and a value, or several between commas; or a path."""
    name, mark, value = word.partition("=")
    values = ",".join(map(_text, value.split(",")))
    return f"{name}{mark}{values}" if mark else _text(word)


def _text(text: str) -> str:
    text = cut(text)
    if _WHOLE.fullmatch(text):
        return _last(text)
    for pattern in (_INSIDE, _AFTER):
        text = pattern.sub(lambda found: _last(found[0]), text)
    return text


def _last(path: str) -> str:
    """Last part of a path; nothing of a home or of what goes up alone."""
    *above, name = re.split(r"[\\/]+", path.rstrip("\\/"))
    home = bool(above) and above[-1] in _HOMES
    return CUT if home or name in ("", "..", "~") or name.startswith("~") else name


def as_yaml(config: Mapping[str, Any]) -> str:
    """Config as text. JSON where PyYAML would need a type of its own."""
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False, allow_unicode=True)

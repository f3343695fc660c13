"""Checks of what was typed, before a file is read: each error is one line."""

import argparse
import math
import re
from collections.abc import Callable, Iterable
from inspect import signature
from pathlib import Path
from typing import Any, NoReturn

from analysis.fitting.checks import LEVELS
from analysis.table.checks import MAX_LOSS
from analysis.table.csv_file import parse_separator
from analysis.table.units import parse_unit

_MAX_DRAWS = 100_000
_FLAGS = {"target": "for"}  # options whose name is a word of Python
_RESULTS = ("loss", "perplexity", "bits_per_byte", "train_loss")  # of runs


def _above_0(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _nats(value: float) -> bool:
    return 0 < value <= MAX_LOSS


_NATS = f"must be a finite number of nats above 0, and {MAX_LOSS:g} at most, which no loss exceeds"
_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "budget": (_above_0, "must be a finite number of FLOPs above 0"),
    "budget_tolerance": (lambda value: 0 <= value < 0.5, "must be 0 or more, and below 0.5"),
    "noise_of": (_above_0, "must be a finite number of FLOPs above 0"),
    "noise": (_nats, _NATS),
    "half_width": (_nats, _NATS),
    "margin": (_nats, _NATS),
    "stop": (_nats, _NATS),
    "level": (
        lambda value: LEVELS[0] <= value <= LEVELS[1],
        "must be between 0 and 1, e.g. 0.95, and 1e-9 from both at least",
    ),
    "pilot": (lambda value: value >= 2, "must be 2 or more: one seed has no scatter"),
    "within": (_nats, _NATS),
    "within_compute": (lambda value: 0 < value < 1, "must be a share above 0 and below 1"),
    "unique_tokens": (_above_0, "must be a finite number of tokens above 0"),
    "min_gain": (_nats, _NATS),
    "asymptote": (
        lambda value: math.isfinite(value) and value >= 0,
        "must be a finite number of nats, 0 or more, and below every loss",
    ),
    "learning": (math.isfinite, "must be a finite number of bits/byte"),
    "at": (_above_0, "must be a finite number of FLOPs above 0"),
    "at_loss": (_above_0, "must be a finite number of nats above 0"),
    "delta": (lambda value: value > 0, "must be above 0; inf is least squares"),
    "n_nearest": (lambda value: value >= 3, "must be 3 or more: a parabola has 3 parameters"),
    "draws": (
        lambda value: 2 <= value <= _MAX_DRAWS,
        f"must be 2 to {_MAX_DRAWS}: intervals are percentiles of the draws",
    ),
}


# What a word for a value reads; any other is a text
_TYPES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("NATS", "FLOPS", "SHARE", "TOKENS", "BITS", "STEPS", "DELTA", "LEVEL"), float),
    **dict.fromkeys(("N", "SEEDS", "DRAWS"), int),
}
_OPTION = re.compile(
    r"--(?P<no>\[no-\])?(?P<name>[\w-]+)(?P<must>!)?(:(?P<dest>\w+))?(=(?P<default>\S+))?"
    r"( (?P<value>\S+?)(?P<many>\.\.\.)?)?  +(?P<help>.+)"
)


def declare(sub: argparse._ActionsContainer, text: str) -> None:
    """Adds options as they are written down, e.g. "--draws=500 DRAWS  of the bootstrap".

    The value's word says its type, {a,b} is a choice, none a switch; ... after it: repeatable;
    ! after the name: required; :name: the field, if it has another. Help may go on below.
    """
    for entry in re.split(r"\n(?=--)", text.strip()) if text.strip() else ():
        found = _OPTION.fullmatch(" ".join(entry.split("\n")))
        assert found, f"no option: {entry}"
        value = found["value"]
        more: dict[str, Any] = {"help": re.sub(" +", " ", found["help"]).strip()}
        if found["dest"]:
            more |= {"dest": found["dest"]}
        if value is None:
            switch = argparse.BooleanOptionalAction if found["no"] else "store_true"
            sub.add_argument(f"--{found['name']}", action=switch, **more)
            continue
        of: dict[str, Any] = (
            {"choices": value[1:-1].split(",")} if value[0] == "{" else {"metavar": value}
        )
        many: dict[str, Any] = {"action": "append", "default": []} if found["many"] else {}
        more |= {"type": _TYPES.get(value), "default": found["default"], **of, **many}
        sub.add_argument(f"--{found['name']}", required=bool(found["must"]), **more)


def given(options: argparse.Namespace, function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a function that are options of the same names."""
    return {k: v for k, v in vars(options).items() if k in signature(function).parameters}


def one_of(names: Iterable[str]) -> str:
    return f"{{{','.join(names)}}}"


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


def named_path(text: str) -> Path:
    """A path that was typed; "" would be the working directory."""
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no path")
    return Path(text)


def named_file(text: str) -> Path:
    """Path of a file that is there."""
    path = named_path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    return path


def number_or_range(text: str) -> float | tuple[float, float]:
    """NATS or NATS,NATS, the lower first."""
    try:
        ends = [float(part) for part in text.split(",")]
    except ValueError:
        ends = []
    if len(ends) == 1:
        return ends[0]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no NATS or LOWEST,HIGHEST")
    return ends[0], ends[1]


_TYPES |= dict.fromkeys(("DIR", "FILE", "YAML"), named_path)
_TYPES |= dict.fromkeys(("JSON", "REGISTRATION"), named_file) | {"NATS[,NATS]": number_or_range}


def check_options(options: argparse.Namespace) -> None:
    """Raises ValueError for the first number out of range, empty text, or pair that is none."""
    for name, value in vars(options).items():
        flag = f"--{_FLAGS.get(name, name).replace('_', '-')}"
        fits, rule = _RULES.get(name, (None, ""))
        for number in value if isinstance(value, tuple | list) else [value]:
            if fits is not None and number is not None and not fits(number):
                shown = f"{number:g}" if isinstance(number, float) else number
                raise ValueError(f"{flag} {shown} {rule}")
        if value == "":
            raise ValueError(f"{flag} is empty; give a value, or leave it out")
        if value and name in options.chosen.unused:
            raise ValueError(
                f"{flag} is not for {options.command}, which reads {options.chosen.reads}"
            )
    if getattr(options, "cluster", None) in _RESULTS:
        raise ValueError(
            f"--cluster {options.cluster} is what is fitted; name what rows of one run share, e.g. "
            "run_id"
        )
    for name in ("column", "where", "unit"):
        pairs(name, getattr(options, name))
    for column, unit in pairs("unit", options.unit).items():
        parse_unit(column, unit)
    parse_budgets(options)
    if options.separator is not None:
        parse_separator(options.separator)
    if choose_series(options) is not None and options.chosen.by_model:
        raise ValueError(
            f"--series is not for {options.command}, which compares models; "
            "--column model=COLUMN says what they are"
        )


def parse_budgets(options: argparse.Namespace) -> list[float] | None:
    """FLOPs of --budgets; None without the option."""
    if options.budgets is None:
        return None
    try:
        found = [float(text) for text in options.budgets.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(_above_0, found)):
        raise ValueError(
            f"--budgets {options.budgets!r} must be numbers of FLOPs above 0, e.g. 6e18,1e19"
        )
    return found


def choose_series(options: argparse.Namespace) -> list[str] | None:
    """Columns of --series; [] for "none", None without the option."""
    if options.series is None:
        return None
    if options.series.strip() == "none":
        return []
    names = [name.strip() for name in options.series.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"--series {options.series!r} must be COLUMN[,COLUMN], each once, or none: one series"
        )
    return names


def pairs(option: str, given: list[str]) -> dict[str, str]:
    """NAME=VALUE of an option that may be given several times, each NAME once."""
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            form = {
                "column": "OURS=THEIRS, e.g. n_params=params",
                "where": "COLUMN=VALUE[,VALUE]",
                "unit": "OURS=UNIT, e.g. budget=GFLOP",
            }
            raise ValueError(f"--{option} {pair!r} must be {form[option]}")
        if name in found:
            both = f"give {name}={found[name]},{value}"
            remedy = both if option == "where" else "give one"
            raise ValueError(f"--{option} {name} is given twice; {remedy}")
        found[name] = value
    return found


_QUOTED = r"'[^']*'|\"[^\"]*\""
_PAIR = rf"'[\w.]+': (?:{_QUOTED})"
_PAIRS = re.compile(rf"\b(columns|units)=\{{({_PAIR}(?:, {_PAIR})*)\}}")
_OPTIONS = {"columns": "--column", "units": "--unit"}
_STARTS = ("where: ", "series: ", "separator ", "budgets: ")


def as_typed(text: str) -> str:
    """A message with the names of options instead of Python's arguments of the same meaning."""
    text = _PAIRS.sub(_typed_pairs, text)
    text = re.sub(r"\bseries=\[(.*?)\]", _typed_series, text)
    text = re.sub(r"\bwhere=\{'(.+?)': \[(.*?)\]\}", r"--where \1=\2", text)
    text = re.sub(r"^(\w+)=\[?'?(.+?)'?\]? is not (registered|what)", r"--\1 \2 is not \3", text)
    text = f"--{text}" if text.startswith(_STARTS) else text
    text = re.sub(r"^groups has ", "--cluster has ", text)
    text = re.sub(r"^(column|unit)s: ", r"--\1: ", text)
    text = re.sub(r"\bbudgets=\[(.*?)\]", r"--budgets \1", text)
    text = text.replace("budget_tolerance=", "--budget-tolerance ")
    text = re.sub(r"\bseparator='(\w+)'", r"--separator \1", text)
    text = re.sub(r"\bcluster=(\w+)", r"--cluster \1", text)
    text = re.sub(r"\bbatch='(.+?)'", r"--batch \1", text)
    return text.replace("flops='6nd'", "--flops 6nd").replace("with model=", "with --model")


def _typed_pairs(found: re.Match[str]) -> str:
    words = [word[1:-1] for word in re.findall(_QUOTED, found[2])]
    pairs = zip(words[::2], words[1::2], strict=True)
    return " ".join(f"{_OPTIONS[found[1]]} {ours}={_word(theirs)}" for ours, theirs in pairs)


def _typed_series(found: re.Match[str]) -> str:
    names = [name[1:-1] for name in re.findall(_QUOTED, found[1])]
    return f"--series {_word(','.join(names)) if names else 'none'}"


def _word(text: str) -> str:
    return text if re.fullmatch(r"[\w.,/-]+", text) else repr(text)

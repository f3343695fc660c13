"""Options as they are written down, and checks of what was typed: each error is one line."""

import argparse
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

from analysis.fitting.checks import LEVELS
from analysis.settings import NOT_SAID
from analysis.table.budgets import TOLERANCE
from analysis.table.checks import MAX_LOSS
from analysis.table.csv_file import parse_separator
from analysis.table.units import parse_unit

_MAX_DRAWS = 100_000
_RESULTS = ("loss", "perplexity", "bits_per_byte", "train_loss")  # of runs


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


def file_or_part(text: str) -> Path:
    """FILE or FILE:PART of a file that is there; the colon may be the file's own."""
    path = named_path(text)
    file = text.rpartition(":")[0]
    if not path.is_file() and not (file and Path(file).is_file()):
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


class Word(NamedTuple):
    """A value by its word: how it is read, and what each number of it must be."""

    read: Callable[[str], Any]
    fits: Callable[[float], bool] = lambda _: True
    rule: str = ""


def _above_0(value: float) -> bool:
    return math.isfinite(value) and value > 0


_NATS = f"must be a finite number of nats above 0, and {MAX_LOSS:g} at most, which no loss exceeds"
_NATS_OR_0 = "must be a finite number of nats, 0 or more, and below every loss"
_LEVEL = "must be between 0 and 1, e.g. 0.95, and 1e-9 from both at least"
_DRAWS = f"must be 2 to {_MAX_DRAWS}: intervals are percentiles of the draws"
_WORDS = {  # a value of any other word is a text
    "FLOPS": Word(float, _above_0, "must be a finite number of FLOPs above 0"),
    "TOKENS": Word(float, _above_0, "must be a finite number of tokens above 0"),
    "NATS": Word(float, lambda value: 0 < value <= MAX_LOSS, _NATS),
    "NATS[,NATS]": Word(number_or_range, lambda value: 0 <= value < math.inf, _NATS_OR_0),
    "BITS": Word(float, math.isfinite, "must be a finite number of bits/byte"),
    "STEPS": Word(float, lambda value: value >= 0, "must be 0 or more steps"),
    "LEVEL": Word(float, lambda value: LEVELS[0] <= value <= LEVELS[1], _LEVEL),
    "DELTA": Word(float, lambda value: value > 0, "must be above 0; inf is least squares"),
    "N": Word(int, lambda value: value >= 3, "must be 3 or more: a parabola has 3 parameters"),
    "SEEDS": Word(int, lambda value: value >= 2, "must be 2 or more: one seed has no scatter"),
    "DRAWS": Word(int, lambda value: 2 <= value <= _MAX_DRAWS, _DRAWS),
    **dict.fromkeys(("DIR", "FILE", "YAML"), Word(named_path)),
    "REGISTRATION": Word(named_file),
    "JSON[:LAW]": Word(file_or_part),
}


class Option(NamedTuple):
    """An option as it is declared. value: its word, "" of a switch; many: it may be repeated."""

    flag: str
    dest: str
    value: str
    default: str | None
    many: bool
    can_be_off: bool
    help: str

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        more: dict[str, Any] = {"dest": self.dest, "help": self.help}
        if not self.value:
            switch = argparse.BooleanOptionalAction if self.can_be_off else "store_true"
            parser.add_argument(self.flag, action=switch, **more)
            return
        if self.value[0] == "{":
            more |= {"choices": self.value[1:-1].split(",")}
        else:
            more |= {"metavar": self.value, "type": _WORDS.get(self.value, Word(str)).read}
        more |= {"action": "append", "default": []} if self.many else {"default": self.default}
        parser.add_argument(self.flag, **more)

    def check(self, value: Any) -> None:
        """Raises ValueError for the first number out of range, and for an empty text."""
        word = _WORDS.get(self.value)
        for number in value if isinstance(value, tuple | list) else [value]:
            if word is not None and number is not None and not word.fits(number):
                raise ValueError(f"{self.flag} {_word(number)} {word.rule}")
        if value == "":
            raise ValueError(f"{self.flag} is empty; give a value, or leave it out")


_DECLARED = re.compile(
    r"--(?P<no>\[no-\])?(?P<name>[\w-]+)(:(?P<dest>\w+))?(=(?P<default>\S+))?"
    r"( (?P<value>\S+?)(?P<many>\.\.\.)?)?  +(?P<help>.+)"
)


def read_options(text: str) -> list[Option]:
    """Options as they are written down, e.g. "--draws=500 DRAWS  of the bootstrap".

    The value's word says its type and range, {a,b} is a choice, none a switch; ... after it:
    repeatable; :name: the field, if it has another. Help may go on below.
    """
    found = []
    for entry in filter(None, re.split(r"\n(?=--)", text.strip())):
        said = _DECLARED.fullmatch(" ".join(entry.split("\n")))
        assert said, f"no option: {entry}"
        option = Option(
            flag=f"--{said['name']}",
            dest=said["dest"] or said["name"].replace("-", "_"),
            value=said["value"] or "",
            default=said["default"],
            many=bool(said["many"]),
            can_be_off=bool(said["no"]),
            help=re.sub(" +", " ", said["help"]).strip(),
        )
        found.append(option)
    return found


def declare(parser: argparse._ActionsContainer, text: str) -> None:
    """Add options as read_options reads them."""
    for option in read_options(text):
        option.add_to(parser)


def declared(options: argparse.Namespace) -> list[Option]:
    """Options of the command that was typed."""
    command = options.chosen
    return read_options("\n".join([SHARED, command.options, *command.groups.values()]))


def given(options: argparse.Namespace, function: Callable[..., Any]) -> dict[str, Any]:
    """Arguments of a function that are options of the same names.

    An option that was not typed leaves the function's own default.
    """
    found = {}
    for name, parameter in signature(function).parameters.items():
        value = getattr(options, name, None)
        if name in options and (value is not None or parameter.default is Parameter.empty):
            found[name] = value
    return found


def one_of(names: Iterable[str]) -> str:
    return f"{{{','.join(names)}}}"


# Options of every command
SHARED = f"""
--json  print the result as JSON instead
--out DIR  where files go (default: the sweep's folder)
--where COLUMN=VALUE[,VALUE]...  only the runs that have it, e.g. query_norm=batch; repeatable
--series COLUMN[,COLUMN]  whose values name a curve (default: the model and what varies in its
    layer); none: all runs are one
--table SETTING=VALUE...  how a foreign table is read; repeatable. column.OURS=THEIRS: its name for
    one of our columns, e.g. column.n_params=params; unit.OURS=UNIT: what a column's numbers are in,
    e.g. unit.budget=GFLOP, unit.n_tokens=B, unit.loss=bit/byte, or a factor; separator=MARK: of a
    CSV, comma, semicolon, tab, pipe or a mark; budgets=FLOPS[,FLOPS]: the budgets that runs belong
    to, each to the nearest within budget_tolerance=SHARE ({TOLERANCE}; 0 keeps all values apart, as
    those of a sweep's folder, where they are planned); flops=6nd: take C = 6ND where it has only
    two of them, wrong where attention or the vocabulary dominates
"""
# Settings of --table, each a field of the options once they are checked
_NESTED = ("column", "unit")  # these are NAME.COLUMN=VALUE
_OF_TABLES = (*_NESTED, "separator", "budgets", "budget_tolerance", "flops")
_RULES: dict[str, tuple[Callable[[list[float]], bool], str]] = {
    "budgets": (lambda of: all(map(_above_0, of)), "numbers of FLOPs above 0, e.g. 6e18,1e19"),
    "budget_tolerance": (lambda of: len(of) == 1 and 0 <= of[0] < 0.5, "0 or more, and below 0.5"),
}
_TYPED = {"columns": "column", "units": "unit", "groups": "cluster"}  # arguments -> as typed


def check_options(options: argparse.Namespace) -> None:
    """Choose what was asked of the command. Raises ValueError for the first number out of range,
    empty text, pair that is none, question that has no such option, or two that don't go together.
    """
    _check_values(options)
    options.chosen.choose(options)
    _check_unused(options)
    options.chosen.check(options)


def _check_values(options: argparse.Namespace) -> None:
    for option in declared(options):
        option.check(getattr(options, option.dest))
    if getattr(options, "cluster", None) in _RESULTS:
        raise ValueError(
            f"--cluster {options.cluster} is what is fitted; name what rows of one run share, e.g. "
            "run_id"
        )
    pairs("where", options.where)
    vars(options).update(_settings(vars(options).pop("table")))


def _check_unused(options: argparse.Namespace) -> None:
    command = options.chosen
    reads = f"is not for {options.command}, which reads {command.reads}"
    for option in declared(options):
        if getattr(options, option.dest, None) and option.dest in command.unused:
            raise ValueError(f"{option.flag} {reads}")
    for name in _OF_TABLES:
        if getattr(options, name) and name in command.unused:
            raise ValueError(f"--table {name} {reads}")
    if choose_series(options) is not None and command.by_model:
        raise ValueError(
            f"--series is not for {options.command}, which compares models; "
            "--table column.model=COLUMN says what they are"
        )


def _settings(typed: Sequence[str]) -> dict[str, Any]:
    """Name -> value of each setting of --table. Raises ValueError for one that can't be."""
    found: dict[str, Any] = {name: [] if name in _NESTED else None for name in _OF_TABLES}
    for text in typed:
        key, _, value = text.partition("=")
        name, _, column = key.partition(".")
        if not (value and name in found and bool(column) == (name in _NESTED)):
            raise ValueError(
                f"--table {text} must be column.OURS=THEIRS, unit.OURS=UNIT, or NAME=VALUE with "
                f"one of {', '.join(_OF_TABLES[2:])}"
            )
        if column:
            found[name].append(f"{column}={value}")
        elif found[name] is not None:
            raise ValueError(f"--table {name} is given twice; give one")
        else:
            found[name] = value
    pairs("column", found["column"])
    for column, unit in pairs("unit", found["unit"]).items():
        parse_unit(column, unit)
    for name, (fits, rule) in _RULES.items():
        if found[name] is not None and not fits(_floats(found[name])):
            raise ValueError(f"--table {name}={found[name]} must be {rule}")
    if found["budget_tolerance"] is not None:
        found["budget_tolerance"] = float(found["budget_tolerance"])
    if found["flops"] not in (None, "6nd"):
        raise ValueError(f"--table flops={found['flops']} must be 6nd, or left out")
    if found["separator"] is not None:
        parse_separator(found["separator"])
    return found


def _floats(text: str) -> list[float]:
    """Numbers with commas between them; NaN where one is none."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return [math.nan]


def parse_budgets(options: argparse.Namespace) -> list[float] | None:
    """FLOPs of --table budgets; None without it."""
    return None if options.budgets is None else _floats(options.budgets)


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


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE of an option that may be given several times, each NAME once."""
    found: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise ValueError(f"--{option} {pair!r} must be COLUMN=VALUE[,VALUE]")
        if name in found:
            both = f"give {name}={found[name]},{value}"
            said = f"--{option} {name}" if option == "where" else f"--table {option}.{name}"
            raise ValueError(f"{said} is given twice; {both if option == 'where' else 'give one'}")
        found[name] = value
    return found


def as_option(declared: Iterable[Option], name: str, value: object) -> str:
    """A setting as it is typed, e.g. "--series a,b"; name: the argument's, as in Python."""
    name = _TYPED.get(name, name)
    if name in _OF_TABLES:
        if isinstance(value, Mapping):
            return " ".join(f"--table {name}.{ours}={_word(its)}" for ours, its in value.items())
        return f"--table {name}{_after('=', value)}"
    flag = next((option.flag for option in declared if option.dest == name), None)
    if flag is None:  # as in Python, where no option says it
        return name if value is NOT_SAID else f"{name}={value!r}"
    if isinstance(value, Mapping):
        return " ".join(f"{flag} {column}={_word(its)}" for column, its in value.items())
    return f"{flag}{_after(' ', value)}"


def _after(mark: str, value: object) -> str:
    return "" if value is NOT_SAID else f"{mark}{_word(value)}"


def _word(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_word, value)) or "none"
    return f"{value:g}".replace("e+", "e") if isinstance(value, float) else shlex.quote(str(value))

"""Values that a config's fields may take, declared with the field and checked wherever it is read:

    top_k: AtLeast1 = 16
    warmup: Annotated[float, Within(0, 1, below=True)]

Every number is finite and below 2**53 in size, whatever else is declared. Standard library only.
"""

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

_LARGEST = 2**53  # integers: products of a few of them are still finite as floats
_PLAIN = (int, float, str, bool)


class Rule(Protocol):
    """Rule for a value."""

    def broken(self, value: Any) -> str | None:
        """Rule in words ("must be at least 1") if the value breaks it."""
        ...


@dataclass(frozen=True)
class Within:
    """Numbers from low to high; above: not low itself; below: not high itself.

    why: a remark that goes with the rule.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False
    why: str = ""

    def broken(self, value: Any) -> str | None:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        if low and high:
            return None
        if not low and value < self.high:  # the bound that it misses is enough
            text = f"{'above' if self.above else 'at least'} {shown(self.low)}"
        else:
            text = f"{'below' if self.below else 'at most'} {shown(self.high)}"
        return f"must be {text}{self.why}"


@dataclass(frozen=True)
class Matches:
    """Texts that a pattern matches whole; `words` says which those are."""

    pattern: str
    words: str

    def broken(self, value: Any) -> str | None:
        return None if re.fullmatch(self.pattern, value) else f"must be {self.words}"


AtLeast1 = Annotated[int, Within(1)]
AtLeast0 = Annotated[int, Within(0)]
Processes = Annotated[int, Within(1, 4096)]
# factors and weights of terms: in float32 a sum with more than 1e12 has no digit of its other term
Positive = Annotated[float, Within(0, 1e12, above=True)]
NotNegative = Annotated[float, Within(0, 1e12)]
Fraction = Annotated[float, Within(0, 1)]
BelowOne = Annotated[float, Within(0, 1, below=True)]
Seed = Annotated[int, Within(0, 2**32 - 1)]  # what numpy's generators take
Path = Annotated[str, Matches(r"[^\x00-\x1f\x7f]*\S[^\x00-\x1f\x7f]*", "a path, and not empty")]
SweepName = Annotated[
    str,
    Matches(
        r"\w[\w.+=@-]{0,63}(/\w[\w.+=@-]{0,63})?",
        "a name, as demo, or one in a group, as study/demo: of letters, digits and _ . + = @ -, "
        "with a letter, digit or _ first, and of at most 64 characters",
    ),
]
ModelName = Annotated[str, Matches(r"[^\x00-\x1f\x7f-\x9f]{1,64}", "1 to 64 characters of text")]
Sha256 = Annotated[str, Matches("[0-9a-f]{64}", "64 hex digits, the sha256 of the file")]
KernelName = Literal["auto", "reference", "torch", "cpp", "triton"]
TagName = Annotated[
    str,
    Matches(
        r"[^\s,\x00-\x1f\x7f](?:[^,\x00-\x1f\x7f]{0,62}[^\s,\x00-\x1f\x7f])?",
        "a tag of at most 64 characters, without commas",
    ),
]
Requirement = Annotated[str, Matches(r"[\w.-]+==[\w.+!-]+", "name==version, as pip pins it")]
# W&B's own rule for projects; a user or team is a part of an address too
WandbName = Annotated[
    str,
    Matches(r"[^/\\#?%:\x00-\x1f]{1,128}", r"1 to 128 characters, none of / \ # ? % :, for W&B"),
]


def shown(value: Any) -> str:
    """A value as a user types it: null, true, 1e+40, 'text'."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"{str(value)[:20]}... ({len(str(value))} digits)"
    return repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)


def checked(value: Any, hint: Any, where: str) -> Any:
    """Value as the hint has it: an int given for a float becomes one, a list a tuple.

    Hints: plain types, Literal, tuple[T, ...] and Mapping[str, T], any of them in Annotated with
    rules or in a union with None; a plain type also with a Literal. Others pass. Raises ValueError
    with `where`, value and rule.
    """
    kinds = [_kind(option) for option in _options(hint)]
    nullable = any(kind is type(None) for kind, _ in kinds)
    if value is None and nullable:
        return None
    given, or_null = f"{where}={shown(value)}", ", or null" if nullable else ""
    kinds = [(kind, rules) for kind, rules in kinds if kind is not type(None)]
    kind, rules = next((k for k in kinds if _is_instance(value, k[0])), kinds[0])
    origin = typing.get_origin(kind)
    if origin is Literal:
        choices = typing.get_args(kind)
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            names = (c if isinstance(c, str) else shown(c) for c in choices)
            raise ValueError(f"{given} is not one of {', '.join(names)}{or_null}")
    elif kind in _PLAIN:
        value = _plain(value, [kind for kind, _ in kinds], given, or_null)
    elif origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{given} must be a list, as [a,b]{or_null}")
        inner = typing.get_args(kind)[0]
        value = tuple(checked(v, inner, f"{where}[{i}]") for i, v in enumerate(value))
    elif origin is Mapping and not isinstance(value, Mapping):
        raise ValueError(f"{given} must be a group of keys{or_null}")
    for rule in rules:
        if (words := rule.broken(value)) is not None:
            raise ValueError(f"{given} {words}{or_null}")
    if type(value) is int and abs(value) > _LARGEST:
        raise ValueError(f"{given} is too large: above 2**53")
    return value


def check_once(values: Sequence[Any], where: str) -> None:
    """Raises ValueError if one of these values occurs twice."""
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        named = twice if isinstance(twice, str) else shown(twice)
        raise ValueError(f"{where} names {named} twice; name it once")


def check_fields(instance: Any) -> None:
    """Raises ValueError for a field of a dataclass that breaks its declared rule."""
    cls: type = type(instance)
    for name, hint in read_hints(cls).items():
        if not dataclasses.is_dataclass(hint):
            checked(getattr(instance, name), hint, name)


@functools.cache
def read_hints(cls: type) -> dict[str, Any]:
    """Types of a dataclass's fields, with the rules declared in Annotated."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _options(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _kind(option: Any) -> tuple[Any, tuple[Rule, ...]]:
    if typing.get_origin(option) is Annotated:
        kind, *rules = typing.get_args(option)
        return kind, tuple(rules)
    return option, ()


def _is_instance(value: Any, kind: Any) -> bool:
    """Whether a union takes the value for one of this kind."""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    return type(value) is kind


def _plain(value: Any, kinds: list[Any], given: str, or_null: str) -> Any:
    if float in kinds and int not in kinds and type(value) is int and abs(value) < 10**300:
        value = float(value)
    if type(value) not in kinds:
        words = [kind.__name__ for kind in kinds if kind in _PLAIN]
        others = [shown(c) for k in kinds if k not in _PLAIN for c in typing.get_args(k)]
        names = ", or ".join([" or ".join(words), *others])
        remedy = ", in quotes" if names == "str" and type(value) in _PLAIN else ""
        if names == "int" and isinstance(value, float) and value.is_integer():
            remedy = f", without point or exponent: {shown(int(value))}"
        raise ValueError(f"{given} must be of type {names}{remedy}{or_null}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{given} must be a finite number{or_null}")
    return value

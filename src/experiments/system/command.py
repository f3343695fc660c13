"""Parts of all commands: exit codes, errors in one line, words and arguments. Quick to import."""

import argparse
import errno
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from experiments.config.hydra_hints import choice_names, unknown_key
from experiments.config.paths import conf_dir
from experiments.config.words import Words, asks_for, read_words
from experiments.system import interruption
from experiments.system.plain_text import printable, shortened, visible
from experiments.system.version import ShowVersion, install, version_line

_REMEDY = "correct the path, or name another (paths.results=... and paths.cache=... of runs)"
_REMEDIES = (
    ((errno.ENOSPC, errno.EDQUOT), "free some space, and run the same command again"),
    (
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "name a folder that you may write (paths.results=... and paths.cache=... of runs)",
    ),
    ((errno.ENAMETOOLONG,), "use a shorter name"),
    ((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    ((errno.ENOMEM,), "free some of the machine's memory"),
)
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_TRAIN = ("hydra", "omegaconf", "torch", "lightning", "wandb", "tokenizers")  # of pyproject's extra
_HYDRA_GRAMMAR = ("LexerNoViableAlt", "mismatched input", "extraneous input")
_HYDRA_NOISE = ("To append to your config", "full_key", "object_type", "reference_type")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors into one line on stderr and an exit code."""
    with visible():
        yield from _explained()


def _explained() -> Iterator[None]:
    try:
        try:
            with interruption.bounded(INTERRUPTED):
                yield
        finally:
            interruption.ending()
    except KeyboardInterrupt:
        then = "; the same command goes on from the last checkpoints"
        print(f"interrupted{then if interruption.has_begun() else ''}", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:  # `status | head`: the reader has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"error: {printable(shortened(one_line(error)))}", file=sys.stderr)
        raise SystemExit(code) from None


@contextmanager
def needs_train() -> Iterator[None]:
    """Around a command's imports: one line and FAILED where a package of [train] is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if _lacking(error) is None:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(FAILED) from None


def _exit_code(error: Exception) -> int | None:
    """None for a fault of this program: its traceback is shown."""
    if isinstance(error, (ValueError, *_config_errors())):
        return BAD_INPUT
    # what a machine, a disk or a network denies
    denied = isinstance(error, (RuntimeError, OSError, MemoryError)) or _lacking(error) is not None
    return FAILED if denied else None


def _lacking(error: BaseException) -> str | None:
    """Package of the extra [train] that is not installed, if that is the error."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    package = (name or "").partition(".")[0]
    return package if package in _TRAIN else None


def _config_errors() -> tuple[type[Exception], ...]:
    """Base classes of Hydra's and OmegaConf's errors, if anything has imported them."""
    names = (
        ("hydra.errors", "HydraException"),
        ("omegaconf.errors", "OmegaConfBaseException"),
        ("yaml", "YAMLError"),
    )
    return tuple(getattr(sys.modules[m], name) for m, name in names if m in sys.modules)


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without Hydra's advice to append unknown keys."""
    if isinstance(error, OSError) and not isinstance(error, (ValueError, *_config_errors())):
        return _denied(error)
    if isinstance(error, MemoryError):
        return "out of memory; lower n_experts, size or workers, or free some of the machine's"
    if (package := _lacking(error)) is not None:
        return f"{package} is not installed, which this command needs: {install('train')}"
    if (mark := getattr(error, "problem_mark", None)) is not None:  # of yaml
        problem = getattr(error, "problem", None) or "not YAML"
        return f"{mark.name}, line {mark.line + 1}: {problem}; correct the file"
    cause = str(getattr(error.__cause__, "strerror", None) or error.__cause__ or "")
    text = str(error) if cause in str(error) else f"{error}\n{cause}"
    lines = [line.strip() for line in text.partition("Config search path")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith(_HYDRA_NOISE)]
    if (key := unknown_key(text)) is not None:
        return f"{key}: unknown key"
    if "Cannot merge DictConfig with ListConfig" in text:
        return f"{lines[0].removeprefix('Error merging override ')} must be a list, as [a,b]"
    given = getattr(error, "override", None) or ""
    name, _, value = given.partition("=")
    if given and any(words in text for words in _HYDRA_GRAMMAR):
        return f"{given}: Hydra accepts such characters only in quotes; type '{name}=\"{value}\"'"
    missing = re.search(r"Missing mandatory value: (\S+)", text)
    if missing:
        return f"{missing[1]} is not set; give {missing[1]}=..."
    return "; ".join(dict.fromkeys(kept)) + _known_choices(text)


def _denied(error: OSError) -> str:
    """Message of a refusal by the system: path, reason and remedy."""
    remedy = next((text for numbers, text in _REMEDIES if error.errno in numbers), _REMEDY)
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    place = f"{' -> '.join(names)}: " if names else ""
    return f"{place}{(error.strerror or str(error)).lower()}; {remedy}"


def _known_choices(text: str) -> str:
    """Choices of a group, where Hydra names a missing one without them."""
    missing = re.search(r"Could not load '([\w/]+)/[^'/]*'", text)
    if missing is None or not (conf_dir() / missing[1]).is_dir():
        return ""
    return " It has " + ", ".join(choice_names(missing[1]))


def run_words(
    usage: Callable[[], str],
    run: Callable[[Words], None],
    *,
    keys: Collection[str] = (),
    nodes: Collection[str] = (),
    given: Sequence[str] | None = None,
) -> None:
    """A command of words (config/words.py): its usage for --help or no word at all, the versions
    for --version, else what it does with them. given: the words, if not all of the command line.
    """
    given = sys.argv[1:] if given is None else given
    with exit_codes():
        if asks_for(given, "-h", "--help") or not given:
            print(usage())
        elif asks_for(given, "--version"):
            print(version_line())
        else:
            run(read_words(given, keys=keys, nodes=nodes))


class Parser(argparse.ArgumentParser):
    """Errors are one line, as all others of the commands are; and --version. prog: as it is typed,
    `python -m experiments.NAME`, or the script's name.
    """

    def __init__(self, **settings: Any) -> None:
        called = Path(sys.argv[0])
        typed = f"python -m experiments.{called.stem}" if called.suffix == ".py" else called.name
        super().__init__(**{"prog": typed, **settings})
        self.add_argument("--version", action=ShowVersion)

    def error(self, message: str) -> NoReturn:
        print(
            f"error: {printable(shortened(message))}; --help lists the arguments", file=sys.stderr
        )
        raise SystemExit(BAD_INPUT)


def at_least(
    low: float, of: type[int] | type[float] = int, most: float = math.inf
) -> Callable[[str], float]:
    """Type of an argument: numbers from `low` on, to `most`; of=float: fractions, and inf if
    there is no other most.
    """

    def number(text: str) -> float:
        try:
            value = of(text)
        except ValueError:
            kind = "a whole number" if of is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {kind}") from None
        if not value >= low:
            raise argparse.ArgumentTypeError(f"{text} must be at least {low:g}")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} must be at most {most:g}")
        return value

    return number

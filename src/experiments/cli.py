"""What the commands share: exit codes, errors in one line, how a sweep is named, plain configs.

Quick to import: Hydra, torch and Lightning are for those commands that need them.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.paths import conf_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_HYDRA_NOISE = ("To append to your config", "full_key", "object_type", "reference_type")


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors into one line on stderr and an exit code."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(code) from None


def _exit_code(error: Exception) -> int | None:
    """None for what is our own fault: its traceback is shown."""
    if isinstance(error, (ValueError, *_config_errors())):
        return BAD_INPUT
    # what a machine, a disk or a network denies
    return FAILED if isinstance(error, RuntimeError) else None


def _config_errors() -> tuple[type[Exception], ...]:
    """The base classes of Hydra's and OmegaConf's errors, if anything has imported them."""
    names = (("hydra.errors", "HydraException"), ("omegaconf.errors", "OmegaConfBaseException"))
    return tuple(getattr(sys.modules[m], name) for m, name in names if m in sys.modules)


def one_line(error: BaseException) -> str:
    """An exception's message on one line, without Hydra's advice to append unknown keys."""
    cause = str(error.__cause__ or "")
    text = str(error) if cause in str(error) else f"{error}\n{cause}"
    lines = [line.strip() for line in text.partition("Config search path")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith(_HYDRA_NOISE)]
    missing = re.search(r"Missing mandatory value: (\S+)", text)
    if missing:
        return f"{missing[1]} is not set; give {missing[1]}=..."
    return "; ".join(dict.fromkeys(kept)) + _known_choices(text)


def _known_choices(text: str) -> str:
    """The choices of a group, where Hydra names a missing one without them."""
    missing = re.search(r"Could not load '([\w/]+)/[^'/]*'", text)
    folder = conf_dir() / missing[1] if missing else None
    if folder is None or not folder.is_dir():
        return ""
    return " It has " + ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))


def resolve(composed: "DictConfig") -> dict[str, Any]:
    """A composed config (with its hydra node) as plain values, and the name of its model."""
    from omegaconf import OmegaConf

    plain = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
    raw = OmegaConf.to_container(plain, resolve=True)
    assert isinstance(raw, dict)
    model_name = OmegaConf.select(composed, "hydra.runtime.choices.model")
    return {"model_name": model_name, **{str(k): v for k, v in raw.items()}}


def sweep_argument(parser: argparse.ArgumentParser) -> None:
    """The arguments by which every command of a finished or running sweep names it."""
    parser.add_argument("sweep", help="a sweep's name, or its folder")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="where sweeps are (default: results)"
    )


def sweep_folder(options: argparse.Namespace) -> Path:
    """The folder that the arguments name. Raises ValueError if it is no sweep's."""
    from experiments.sweep.manifest import MANIFEST_NAME

    named = Path(options.sweep)
    if (named / MANIFEST_NAME).exists():
        return named
    folder: Path = options.results / options.sweep
    if (folder / MANIFEST_NAME).exists():
        return folder
    depths = (f"*/{MANIFEST_NAME}", f"*/*/{MANIFEST_NAME}")  # a sweep's name may be group/name
    found = [path.parent for depth in depths for path in options.results.glob(depth)]
    known = sorted(str(folder.relative_to(options.results)) for folder in found)
    raise ValueError(
        f"no sweep {options.sweep!r} in {options.results}; it has {', '.join(known) or 'none'}"
    )

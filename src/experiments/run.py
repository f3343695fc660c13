"""The only entry to training: `python -m experiments.run model=peer size=4 budget=1e12`.

Composes with Hydra, plans, trains, records. With -m and comma lists: a sweep. Bad input ends
with one line and exit code 2, before anything is written; a failed run with exit code 1.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.paths import conf_dir

BAD_INPUT = 2
INTERRUPTED = 130
_HYDRA_NOISE = ("To append to your config", "full_key", "object_type", "reference_type")


def resolve(composed: DictConfig) -> dict[str, Any]:
    """A composed config (with its hydra node) as plain values, and the name of its model."""
    plain = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
    raw = OmegaConf.to_container(plain, resolve=True)
    assert isinstance(raw, dict)
    model_name = OmegaConf.select(composed, "hydra.runtime.choices.model")
    return {"model_name": model_name, **{str(k): v for k, v in raw.items()}}


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def _run(config: DictConfig) -> None:
    with exit_codes():  # here, not only in main: Hydra would print a line of its own first
        from experiments.sweep.local import run_one

        composed = OmegaConf.merge({"hydra": HydraConfig.get()}, config)
        assert isinstance(composed, DictConfig)
        run_one(resolve(composed))


def main() -> None:
    """The console script's entry. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand errors to us instead of printing and exiting 1
    # argparse, below Hydra, refuses a flag between overrides
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))
    with exit_codes():
        _run()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors into one line on stderr and an exit code."""
    try:
        yield
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(BAD_INPUT) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoints", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except RuntimeError as error:  # what a machine or a network denies, e.g. a download
        print(f"error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(1) from None


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


if __name__ == "__main__":
    main()

"""Arguments that several benchmarks have: sizes and settings of a comparison, overrides."""

import json
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks.core.machine import ALLOCATORS, KERNELS, usable_kernels
from experiments.benchmarks.core.shapes import Settings, Shape
from experiments.config.constraints import check_once
from experiments.config.trainer import spelled
from experiments.config.words import split_pairs
from experiments.system.command import at_least
from experiments.system.disk import check_file
from experiments.system.schemas import with_schema

GRID = "16384,65536,262144,1048576"  # 128² to 1024²
# instead of a comparison's usual sizes
ON_GPU = {"d": "1024", "tokens": "16384", "d_key": "128"}  # the shape of the goals for an H100
QUICK = {"d": "64", "n_experts": "4096", "tokens": "256", "d_key": "64", "rounds": 3}
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_SIZES = {
    "d": "width of the model",
    "n-experts": "rows of a table, a square",
    "tokens": "tokens of a batch",
}


def takes_overrides(parser: ArgumentParser) -> None:
    """Declares that the words besides its options are overrides of experiments.run."""
    parser.usage = f"{parser.prog} [options] [KEY=VALUE ...]"
    parser.set_defaults(overrides=[])


def read_overrides(words: Sequence[str]) -> list[str]:
    """Returns the words. Raises ValueError for one that is none of experiments.run's overrides."""
    for word in split_pairs(words)[1]:
        if not word.startswith("~"):
            raise ValueError(f"{word}: no option, and no override as size=2; --help shows both")
    return list(words)


def add_comparison(
    parser: ArgumentParser,
    usual: Mapping[str, Any],
    *,
    on_gpu: Mapping[str, Any] = ON_GPU,
    quick: Mapping[str, Any] = QUICK,
    kernels: str = "{},torch",
) -> None:
    """Sizes and settings, with a comparison's own defaults of them; kernels: {} is the fast one."""
    parser.set_defaults(usual=usual, on_gpu=on_gpu, small=quick, usual_kernels=kernels)
    for option, what in _SIZES.items():
        default = usual[option.replace("-", "_")]
        parser.add_argument(f"--{option}", metavar="N,...", help=f"{what} (default {default})")
    parser.add_argument("--heads", type=at_least(1), default=8, help="(default 8)")
    parser.add_argument("--top-k", type=at_least(1), default=16, help="experts a head (default 16)")
    key = f"width of a query, both halves (default {usual.get('d_key', 'that of --d')})"
    parser.add_argument("--d-key", metavar="N,...", help=key)
    parser.add_argument("--quick", action="store_true", help="small defaults, seconds")
    parser.add_argument("--rounds", type=at_least(1), help="of one repeat each (default 7)")
    default = f"{kernels.format('cpp')} ({kernels.format('triton')} on a GPU)"
    parser.add_argument(
        "--kernels", metavar="NAME,...", help=f"ours: {', '.join(KERNELS)} (default {default})"
    )
    parser.add_argument("--device", type=spelled, choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--table-dtype", choices=tuple(_TYPES), default="fp32", help="of expert tables"
    )
    allocators = "; ".join(f"{key}: {text}" for key, text in ALLOCATORS.items())
    parser.add_argument(
        "--allocator",
        choices=(*ALLOCATORS, "both"),
        default="both",
        help=f"{allocators}; both (the default): default, then thp. Of CPUs",
    )
    parser.add_argument(
        "--threads", type=at_least(1), help="(default: the cores this process may use)"
    )
    add_json(parser)
    parser.add_argument("--part", help=SUPPRESS)  # the allocator that this process has


def read_comparison(options: Namespace) -> tuple[tuple[Shape, ...], Settings, list[str]]:
    """All combinations of sizes, the settings, and a line about each kernel that is not available.

    Fills in the defaults, which depend on --quick and on the device. Raises ValueError.
    """
    defaults = {"rounds": 7, **options.usual}
    if options.device == "cuda":
        defaults |= options.on_gpu
        options.allocator = "default"  # a GPU's memory is not malloc's
    if options.quick:
        defaults |= options.small
    if options.d is not None:  # its own width is then the better guess
        defaults.pop("d_key", None)
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    settings, notes = _settings(options)
    check_json(options)
    return _shapes(options), settings, notes


def _settings(options: Namespace) -> tuple[Settings, list[str]]:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no GPU; use cpu")
    names = options.kernels
    if names is None:
        names = options.usual_kernels.format("triton" if options.device == "cuda" else "cpp")
    dtype = _TYPES[options.table_dtype]
    kernels, notes = usable_kernels(tuple(names.split(",")), options.device, dtype)
    settings = Settings(
        device=options.device,
        rounds=options.rounds,
        kernels=tuple(kernels),
        huge_pages=options.device == "cpu",
        table_dtype=dtype,
    )
    return settings, notes


def _shapes(options: Namespace) -> tuple[Shape, ...]:
    keys: tuple[int | None, ...] = (None,)
    if options.d_key is not None:
        keys = parse_numbers("--d-key", options.d_key)
    lists = (("--d", options.d), ("--n-experts", options.n_experts), ("--tokens", options.tokens))
    return tuple(
        Shape(
            d_model=d,
            n_experts=n,
            n_tokens=t,
            n_heads=options.heads,
            top_k=options.top_k,
            d_key=d_key or d,
        )
        for d_key in keys
        for d, n, t in product(*(parse_numbers(*each) for each in lists))
    )


def add_json(parser: ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="every repeat, unrounded")


def check_json(options: Namespace) -> None:
    """Raises ValueError or RuntimeError for a file that could not be written at the end."""
    if options.json is not None:
        check_file(options.json, "--json")


def save_json(options: Namespace, values: Mapping[str, Any]) -> None:
    """Writes what was measured to the file of --json, if one was asked for."""
    if options.json is not None:
        found = with_schema(f"bench-{options.words[0]}", values)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def parse_numbers(option: str, text: str) -> tuple[int, ...]:
    """'32,64'. Raises ValueError, which names the option, unless each is 1 or more."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r} must be whole numbers with commas between") from None
    if min(found) < 1:
        raise ValueError(f"{option} {text}: {min(found)} must be at least 1")
    check_once(found, f"{option} {text}")
    return found

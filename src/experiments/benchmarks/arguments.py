"""The command line of the benchmarks."""

from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from experiments.benchmarks.machine import ALLOCATORS, KERNELS, usable_kernels
from experiments.benchmarks.shapes import Settings, Shape, shapes
from experiments.system.version import ShowVersion

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_GRID = "16384,65536,262144,1048576"  # 128² to 1024²
_MEASUREMENTS = {
    "layer": "forward + backward of one feed-forward layer, ours and PyPI's, against the floor",
    "step": "a whole training step of a decoder, dense and with a PEER layer in the middle",
    "optimizer": "one AdamW step of a table: all of it, or its retrieved rows",
    "retrieval": "the search for product keys, forward and forward + backward",
}
OTHERS = {  # modules of experiments.benchmarks
    "data": "the loader alone against training steps; takes overrides of experiments.run",
    "status": "how long status, collect and analyses of a sweep of 10,000 points take",
    "neurons": "how few hidden units of a trained layer a token needs; takes overrides",
    "adapters": "a token's cost beside a library of adapters, and beside peft's ways",
    "coordinates": "sizes of outputs over widths (docs/parametrization.md); takes overrides",
}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "layer": {"d": "256,512", "n_experts": _GRID, "tokens": "1024,4096"},
    "step": {"d": "256", "n_experts": "1048576", "tokens": "4096", "d_key": "256,32"},
    "optimizer": {"d": "256", "n_experts": "1048576", "tokens": "1024,4096"},
    "retrieval": {"d": "256", "n_experts": _GRID, "tokens": "1024,4096"},
}
_STEP_DEFAULTS = {"layers": 6, "vocab": 8192, "seq_len": 256}
_GPU = {"d": "1024", "tokens": "16384", "d_key": "128"}  # the shape of the goals for an H100
_QUICK = {"d": "64", "n_experts": "4096", "tokens": "256", "d_key": "64", "rounds": 3}
_QUICK_STEP = {"layers": 2, "vocab": 512, "seq_len": 64}
_ABOUT = """\
Contenders take turns, round after round, in one process; medians are printed, and each round's
ratio to the baseline, of which the median. A repeat during which other processes used the cores is
made again. Rivals: pip install -e '.[bench]'.

  python -m experiments.bench layer --quick
  python -m experiments.bench layer --d 256 --n-experts 1048576 --with-optimizer --memory
  python -m experiments.bench layer --device cuda --table-dtype bf16
  python -m experiments.bench data size=1
  python -m experiments.bench MEASUREMENT --help
"""


class Parser(ArgumentParser):
    """Errors are ValueErrors, which become one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; {self.prog} --help shows the options")


def parser() -> ArgumentParser:
    """One subcommand a measurement."""
    top = Parser(
        prog="python -m experiments.bench",
        description=_ABOUT,
        formatter_class=RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=ShowVersion)
    commands = top.add_subparsers(dest="what", required=True, metavar="MEASUREMENT")
    for name, about in _MEASUREMENTS.items():
        command = commands.add_parser(name, help=about, description=about)
        _add_sizes(command, name)
        if name == "layer":
            _add_layer(command)
        if name == "step":
            _add_step(command)
        _add_settings(command, name)
    for name, about in OTHERS.items():  # each has arguments of its own, read by its module
        commands.add_parser(name, help=about)
    return top


def read_overrides(what: str, description: str | None, words: Sequence[str]) -> list[str]:
    """The words of a measurement that takes experiments.run's overrides alone, or --help.

    Raises ValueError for a word that is no override.
    """
    reader = Parser(
        prog=f"python -m experiments.bench {what}",
        usage="%(prog)s [KEY=VALUE ...]",
        description=description,
        formatter_class=RawDescriptionHelpFormatter,
    )
    _, overrides = reader.parse_known_args(words)
    check_overrides(overrides)
    return overrides


def check_overrides(words: Sequence[str]) -> None:
    """Raises ValueError for a word that is none of experiments.run's overrides."""
    for word in words:
        if word.startswith("-") or ("=" not in word and not word.startswith("~")):
            raise ValueError(f"{word}: no option, and no override as size=2; --help shows both")


def _add_sizes(command: ArgumentParser, name: str) -> None:
    defaults = _DEFAULTS[name]
    for option, what in (
        ("d", "width of the model"),
        ("n-experts", "rows of a table, a square"),
        ("tokens", "tokens of a batch"),
    ):
        default = defaults[option.replace("-", "_")]
        command.add_argument(f"--{option}", metavar="N,...", help=f"{what} (default {default})")
    command.add_argument("--heads", type=int, default=8, help="(default 8)")
    command.add_argument("--top-k", type=int, default=16, help="experts a head (default 16)")
    key = f"width of a query, both halves (default {defaults.get('d_key', 'that of --d')})"
    command.add_argument("--d-key", metavar="N,...", help=key)
    command.add_argument("--quick", action="store_true", help="small defaults, seconds")


def _add_layer(command: ArgumentParser) -> None:
    flag = "store_true"
    command.add_argument(
        "--with-optimizer", action=flag, help="a second table, with AdamW of both expert tables"
    )
    command.add_argument(
        "--memory", action=flag, help="peak memory too, each contender in its own process"
    )
    command.add_argument("--memory-of", help=SUPPRESS)  # prints bytes: what such a process does


def _add_step(command: ArgumentParser) -> None:
    for option, default in _STEP_DEFAULTS.items():
        flag = f"--{option.replace('_', '-')}"
        command.add_argument(flag, type=int, metavar="N", help=f"(default {default})")
    command.add_argument(
        "--compile", action="store_true", help="each contender with torch.compile too (minutes)"
    )


def _add_settings(command: ArgumentParser, name: str) -> None:
    command.add_argument("--rounds", type=int, help="of one repeat each (default 7)")
    default = "cpp (triton on a GPU)" if name == "step" else "cpp,torch (triton,torch on a GPU)"
    command.add_argument(
        "--kernels", metavar="NAME,...", help=f"ours: {', '.join(KERNELS)} (default {default})"
    )
    command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    command.add_argument(
        "--table-dtype", choices=tuple(_TYPES), default="fp32", help="of expert tables"
    )
    allocators = "; ".join(f"{key}: {text}" for key, text in ALLOCATORS.items())
    command.add_argument(
        "--allocator",
        choices=(*ALLOCATORS, "both"),
        default="both",
        help=f"{allocators}; both (the default): default, then thp. Of CPUs",
    )
    command.add_argument("--threads", type=int, help="(default: the cores this process may use)")
    command.add_argument("--json", type=Path, metavar="FILE", help="every repeat, unrounded")
    command.add_argument("--part", help=SUPPRESS)  # the allocator that this process has


def fill(options: Namespace) -> None:
    """Defaults, which depend on the measurement, on --quick and on the device."""
    step = options.what == "step"
    defaults = {"rounds": 7, **_DEFAULTS[options.what], **(_STEP_DEFAULTS if step else {})}
    if options.device == "cuda":
        defaults |= {key: value for key, value in _GPU.items() if not step}
        options.allocator = "default"  # a GPU's memory is not malloc's
    if options.quick:
        defaults |= _QUICK | (_QUICK_STEP if step else {})
    if options.d is not None:  # its own width is then the better guess
        defaults.pop("d_key", None)
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)


def settings_of(options: Namespace) -> tuple[Settings, list[str]]:
    """The settings, and a line about each kernel that is not available. Raises ValueError."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch sees no GPU; use cpu")
    for name in ("rounds", "threads"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)} must be at least 1")
    ours = "triton" if options.device == "cuda" else "cpp"
    usual = ours if options.what == "step" else f"{ours},torch"
    names = usual if options.kernels is None else options.kernels
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


def shapes_of(options: Namespace) -> tuple[Shape, ...]:
    """All combinations of sizes. Raises ValueError for an impossible one."""
    d_keys = (None,) if options.d_key is None else numbers_of("--d-key", options.d_key)
    return tuple(
        shape
        for d_key in d_keys
        for shape in shapes(
            d_models=numbers_of("--d", options.d),
            n_experts=numbers_of("--n-experts", options.n_experts),
            n_tokens=numbers_of("--tokens", options.tokens),
            n_heads=options.heads,
            top_k=options.top_k,
            d_key=d_key,
        )
    )


def check_json(path: Path | None) -> None:
    """Raises ValueError for a file that could not be written at the end."""
    if path is not None and not path.parent.is_dir():
        raise ValueError(f"--json {path}: there is no folder {path.parent}")
    if path is not None and path.is_dir():
        raise ValueError(f"--json {path} is a folder; name a file")


def numbers_of(option: str, text: str) -> tuple[int, ...]:
    """'32,64'. Raises ValueError, which names the option, unless each is 1 or more."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} {text!r} must be whole numbers with commas between") from None
    if min(found) < 1:
        raise ValueError(f"{option} {text}: {min(found)} must be at least 1")
    return found

"""Wheels of what a bare machine lacks for the last part: `make gpu-wheels` (docs/gpu-check.md).

The harness's packages and what they need, at the versions of this environment, for another Python
and platform; without torch, triton and numpy, which such a machine has, and without W&B, which
logger=csv does not need. Beside them the training tokens, since the corpus needs the network.
"""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from experiments.gpu.harness import DATA
from experiments.gpu.parts.isoflop import OVERRIDES
from experiments.system.command import Parser, exit_codes
from experiments.system.disk import followed, make_folder, reached, remove, remove_tree

ROOTS = ("hydra-core", "omegaconf", "lightning", "tokenizers", "tqdm")
# such a machine's own, and what only fetches from the hub
PRESENT = frozenset({"torch", "triton", "numpy", "huggingface-hub", "typing-extensions"})
MOST_BYTES = 40 * 2**20  # wheels and tokens; a machine may take no more along
_GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)  # manylinux_2_N that wheels are tagged with


def main(arguments: Sequence[str] | None = None) -> None:
    """Exit code 1 if pip can't get one, or all are more than 40 MiB."""
    parser = Parser(prog="make gpu-wheels", description=__doc__)
    parser.add_argument("--python-version", default="3.12")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64")
    parser.add_argument("--out", type=Path, default=Path("wheels"))
    parser.add_argument("--without-tokens", action="store_true")
    options = parser.parse_args(arguments)
    with exit_codes():
        gather(options.out, options.python_version, options.platform)
        if not options.without_tokens:
            gather_tokens(options.out / "cache")
        report(options.out)


def packages(python_version: str) -> dict[str, str]:
    """name to version of ROOTS and all that they need there, as installed here."""
    found: dict[str, str] = {}
    todo = list(ROOTS)
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name in found or name in PRESENT:
            continue
        found[name] = importlib.metadata.version(name)
        todo += _needs(name, python_version)
    return dict(sorted(found.items()))


def _needs(name: str, python_version: str) -> Iterator[str]:
    """Names, without those of extras."""
    there = {"python_version": python_version, "platform_system": "Linux", "extra": ""}
    there |= {"sys_platform": "linux", "python_full_version": f"{python_version}.0"}
    for text in importlib.metadata.requires(name) or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(there):
            yield requirement.name


def platforms(platform: str) -> list[str]:
    """Tags that a machine of this one takes: pip matches each exactly.

    Raises ValueError for a tag that is not manylinux_2_N_ARCH.
    """
    head, _, rest = platform.partition("manylinux_2_")
    glibc, _, machine = rest.partition("_")
    if head or not glibc.isdigit() or not machine:
        raise ValueError(f"--platform {platform!r} must be manylinux_2_N_ARCH, as of x86_64")
    tags = [f"manylinux_2_{n}_{machine}" for n in _GLIBC if n <= int(glibc)]
    return list(dict.fromkeys([platform, *tags, f"manylinux2014_{machine}"]))


def gather(folder: Path, python_version: str, platform: str) -> None:
    """Downloads; makes a wheel of what exists as source alone and is pure Python."""
    tags = [word for tag in platforms(platform) for word in ("--platform", tag)]
    folder = followed(folder)
    make_folder(folder)
    for old in folder.glob("*.whl"):  # two versions of one would stop the whole installation
        remove(old)
    for name, version in packages(python_version).items():
        pin = f"{name}=={version}"
        common = ["--quiet", "--no-deps", "--disable-pip-version-check"]
        binary = ["--only-binary=:all:", "--python-version", python_version, *tags]
        binary += ["--implementation", "cp", "--dest", str(folder)]
        got = _pip("download", *common, *binary, pin)
        if got.returncode:
            got = _pip("wheel", *common, "--wheel-dir", str(folder), pin)
        start = f"{name.replace('-', '_')}-"
        wheels = [p for p in folder.glob("*.whl") if p.name.lower().startswith(start)]
        if got.returncode or not wheels:
            last = (got.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise RuntimeError(f"no wheel of {pin} for {python_version}, {platform}: {last}")


def _pip(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def gather_tokens(cache: Path) -> None:
    """Makes the tokens of the isoFLOP here, and copies them alone, not the corpus."""
    from hydra import compose, initialize_config_dir

    from experiments.config.composed import resolve
    from experiments.config.hydra_version import VERSION_BASE
    from experiments.config.paths import conf_dir
    from experiments.config.run_config import read_run_config
    from experiments.data.prepare import prepare_data

    with initialize_config_dir(str(conf_dir()), **VERSION_BASE):
        chosen = [word for word in (*DATA, *OVERRIDES) if not word.startswith("hydra.")]
        config = read_run_config(resolve(compose("config", chosen, return_hydra_config=True)))
    own = Path(config.paths.cache).expanduser()
    made = prepare_data(config.data, own)
    assert made.train is not None
    cache = reached(cache)
    remove_tree(cache)
    for folder in (made.vocabulary.folder, made.train.folder, made.validation.folder):
        shutil.copytree(folder, cache / folder.resolve().relative_to(own.resolve()))


def report(folder: Path) -> None:
    """Prints sizes. Raises RuntimeError if they are too large together."""
    sizes = {p.name: p.stat().st_size for p in sorted(folder.glob("*.whl"))}
    sizes["cache/"] = sum(p.stat().st_size for p in (folder / "cache").rglob("*") if p.is_file())
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total = sum(sizes.values())
    print(f"{total / 2**20:8.2f} MiB in all, of {MOST_BYTES / 2**20:.0f} at most")
    if total > MOST_BYTES:
        raise RuntimeError(f"{folder} holds more than {MOST_BYTES / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()

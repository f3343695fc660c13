"""Source of an export's layers: their own files, and the files that these import.

A folder of transformers' has no packages. So each file is copied under its last name, and its
imports of this package become `from .name import ...`, which is what transformers follows.
"""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# compiled kernels and operators of torch.library stay here
_IN_PLACE_OF = {
    "experiments.kernels.ops": "experiments.kernels.plain",
    "experiments.kernels.grouped": "experiments.kernels.plain",
    "experiments.kernels.mixture": "experiments.kernels.plain",
    "experiments.kernels.trunk": "experiments.kernels.plain",
    "experiments.kernels.product_key_layer": "experiments.kernels.plain",
}
_FROM = re.compile(r"^(\s*from )([\w.]+)(?= import\b)", re.MULTILINE)


def flat_sources(modules: Iterable[str]) -> dict[str, str]:
    """Files of a folder, by name, that hold these modules and all that they need of their packages.

    Raises ValueError for an import that can't become one of a file beside it, and for two modules
    of one last name.
    """
    waiting = list(modules)
    packages = {"experiments", *(name.partition(".")[0] for name in waiting)}
    found: dict[str, str] = {}
    texts: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        if module in found.values():
            continue
        name = _flat(module)
        if name in found:
            raise ValueError(
                f"{module} and {found[name]} would both be {name}.py of an export; rename one"
            )
        path = _path(module)
        text = path.read_text(encoding="utf-8")
        needed = {n: _IN_PLACE_OF.get(n, n) for n in _needed(text, path, packages)}
        found[name], texts[f"{name}.py"] = module, _rewritten(text, needed)
        waiting += needed.values()
    return texts


def format_table(targets: Iterable[str]) -> str:
    """File that gives an export's configs of parts by their names in config.json."""
    imports, rows = [], []
    for target in sorted(set(targets)):
        module, _, name = target.rpartition(".")
        own = f"{_flat(module)}_{name}"  # two layers' classes may have one name
        imports.append(f"from .{_flat(module)} import {name} as {own}")
        rows.append(f'    "{target}": {own},')
    lines = ['"""Parts of this model by their names in config.json."""', ""]
    return "\n".join([*lines, *imports, "", "CONFIGS = {", *rows, "}", ""])


def _flat(module: str) -> str:
    return module.rpartition(".")[2]


def _path(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"{module} has no source file, which an export would copy")
    return Path(spec.origin)


def _needed(text: str, path: Path, packages: Iterable[str]) -> Iterator[str]:
    """Modules of these packages that a file imports from."""
    for line, module, is_plain in _imports(text):
        if module.startswith(".") or module.partition(".")[0] in packages:
            if not is_plain or _path(module).name == "__init__.py":
                raise ValueError(
                    f"{path}, line {line}: an export can't copy this import; write it as "
                    "from package.module import name"
                )
            yield module


@functools.lru_cache(maxsize=64)
def _imports(text: str) -> tuple[tuple[int, str, bool], ...]:
    """Each import's line, its module, and whether it is `from package.module import name`."""
    found: list[tuple[int, str, bool]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.append((node.lineno, module, node.level == 0))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, False) for alias in node.names]
    return tuple(found)


def _rewritten(text: str, needed: Mapping[str, str]) -> str:
    def flat(match: re.Match[str]) -> str:
        start, name = match.groups()
        return f"{start}.{_flat(needed[name])}" if name in needed else match.group()

    return _FROM.sub(flat, text)

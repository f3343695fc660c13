"""Laws, forms and the like, each a file of a package: whoever puts one there has it found."""

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

_Kind = TypeVar("_Kind")


def find(package: str, path: Sequence[str], constant: str, kind: type[_Kind]) -> dict[str, _Kind]:
    """Constant of each file of a package, by the file's name and in the order of names. path: the
    package's __path__; kind: a class whose instances have a name.

    Raises ValueError for a file without such a constant of its own name.
    """
    found = {}
    for file in iter_modules(path):
        one = getattr(import_module(f"{package}.{file.name}"), constant, None)
        if not isinstance(one, kind) or getattr(one, "name", None) != file.name:
            raise ValueError(
                f"{package}.{file.name} needs {constant} = a {kind.__name__} with "
                f"name={file.name!r}"
            )
        found[file.name] = one
    return found

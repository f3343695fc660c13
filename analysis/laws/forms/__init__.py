"""Laws, one a file. A file here is found by itself: its LAW has the name of the file."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from analysis.laws.law import Law


def find_laws() -> dict[str, Law]:
    """Name -> law, in the order of their names.

    Raises ValueError for a file without a LAW of its name.
    """
    found = {}
    for file in iter_modules(__path__):
        law = getattr(import_module(f"{__name__}.{file.name}"), "LAW", None)
        if not isinstance(law, Law) or law.name != file.name:
            raise ValueError(f"{__name__}.{file.name} needs LAW = a Law with name={file.name!r}")
        found[file.name] = law
    return found


LAWS: Mapping[str, Law] = find_laws()
SURFACES = {name: law for name, law in LAWS.items() if law.of_size_and_tokens}
OF_EXPERTS = {name: law for name, law in LAWS.items() if name not in SURFACES}

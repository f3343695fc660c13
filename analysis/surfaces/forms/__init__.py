"""Forms, one a file. A file here is found by itself: its FORM has the name of the file."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules

from analysis.surfaces.form import Form


def find_forms() -> dict[str, Form]:
    """Name -> form, in the order of their names.

    Raises ValueError for a file without a FORM of its name.
    """
    found = {}
    for file in iter_modules(__path__):
        form = getattr(import_module(f"{__name__}.{file.name}"), "FORM", None)
        if not isinstance(form, Form) or form.name != file.name:
            raise ValueError(f"{__name__}.{file.name} needs FORM = a Form with name={file.name!r}")
        found[file.name] = form
    return found


FORMS: Mapping[str, Form] = find_forms()
SUBJECTS: tuple[str, ...] = tuple(sorted({form.subject for form in FORMS.values()}))

"""Forms, one a file. A file here is found by itself: its FORM has the name of the file."""

from collections.abc import Mapping

from analysis.one_a_file import find
from analysis.surfaces.form import Form

FORMS: Mapping[str, Form] = find(__name__, __path__, "FORM", Form)
SUBJECTS: tuple[str, ...] = tuple(sorted({form.subject for form in FORMS.values()}))

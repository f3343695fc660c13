"""Laws, one a file. A file here is found by itself: its LAW has the name of the file."""

from collections.abc import Mapping

from analysis.laws.law import Law
from analysis.one_a_file import find

LAWS: Mapping[str, Law] = find(__name__, __path__, "LAW", Law)
SURFACES = {name: law for name, law in LAWS.items() if law.of_size_and_tokens}
OF_EXPERTS = {name: law for name, law in LAWS.items() if name not in SURFACES}

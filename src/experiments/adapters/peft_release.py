"""peft, of the release that the tuner is written for; and PEER's place among its methods.

The other modules of the tuner take peft from here, so that a release that is missing or another
one is found before anything is asked of it.
"""

from typing import Any

from experiments.system.version import install

try:
    import peft
except ModuleNotFoundError as error:
    if error.name != "peft":
        raise
    raise ImportError(f"PEER as a peft adapter needs the package peft: {install('peft')}") from None

__all__ = ["added_type", "peft"]

# Saving and loading by peft call methods of the tuner that are no public interface of it.
if peft.__version__.split(".")[:2] != ["0", "21"]:
    raise ImportError(
        f"PEER as a peft adapter is written for peft 0.21, and {peft.__version__} is installed: "
        f"{install('peft')}"
    )


def added_type(name: str) -> Any:
    """Member of peft's PeftType of this name, which is added where it is missing.

    register_peft_method takes only names of that enum, and an enum with members can't be extended
    by a subclass. So the member is made as the enum's own machinery makes it.
    """
    kinds = peft.PeftType
    if name not in kinds.__members__:
        member = str.__new__(kinds, name)
        member._name_, member._value_ = name, name
        setattr(kinds, name, member)
        kinds._member_names_.append(name)
        kinds._member_map_[name] = member
        kinds._value2member_map_[name] = member
    return kinds(name)

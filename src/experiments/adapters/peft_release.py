"""The release of peft that the tuner is written for, and PEER's place among its methods."""

try:
    import peft
except ModuleNotFoundError as error:
    if error.name != "peft":
        raise
    raise ImportError(
        "PEER as a peft adapter needs the package peft: pip install 'expert-isoflops[peft]'"
    ) from None
from peft import PeftType

# Saving and loading by peft call methods of the tuner that are no public interface of it.
if peft.__version__.split(".")[:2] != ["0", "21"]:
    raise ImportError(
        f"PEER as a peft adapter is written for peft 0.21, and {peft.__version__} is installed: "
        "pip install 'expert-isoflops[peft]'"
    )


def added_type(name: str) -> PeftType:
    """The member of peft's PeftType of this name, which is added where it is missing.

    register_peft_method takes only names of that enum, and an enum with members can't be extended
    by a subclass. So the member is made as the enum's own machinery makes it.
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_, member._value_ = name, name
        setattr(PeftType, name, member)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
    return PeftType(name)

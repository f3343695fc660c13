"""Files of conf/ read by libyaml, five times as fast as by Python, where PyYAML has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from omegaconf import _utils


@contextmanager
def quick_yaml() -> Iterator[None]:
    """Within this, OmegaConf's own loader parses by libyaml. Its rules stay: of numbers, and that
    no key stands twice.
    """
    if not yaml.__with_libyaml__:
        yield
        return
    usual = _utils.get_yaml_loader
    quick = _by_libyaml(usual())
    _utils.get_yaml_loader = lambda: quick
    try:
        yield
    finally:
        _utils.get_yaml_loader = usual


def _by_libyaml(loader: Any) -> Any:
    """A loader's class, with libyaml's parser in place of Python's."""
    from yaml.constructor import SafeConstructor
    from yaml.cyaml import CParser
    from yaml.resolver import Resolver

    def begin(self: Any, stream: Any) -> None:
        CParser.__init__(self, stream)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)

    return type("QuickLoader", (CParser, loader), {"__init__": begin})

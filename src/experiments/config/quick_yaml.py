"""Files of conf/ read by libyaml, five times as fast as by Python, where PyYAML has it."""

from collections.abc import Iterator
from contextlib import contextmanager

import yaml


@contextmanager
def quick_yaml() -> Iterator[None]:
    """Within this, PyYAML's safe loader is libyaml's. OmegaConf 2.3 makes its own of it, 2.4 takes
    libyaml's by itself. Its rules stay: of numbers, and that no key occurs twice.
    """
    if not yaml.__with_libyaml__:
        yield
        return
    usual = yaml.SafeLoader
    yaml.SafeLoader = yaml.CSafeLoader
    try:
        yield
    finally:
        yaml.SafeLoader = usual

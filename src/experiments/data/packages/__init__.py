"""An English mix of public packages' data: prose, reference works and API text, by domain."""

from experiments.data.packages.domain import Domain
from experiments.data.packages.mix import Packages

__all__ = ["Domain", "Packages"]

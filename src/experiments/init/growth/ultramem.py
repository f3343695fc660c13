"""UltraMem grows by a layer beside it alone.

Its scores are products, so that no bias on a new key's keeps it out of reach: it is large where the
other half's score is below 0. And with copies of keys, and as many times top_k, the search looks at
more columns, where it finds pairs that it missed before, which is another function.
"""

from experiments.init.growth.product_keys import ProductKeys
from experiments.models.ffn.ultramem import UltraMemConfig


class UltraMems(ProductKeys):
    """As layers of product keys, but for the ways."""

    config = UltraMemConfig
    ways = ("beside",)


GROWER = UltraMems()

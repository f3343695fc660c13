"""A layer of one's own that starts from another and grows: files that are found by themselves."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from experiments.init import grow
from experiments.models.ffn._product_keys import ProductKeyConfig, ProductKeyFFN
from experiments.models.roles import Role
from tests.extending import follow
from tests.init.test_growth import SMALL, D
from tests.init.test_growth import relative as relative_error
from tests.rounding import relative


@pytest.mark.night
def test_the_how_to_of_a_layer_that_grows_runs_to_the_letter(tmp_path):
    printed = follow("A layer that starts from another, and grows", tmp_path)
    few, more, most = (
        json.loads(next((tmp_path / "results" / sweep).glob("*/record.json")).read_text())
        for sweep in ("few", "more", "most")
    )
    for before, after in ((few, more), (more, most)):
        start = after["before"]["validation"]["loss"]
        assert start == pytest.approx(before["val_loss"], rel=relative(1))
        assert after["val_loss"] != start
    assert most["init"]["moments"]
    assert "how='bias' is no way in which Gated grows; set how=copies" in printed
    assert "and not PEER of Dense; set init.how=beside" in printed
    assert "n_experts=64 with init.how=units" in printed
    assert "set n_experts=128" in printed


@dataclass(frozen=True, kw_only=True)
class OwnConfig(ProductKeyConfig):
    """A layer of product keys that no file of init/growth knows."""

    def build(self, d_model):
        return Own(d_model, self)


class Own(ProductKeyFFN):
    param_roles: ClassVar = {
        **ProductKeyFFN.param_roles,
        "read": Role(fan_in=1, group="table"),
        "written": Role(fan_in=None, group="table"),
    }

    def __init__(self, d_model, config):
        super().__init__(config, d_model)
        shape = (config.n_experts, d_model)
        self.read, self.written = (nn.Parameter(torch.randn(shape)) for _ in range(2))

    def output_weights(self):
        return (self.written,)

    def forward(self, x):
        indices, gates = self.route(x.flatten(0, -2))
        hidden = torch.einsum("td,tkd->tk", x.flatten(0, -2), self.read[indices])
        return torch.einsum("tk,tkd->td", hidden * gates, self.written[indices]).view_as(x)


@pytest.mark.parametrize(("how", "bound"), [("bias", 0), ("copies", 1e-6), ("beside", 0)])
def test_a_layer_of_product_keys_grows_by_the_roles_of_its_tables(how, bound):
    layer, x = OwnConfig(**SMALL, query_norm="layer").build(D), torch.randn(2, 32, D)
    grown = grow(layer, 64 * 4, how=how)
    assert relative_error(grown(x), layer(x)) <= bound
    assert sum(len(p) for n, p in grown.named_parameters() if n.endswith("read")) == 64 * 4

"""Source of layers in an export: rewritten, refused where it can't be, and complete."""

import ast

import pytest
import torch

from experiments.interchange.sources import flat_sources, format_table
from experiments.models.ffn.none import NoneConfig
from experiments.models.transformer import TransformerConfig
from tests.interchange.models import VOCABULARY, exported, vocabulary_in


def imports(text):
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    return {(node.level, node.module) for node in found}


def test_files_import_the_files_beside_them():
    texts = flat_sources(["experiments.models.ffn.peer", "experiments.models.ffn.moe"])
    assert {"peer.py", "moe.py", "_base.py", "_product_keys.py", "product_keys.py"} <= texts.keys()
    assert not texts.keys() & {"ops.py", "grouped.py", "operators.py"}
    for text in texts.values():
        assert not any((module or "").startswith("experiments") for _, module in imports(text))
        assert {f"{module}.py" for level, module in imports(text) if level} <= texts.keys()
    assert (1, "plain") in imports(texts["moe.py"])


@pytest.mark.parametrize(
    "line", ["from . import parts", "import experiments.kernels", "from experiments import kernels"]
)
def test_an_import_that_no_flat_file_can_have_is_refused(line, tmp_path, monkeypatch):
    name = f"odd_{len(line)}"
    (tmp_path / f"{name}.py").write_text(f"import torch\n{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"odd_.*, line 2: .*from package.module import name"):
        flat_sources([name])


def test_two_modules_of_one_last_name_are_refused():
    with pytest.raises(ValueError, match=r"would both be reading.py of an export; rename one"):
        flat_sources(["experiments.config.reading", "experiments.init.reading"])


def test_classes_of_one_name_are_told_apart():
    text = format_table(["a.one.Config", "b.two.Config"])
    assert "from .one import Config as one_Config" in text
    assert '"b.two.Config": two_Config' in text


LAYER = """
from dataclasses import dataclass

import torch

from experiments.budget.costs import Cost, Term
from experiments.models.ffn._base import FFN
from theirs.sizes import WIDTHS


@dataclass(frozen=True, kw_only=True)
class ScaledConfig:
    widths: tuple[int, ...] = WIDTHS

    def cost(self, d_model):
        return Cost((Term(name="scaled", n_params=d_model**2, flops=2 * d_model**2),))

    def build(self, d_model):
        return Scaled(d_model, self)


class Scaled(FFN):
    def __init__(self, d_model, config):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(d_model, d_model))
        self.register_buffer("ramp", torch.linspace(0, 1, d_model), persistent=False)
        self.scale = len({config: config.widths}[config])  # a list would have no hash

    def forward(self, x):
        return self.scale * (x @ self.weight) * self.ramp
"""


@pytest.mark.usefixtures("hub_modules")
def test_a_layer_of_another_package_goes_with_its_files(tmp_path, monkeypatch):
    """And its buffers that are not saved are those that it makes, whatever memory held."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "theirs").mkdir()
    for name, text in (("__init__", ""), ("sizes", "WIDTHS = (2, 3, 4)\n"), ("scaled", LAYER)):
        (tmp_path / "theirs" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    from theirs.scaled import ScaledConfig

    ffns = (ScaledConfig(), NoneConfig())
    sizes = {"d_model": 32, "d_head": 8, "vocab_size": VOCABULARY, "seq_len": 32}
    model = TransformerConfig(ffns=ffns, tie_head=False, **sizes).build().eval()
    exported(model, tmp_path / "out", vocabulary_in(tmp_path / "cache"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True
    ).eval()
    assert torch.equal(theirs.blocks[0].ffn.ramp, torch.linspace(0, 1, 32))
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(theirs(tokens).logits, model(tokens))

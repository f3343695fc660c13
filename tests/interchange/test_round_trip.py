"""Every field of every layer in conf/model, at other values: exported, loaded, the same logits.

The fields and their values are found here: a boolean turned over, each name of a choice, other
numbers. So a new field is tried as soon as it is there.
"""

import contextlib
from dataclasses import fields, replace
from typing import get_type_hints

import pytest
import torch
from omegaconf import OmegaConf

from experiments.config.paths import conf_dir
from experiments.interchange import reread
from experiments.interchange.forms import find_form
from experiments.models.ffn.none import NoneConfig
from experiments.models.transformer import TransformerConfig
from tests.interchange.models import VOCABULARY, exported, of_node, perturbed, vocabulary_in
from tests.rounding import assert_rounding

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("hub_modules")

# where a layer has them; squares for all heads together and for each
SMALL = {
    "n_experts": 16, "n_heads": 4, "n_channels": 1, "d_key": 8, "top_k": 3,
    "vocab_size": VOCABULARY,
}  # fmt: skip


def small(name):
    """Layer of conf/model/NAME.yaml, at a size of a test where a size is a number alone."""
    conf = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml"))
    node = conf.get("model", conf)
    sizes = {key: SMALL[key] for key in node if key in SMALL}
    if node.get("routing") == "expert_choice":
        sizes.pop("top_k")  # is the other choice's
    if "max_order" in node:  # tables of equal size, for other orders too
        sizes |= {"n_experts": 24, "n_hashes": 2}
    return of_node(node | sizes)


def other_values(config, field):
    """Values of a field that differ from the config's, found by its type and its own check."""
    value = getattr(config, field.name)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, str):
        try:
            replace(config, **{field.name: "?"})
        except ValueError as error:
            choices = str(error).partition(" is not one of ")[2].split(", ")
            return [choice for choice in choices if choice and choice != value]
        return []
    if value is None or isinstance(value, int | float):
        numbers = [4, 2] if value is None else [value + 1, 2 * value, 4 * value]
        kind = int if value is None or isinstance(value, int) else float
        return [n for number in numbers if (n := kind(number)) and n != value]
    return []


def variants(config):
    """By field and value, the configs with one field changed that the layer accepts: of names all,
    of numbers the first."""
    found = {}
    for field in fields(config):
        for value in other_values(config, field):
            with contextlib.suppress(ValueError):
                found[field.name, value] = replace(config, **{field.name: value})
                if not isinstance(value, str):
                    break
    return found


NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
LAYERS = {name: small(name) for name in NAMES if name != "weights"}  # which is of no layer itself
# queries have a norm of their own beside this one of keys alone
LAYERS["ultramem_normed"] = replace(LAYERS["ultramem"], key_norm="layer")
CASES = {
    f"{name}-{field}-{value}": config
    for name, layer in LAYERS.items()
    for (field, value), config in {("as", "it is"): layer, **variants(layer)}.items()
}
# a gate together with other fields, which one field at a time doesn't show
CASES |= {
    f"{name}-{field}-{value}-gated": replace(config, glu=True)
    for name, layer in LAYERS.items()
    if hasattr(layer, "glu")
    for (field, value), config in variants(layer).items()
    if field in ("routing", "n_shared_experts", "n_first_keys", "table_dtype", "gate")
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return vocabulary_in(tmp_path_factory.mktemp("cache"))


def model_of(config):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_head": 8, "vocab_size": VOCABULARY, "seq_len": 32}
    ffns = (config, NoneConfig())  # two kinds, so that a dense layer has our file too
    return perturbed(TransformerConfig(ffns=ffns, tie_head=False, **sizes).build().eval())


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_what_is_exported_loads_and_says_the_same(case, vocabulary, tmp_path):
    model = model_of(CASES[case])
    exported(model, tmp_path / "out", vocabulary)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=True
    ).eval()
    assert theirs.state_dict().keys() == model.state_dict().keys()
    tokens = torch.randint(1, VOCABULARY, (2, 32))
    ours = model(tokens)
    assert ours.std() > 0.5
    assert_rounding(theirs(tokens).logits, ours, n_blocks=2)


@pytest.mark.parametrize("name", LAYERS)
def test_each_field_of_a_layer_is_tried(name):
    kind = type(LAYERS[name])
    tried = {f for layer in LAYERS.values() if type(layer) is kind for f, _ in variants(layer)}
    assert tried == set(get_type_hints(kind)) & {f.name for f in fields(kind)}


def test_the_values_of_a_choice_are_found():
    assert {v for f, v in variants(LAYERS["peer"]) if f == "query_norm"} == {"none", "layer"}
    assert {v for f, v in variants(LAYERS["moe"]) if f == "glu"} == {True}


def test_a_tensor_that_the_modeling_file_does_not_know_is_refused_by_name(vocabulary, tmp_path):
    model = model_of(LAYERS["moe_fine"])
    model.blocks[0].ffn.w_new = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(RuntimeError, match=r"can't load what was written.*w_new.*report it"):
        exported(model, tmp_path / "out", vocabulary)
    assert not list(tmp_path.iterdir())


def test_another_function_is_refused(vocabulary, tmp_path):
    model = model_of(LAYERS["peer"])
    form = find_form(model, "peer", vocabulary.end_of_text)
    exported(model, tmp_path / "out", vocabulary)
    reread.check_loads(tmp_path / "out", form)
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    with pytest.raises(RuntimeError, match=r"logits differ by 0.*nothing is exported"):
        reread.check_loads(tmp_path / "out", form)

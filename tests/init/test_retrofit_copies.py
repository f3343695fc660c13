"""A model with a layer of retrofit(), copied, pickled and quantised."""

import copy
import pickle

import pytest
import torch
from torch.ao.quantization import quantize_dynamic

from experiments.init import retrofit, unretrofit
from tests.init.test_retrofit import CONFIG, OPT, path_in, wake
from tests.init.tiny import logits, tiny

pytest.importorskip("transformers")


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("again", [copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", ["Llama", "OPT"])
def test_a_copy_of_the_model_has_layers_of_its_own(kind, again):
    model = tiny(kind)
    base = logits(model)
    retrofit(model, [1], CONFIG, mlp=path_in(kind))
    copied = again(model)
    wake(copied)
    assert torch.equal(logits(model), base)
    assert not torch.equal(logits(copied), base)
    assert torch.equal(logits(unretrofit(copied)), base)
    wake(model)
    assert not torch.equal(logits(model), base)


def quantised(model):
    return quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")  # torch is going to leave it to torchao
@pytest.mark.parametrize("kind", ["Llama", "OPT"])
def test_a_quantised_base_has_the_layer_that_is_put_in_later(kind):
    model = quantised(tiny(kind))
    base = logits(model)
    retrofit(model, [1], CONFIG, mlp=path_in(kind))
    assert torch.equal(logits(model), base)
    wake(model)
    assert not torch.equal(logits(model), base)


@pytest.mark.filterwarnings("ignore")  # torch is going to leave it to torchao
def test_a_model_quantised_afterwards_has_its_layer_or_says_that_it_has_not():
    whole, pair = retrofit(tiny("Llama"), [1], CONFIG), retrofit(tiny("OPT"), [1], CONFIG, mlp=OPT)
    wake(whole)
    without = logits(quantised(tiny("Llama")))
    assert not torch.equal(logits(quantised(whole)), without)
    with pytest.raises(ValueError, match=r"was replaced .*then call retrofit"):
        logits(quantised(pair))

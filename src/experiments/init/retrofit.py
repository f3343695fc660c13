"""A PEER layer in a transformers model, in place: beside the MLPs of chosen blocks, or instead.

Beside is exact at the start: the rows that write (w_up) are zero, so logits are the base's to the
bit. The memory beside the feed-forward layer of a pretrained model is Kim and Jung's (2020,
arXiv:2010.03881, §3), there with product-key memories that start at random.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import TypeVar, get_args

import numpy as np
import torch
from torch import nn

from experiments.budget.costs import find_name
from experiments.init.attached import Added, How, Retrofit, attach, detach, find_layers
from experiments.init.found_mlp import slots_of
from experiments.init.mlp_neurons import read_mlp
from experiments.init.neurons import seed_copies, seed_replace
from experiments.init.slots import Slot
from experiments.models.ffn._base import check_choice
from experiments.models.ffn.peer import PEERConfig

Model = TypeVar("Model", bound=nn.Module)


def retrofit(
    model: Model,
    blocks: Sequence[int],
    config: PEERConfig,
    how: How = "beside",
    mlp: str | tuple[str, str] | None = None,
    noise: float = 0.1,
    seed: int = 0,
) -> Model:
    """Same model, with a PEER layer in each of the given blocks (from 0).

    model: a causal language model of transformers. Built in are GPT-2, GPT-NeoX (Pythia), Llama,
    Mistral, Mixtral, Qwen 2 and 3, SmolLM, Gemma 1 to 3, Phi 1 to 3, OLMo 2 and gpt-oss. Of others
    mlp="auto" finds the MLP by what the parts of a block do; or it is named by its path below the
    model with {} for the block, as mlp="model.layers.{}.mlp". Where the MLP is no module by itself,
    mlp is a pair: the path of the module that takes its input, and of the one that gives its
    output.

    how:
        beside: the layer's output is added to the MLP's; w_up starts at zero, so that the function
            is unchanged to the bit.
        copies: beside, and the experts read what the MLP's hidden units read (without their
            biases), each copy but the first with noise relative to the size of a row. As exact.
        replace: instead of the MLP, seeded from its hidden units. Exact only where every expert is
            retrieved with gate 1. Biases are carried: those of the hidden units by a layer that is
            one wider than the model, with 1 as its last input. Dropout of the MLP is not.
    seed: of what starts at random, for each block by itself.

    The layer is on the device of the MLP. Its type is float32 (float64 in a model of float64), and
    config.table_dtype for the tables. Raises ValueError, before anything is changed, for what
    can't be done.
    """
    check_choice("how", how, get_args(How))
    _check_values(config, noise, seed)
    slots = slots_of(model, blocks, mlp)
    for slot in slots:
        if hasattr(slot.last, "peer"):
            raise ValueError(
                f"block {slot.block} has a layer of retrofit() at {slot.paths[-1]}; take another "
                "block, or call unretrofit first"
            )
    for added in [_made(slot, config, how, noise, seed) for slot in slots]:
        attach(model, added)
    return model


def unretrofit(model: Model) -> Model:
    """Same model without the layers that retrofit() put into it: the base, to the bit.

    Weights of the base that were trained meanwhile stay trained.
    """
    for added in find_layers(model):
        detach(model, added)
    return model


def freeze_base(model: Model) -> Model:
    """Same model; the layers that retrofit() put into it are trained, nothing else is."""
    layers = find_layers(model)
    model.requires_grad_(False)
    for added in layers:
        added.requires_grad_(True)
    return model


def check_query_norm(query_norm: str) -> None:
    """Raises ValueError for the one that no layer beside a trained model should have."""
    if query_norm == "batch":
        raise ValueError(
            "query_norm='batch' keeps statistics of its inputs, which drift with the domain and "
            "which no gradient brings back; take query_norm='layer' or 'none'"
        )


def _check_values(config: PEERConfig, noise: float, seed: int) -> None:
    if not isinstance(config, PEERConfig):
        raise ValueError(
            f"retrofit() puts PEER into other people's models, which hand a layer its input alone, "
            f"and not {find_name(config)}; give a PEERConfig, or start a trunk of ours from the "
            "weights (init=hf)"
        )
    check_query_norm(config.query_norm)
    if config.blocks_share_keys:
        raise ValueError(
            "blocks_share_keys=true: layers that are put into a model each have keys of their own; "
            "take blocks_share_keys=False"
        )
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise={noise} must be at least 0, and finite")
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")


def _made(slot: Slot, config: PEERConfig, how: How, noise: float, seed: int) -> Added:
    """Layer of a slot, drawn from a seed of its own; torch's generator is as it was."""
    units = None if how == "beside" else read_mlp(slot)
    instead = how == "replace"
    if not instead:
        config = dataclasses.replace(config, value_init="zero")
    made = Retrofit(
        block=slot.block,
        paths=slot.paths,
        how=how,
        config=config,
        constant=instead and units is not None and units.is_biased,
    )
    drawn = int(np.random.SeedSequence([seed, slot.block]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(drawn)  # torch.manual_seed would seed GPUs too
        layer = config.build(slot.d_model + made.constant)
    if how == "beside":
        with torch.no_grad():
            for weight in layer.output_weights():  # an MLP's, beside those that value_init says
                weight.zero_()
    bias = None
    if units is not None:
        generator = torch.Generator().manual_seed(drawn)
        if instead:
            neurons = units.with_constant() if made.constant else units.neurons
            seed_replace(layer, neurons, generator=generator)
            bias = units.bias
        else:
            seed_copies(layer, units.neurons, noise=noise, generator=generator)
    added = Added(layer, made, bias)
    return added.to(slot.device, torch.float64 if slot.dtype == torch.float64 else None)

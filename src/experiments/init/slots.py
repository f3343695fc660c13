"""Where a transformers model keeps a block's MLP, and what goes in and out of it.

A slot is the part of a block between the MLP's input and its output. Most often that is one module.
In some architectures (OPT) it has no module of its own: then a pair of modules of the block names
it, the one that takes its input and the one that gives its output.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Form:
    """Names of an MLP's matrices: up reads the input, down writes the output, gate gates up.

    gate and up may be one matrix, with the gates' rows first.
    """

    up: str
    down: str
    gate: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, in the order of computation."""
        names = (self.gate, self.up, self.down)
        return tuple(dict.fromkeys(name for name in names if name is not None))


GLU = Form(gate="gate_proj", up="up_proj", down="down_proj")
CONV1D = Form(up="c_fc", down="c_proj")
NEOX = Form(up="dense_h_to_4h", down="dense_4h_to_h")
GATE_UP = Form(gate="gate_up_proj", up="gate_up_proj", down="down_proj")  # Phi-3, GLM 4
# tried in this order on an MLP of another architecture
FORMS = (
    GLU,
    CONV1D,
    NEOX,
    Form(up="fc1", down="fc2"),
    Form(up="up_proj", down="down_proj"),
    Form(up="fc_in", down="fc_out"),  # GPT-J, CodeGen
    Form(gate="w1", up="w3", down="w2"),  # LFM2
    GATE_UP,
)

# config.model_type: the path of the MLP below the model without its head, or a pair, and its form
ARCHITECTURES: Mapping[str, tuple[str | tuple[str, str], Form]] = {
    "gpt2": ("h.{}.mlp", CONV1D),
    "gpt_neox": ("layers.{}.mlp", NEOX),  # Pythia
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "smollm3"),  # SmolLM and SmolLM2 are llama
        ("layers.{}.mlp", GLU),
    ),
    **dict.fromkeys(("gemma", "gemma2", "gemma3_text", "olmo2"), ("layers.{}.mlp", GLU)),
    "phi": ("layers.{}.mlp", Form(up="fc1", down="fc2")),
    "phi3": ("layers.{}.mlp", GATE_UP),
    "mixtral": ("layers.{}.mlp", GLU),  # a mixture: its neurons can't be read
    "gpt_oss": (("layers.{}.mlp.router", "layers.{}.mlp.experts"), GLU),
}
_LIKELY = re.compile(r"(^|\.)(mlp|ffn|ff|feed_forward)$")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """MLP of one block. `first` takes its input and `last` gives its output.

    first and last are one module, but for a pair. paths: their names below the model.
    d_model, device and dtype are those of the input. forms: how its matrices may be named.
    """

    block: int
    paths: tuple[str, ...]
    first: nn.Module
    last: nn.Module
    d_model: int
    device: torch.device
    dtype: torch.dtype
    forms: tuple[Form, ...]


def find_slots(
    model: nn.Module, blocks: Sequence[int], mlp: str | tuple[str, str] | None
) -> tuple[Slot, ...]:
    """MLPs of the given blocks; mlp as in retrofit(). Runs the model once, on two tokens.

    Raises ValueError for an architecture without an entry here, for paths and blocks that the
    model does not have, and for a module that does not map features to as many.
    """
    templates, forms = _templates(model, mlp)
    check_blocks(model, templates[0].partition(".{}")[0], blocks)
    return slots_at(model, {b: tuple(t.format(b) for t in templates) for b in blocks}, forms)


def slots_at(
    model: nn.Module, paths: Mapping[int, tuple[str, ...]], forms: tuple[Form, ...] = FORMS
) -> tuple[Slot, ...]:
    """MLPs at the given paths, by block. As find_slots() in all else."""
    found = {block: tuple(_module(model, p) for p in names) for block, names in paths.items()}
    for block, modules in found.items():
        for path, module in zip(paths[block], modules):
            if any(tensor.is_meta for tensor in module.parameters()):
                raise ValueError(f"{path} has no values yet (device meta); load the weights first")
    if len({id(modules[-1]) for modules in found.values()}) < len(found):
        raise ValueError(f"blocks={list(found)} share one MLP; name one of them")
    inputs = _inputs(model, {paths[block][0]: modules for block, modules in found.items()})
    return tuple(
        Slot(
            block=block,
            paths=paths[block],
            first=modules[0],
            last=modules[-1],
            d_model=x.shape[-1],
            device=x.device,
            dtype=x.dtype,
            forms=forms,
        )
        for (block, modules), x in zip(found.items(), inputs)
    )


def _templates(
    model: nn.Module, mlp: str | tuple[str, str] | None
) -> tuple[tuple[str, ...], tuple[Form, ...]]:
    if mlp is not None:
        templates = (mlp,) if isinstance(mlp, str) else tuple(mlp)
        for template in templates:
            if template.count("{}") != 1:
                raise ValueError(
                    f"mlp={template!r} must have one {{}} in the place of the block's number, "
                    "as model.layers.{}.mlp"
                )
        return templates, FORMS
    if not is_known(model):
        raise ValueError(
            f"the MLPs of {_kind(model)!r} are not known here (known: {', '.join(ARCHITECTURES)}); "
            f"mlp='auto' looks for them, or name their path with mlp=, {_likely(model)}"
        )
    found, form = ARCHITECTURES[_kind(model)]
    # of GPT2LMHeadModel that is transformer, of GPT2Model nothing
    prefix = getattr(model, "base_model_prefix", "")
    below = f"{prefix}." if prefix and hasattr(model, prefix) else ""
    paths = (found,) if isinstance(found, str) else found
    return tuple(below + path for path in paths), (form,)


def is_known(model: nn.Module) -> bool:
    """Whether the place of its MLPs is built in."""
    return _kind(model) in ARCHITECTURES


def _kind(model: nn.Module) -> str:
    return getattr(getattr(model, "config", None), "model_type", type(model).__name__)


def _likely(model: nn.Module) -> str:
    """In words, the paths below the model that look like an MLP's."""
    names = (re.sub(r"\.\d+\.", ".{}.", name, count=1) for name, _ in model.named_modules())
    likely = list(dict.fromkeys(n for n in names if "{}" in n and _LIKELY.search(n)))
    if likely:
        return "perhaps " + " or ".join(f"mlp={name!r}" for name in likely[:3])
    return "as mlp='model.layers.{}.mlp'"


def check_blocks(model: nn.Module, folder: str, blocks: Sequence[int]) -> None:
    """Raises ValueError unless these are numbers of the list of blocks at that path, each once."""
    n_blocks = len(list(_module(model, folder).children()))
    wrong = [b for b in blocks if type(b) is not int or not 0 <= b < n_blocks]
    if wrong or not blocks:
        raise ValueError(
            f"blocks={list(blocks)} must name at least one block, and the blocks of "
            f"{folder} are 0 to {n_blocks - 1}"
        )
    if len(set(blocks)) < len(blocks):
        raise ValueError(f"blocks={list(blocks)} names a block twice; name each once")


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f"{path} names no module of {type(model).__name__}; {_likely(model)}"
        ) from None


def _inputs(model: nn.Module, modules: Mapping[str, tuple[nn.Module, ...]]) -> list[Tensor]:
    """Inputs of each MLP in a forward pass of two tokens. Nothing is changed."""
    given: dict[str, Tensor] = {}
    made: dict[str, Any] = {}
    with contextlib.ExitStack() as hooks:
        for name, found in modules.items():

            def note_input(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                given[name] = first_input(args, kwargs)

            def note_output(_: nn.Module, args: Any, output: Any, name: str = name) -> None:
                made[name] = output

            before = found[0].register_forward_pre_hook(note_input, with_kwargs=True)
            hooks.callback(before.remove)
            hooks.callback(found[-1].register_forward_hook(note_output).remove)
        run_on(model, torch.zeros(2, dtype=torch.int64))
    for name in modules:
        if name not in made or name not in given:
            raise ValueError(f"{name} is not called in a forward pass; name the module that is")
        x, y = given[name], made[name]
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape):
            raise ValueError(
                f"{name} maps {make_shape(x)} to {make_shape(y)}; mlp must name a module that maps "
                "hidden states to hidden states of the same width, or a pair (the module that "
                "takes the MLP's input, the module that gives its output)"
            )
    return [given[name] for name in modules]


def first_input(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Hidden states among a module's arguments: the first one."""
    return args[0] if args else next(iter(kwargs.values()), None)


def make_shape(value: Any) -> str:
    """In words, of what a module was given or gives."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def run_on(model: nn.Module, tokens: Tensor) -> None:
    """A forward pass of a few token ids, (n,), in evaluation mode, which changes no state."""
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad():
        try:
            model(input_ids=tokens.unsqueeze(0).to(device))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"a forward pass of {type(model).__name__} on {len(tokens)} token ids fails "
                f"({type(error).__name__}: {reason}); retrofit needs a causal language model that "
                "runs on input_ids alone"
            ) from error


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode for a while; then each module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode

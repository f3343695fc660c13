"""A retrofitted transformers model as a folder:

    retrofit.json        which layers, how they are made, where they belong
    layers.safetensors   their tensors, as blocks.<block>.<name>
    base/                the model without them, in transformers' own format; not there where the
                         layers are saved alone, and retrofit.json has the base's name and hash

The folder itself has no config.json. So transformers' own classes don't read it by mistake, and
base/ alone is what it says: the base.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.config.reading import read
from experiments.init.attached import Added, Retrofit, attach, detach, find_layers
from experiments.init.reading import from_extra
from experiments.init.safetensors_files import load_tensors
from experiments.init.slots import slots_at
from experiments.models.digest import tensors_sha256
from experiments.system import interruption
from experiments.system.disk import OTHER_FOLDER, explained, reached, whole_folder, write_text
from experiments.system.json_files import read_json

FORMAT = 1
_ABOUT, _LAYERS, _BASE = "retrofit.json", "layers.safetensors", "base"
_AGAIN, _PURPOSE = "save the model again", "a model of transformers on disk"
_NOTE = (
    "Load with experiments.init.load_retrofitted; base/ alone is the model without these layers."
)


def save_retrofitted(model: Any, folder: str | Path, base: str | None = None) -> Path:
    """Writes a model with layers of retrofit() to a new folder, whole or not at all.

    The tokenizer is not a part of it: tokenizer.save_pretrained(folder / "base") puts it there.
    base: a name, by which readers find the base; the layers are then saved alone, with the hash of
    the base's weights as they are. Give none if the base was trained too.
    Raises ValueError for a model without such layers, for a class that is not transformers' own,
    and for a folder that exists.
    """
    folder = reached(Path(folder))
    layers = find_layers(model)
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new folder, or delete it")
    transformers = from_extra("transformers", _PURPOSE)
    safetensors = from_extra("safetensors.torch", _PURPOSE)
    kind = type(model)
    if getattr(transformers, kind.__name__, None) is not kind:  # no other code is run to load it
        raise ValueError(
            f"{kind.__module__}.{kind.__name__} is no class of transformers itself, so it can't be "
            "loaded again; retrofit and save one that is"
        )
    tensors = {
        f"blocks.{added.made.block}.{name}": tensor.contiguous()
        for added in layers
        for name, tensor in added.state_dict().items()
    }
    about = {
        "note": _NOTE,
        "format": FORMAT,
        "model": kind.__name__,
        "transformers": transformers.__version__,
        "layers": [dataclasses.asdict(added.made) for added in layers],
    }
    with explained(folder, OTHER_FOLDER), whole_folder(folder) as new:
        safetensors.save_file(tensors, new / _LAYERS)
        with _without(model, layers):
            if base is None:
                model.save_pretrained(new / _BASE)
            else:
                about["base"] = {"name": base, "dtype": _dtype(model), "sha256": _digest(model)}
        write_text(new / _ABOUT, json.dumps(about, indent=1) + "\n")
    return folder


def load_retrofitted(folder: str | Path, base: Any = None) -> Any:
    """Model that save_retrofitted() wrote, on the CPU, in evaluation mode.

    base: where the layers were saved alone, the folder of the base, or the model itself, which gets
    them in place and keeps its device and mode. Its weights must be those that it had.
    The types are those it had, but for what transformers does not save: a base that was cast with
    model.to(torch.bfloat16) comes back with its rotary angles in float32.
    Needs no network, and runs no code of the folder. Raises ValueError for a folder of another
    kind, and for files that are damaged or don't belong together.
    """
    folder = Path(folder)
    about = _about(folder)
    transformers = from_extra("transformers", _PURPOSE)
    kind = getattr(transformers, str(about["model"]), None)
    if kind is not None and not _is_model(kind, transformers):
        raise ValueError(f"{folder / _ABOUT}: {about['model']!r} of transformers is no model")
    if kind is None:
        raise ValueError(
            f"{folder / _ABOUT}: transformers {transformers.__version__} has no class "
            f"{about['model']!r}; the folder was written with {about['transformers']}"
        )
    noted = about.get("base")
    if noted is None and base is not None:
        raise ValueError(f"{folder} has a base of its own; leave base out")
    model = _base(kind, folder / _BASE) if noted is None else _given(kind, noted, base, folder)
    tensors = load_tensors(folder / _LAYERS, _AGAIN)
    layers = _layers(about["layers"], folder / _ABOUT)
    names = {f"blocks.{made.block}." for made in layers}
    if unknown := [t for t in tensors if not t.startswith(tuple(names))]:
        raise ValueError(f"{folder / _LAYERS} has {unknown[0]}, of no layer in {_ABOUT}")
    slots = slots_at(model, {made.block: made.paths for made in layers})
    added = []
    for made, slot in zip(layers, slots, strict=True):
        start = f"blocks.{made.block}."
        own = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        added.append(_layer(made, own, slot.d_model, folder).to(slot.device))
    for one in added:  # a base that was given is changed by all of them, or by none
        attach(model, one)
    return model


def _about(folder: Path) -> Mapping[str, Any]:
    path = folder / _ABOUT
    if not path.is_file():
        hint = "name a folder of save_retrofitted"
        if (folder / "config.json").is_file():  # of save_pretrained: it reads as the base alone
            hint = "it is transformers' own: save the model with save_retrofitted instead"
        raise ValueError(f"{folder} has no {_ABOUT}; {hint}")
    with _readable(path):
        about: Mapping[str, Any] = read_json(path)
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']} is not {FORMAT}, the one known here")
        _ = about["model"], about["transformers"], about["layers"]
    return about


def _layers(found: list[Mapping[str, Any]], path: Path) -> list[Retrofit]:
    with _readable(path):
        layers = [read(Retrofit, values) for values in found]
        if len({made.block for made in layers}) < len(layers):
            raise ValueError("two layers are of one block")
        return layers


def _given(kind: Any, noted: Mapping[str, Any], base: Any, folder: Path) -> Any:
    """Base that the layers belong to, of those who read them."""
    with _readable(folder / _ABOUT):
        name, dtype, digest = (str(noted[key]) for key in ("name", "dtype", "sha256"))
        kind_of = getattr(torch, dtype, None)
        if not isinstance(kind_of, torch.dtype):
            raise ValueError(f"dtype {dtype} is no type of torch")
    if base is None:
        raise ValueError(
            f"{folder} has the layers alone, and belongs to {name}; get that, and give its folder, "
            "or the model, as base="
        )
    if isinstance(base, str | Path):
        base = _base(kind, Path(base), kind_of)
    if type(base) is not kind:
        raise ValueError(f"base is a {type(base).__name__}, and the layers are of {kind.__name__}")
    if _digest(base) != digest:
        raise ValueError(
            f"base has other weights than {name} had when {folder} was saved (in {dtype}); give "
            "that one, as it was"
        )
    return base


def _digest(model: Any) -> str:
    return tensors_sha256(model.state_dict())


def _dtype(model: Any) -> str:
    return str(model.dtype).removeprefix("torch.")


def _base(kind: Any, folder: Path, dtype: Any = "auto") -> Any:
    """Every tensor of the model comes from the folder: none is drawn, none is ignored."""
    with _readable(folder / "config.json"):
        if key := _key_of_code(read_json(folder / "config.json")):
            raise ValueError(f"{key} names code that is not of transformers, which is never run")
    with _readable(folder):
        model, found = kind.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found.get(what):
            raise ValueError(f"{folder} is not whole: {what} {sorted(found[what])[0]}")
    return model


def _is_model(kind: Any, transformers: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)


def _key_of_code(node: Any) -> str | None:
    """First key of a config.json by which transformers would fetch or run other code: auto_map,
    and a kernel of the hub (owner/name) for attention or experts.
    """
    if isinstance(node, list):
        return next(filter(None, map(_key_of_code, node)), None)
    if not isinstance(node, dict):
        return None
    for key, value in node.items():
        hub = key.endswith("_implementation") and "/" in json.dumps(value)
        if key == "auto_map" or hub:
            return key
        if (found := _key_of_code(value)) is not None:
            return found
    return None


def _layer(made: Retrofit, tensors: dict[str, Tensor], d_model: int, folder: Path) -> Added:
    with torch.device("meta"):  # nothing is drawn: the values are the file's
        layer = made.config.build(d_model + made.constant)
        bias = torch.empty(d_model) if "bias" in tensors else None
        added = Added(layer, made, bias)
    try:
        added.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{folder / _LAYERS} does not fit block {made.block} of {_ABOUT} and {_BASE}: {reason}"
        ) from error
    return added


@contextmanager
def _without(model: Any, layers: tuple[Added, ...]) -> Iterator[None]:
    for added in layers:
        detach(model, added)
    try:
        yield
    finally:
        for added in layers:
            attach(model, added)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns whatever the reading of a file raises into a ValueError with its path."""
    try:
        with interruption.heard():
            yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} can't be read: {reason}; {_AGAIN}") from error

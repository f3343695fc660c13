"""A folder of Hugging Face's: a Llama, Mistral, Arcee or export of ours; or a gguf file's Llama.

All of it is read here, by safetensors and gguf alone. transformers gives the same tensors to the
bit (tried on a sharded Llama of 470 MB and SmolLM2's gguf), but a plan then takes 2 to 6 seconds of
a processor more, the weights 4 to 16 seconds more and up to 1.4 times the memory, as the model is
built besides. It believes what a gguf's header says, and what the trunk has not would have to be
refused here all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.config import constraints
from experiments.init.exported import check_export, exported_state, is_export
from experiments.init.gguf import gguf_shape, gguf_state
from experiments.init.hub_config import read_config, read_shape
from experiments.init.llama import check_sizes, to_trunk
from experiments.init.reading import file_sha256, named
from experiments.init.safetensors_files import (
    INDEX,
    WEIGHTS,
    compute_digest,
    read_tensors,
    stored_tensors,
)
from experiments.init.source import Shape

_CONFIG, _TOKENIZER = "config.json", "tokenizer.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_OTHERS = {  # files of folders that are something else, and the remedy
    "adapter_config.json": "it holds peft's adapters: merge them into their model and save that",
    "retrofit.json": "it holds a retrofitted model: experiments.init.load_retrofitted() reads it",
    "record.json": "it holds a run of ours: give it as init=run",
}


@dataclass(frozen=True, kw_only=True)
class HuggingFaceFolder:
    """path: a folder with config.json and safetensors, or with one gguf file, or that file.

    Nothing is fetched and no code of the folder's is run.
    """

    path: constraints.Path

    def shape(self, cache: Path) -> Shape:
        """Checks the sizes of all tensors too."""
        place = self._place()
        if place.is_file():
            return gguf_shape(place)
        if self._is_export(place):
            return check_export(place)
        with named(place):
            shape = read_shape(read_config(place / _CONFIG))
            check_sizes({name: t.size for name, t in stored_tensors(place).items()}, shape)
        return shape

    def digest(self, cache: Path) -> str:
        """Of safetensors, of the tensors themselves; of a gguf, of the file."""
        place = self._place()
        return file_sha256(place) if place.is_file() else compute_digest(place)

    def tokenizer(self, cache: Path) -> Mapping[str, Any]:
        """Of the tokenizer.json beside the weights; without one, of the gguf's own vocabulary."""
        place = self._place()
        folder = place.parent if place.is_file() else place
        if (folder / _TOKENIZER).is_file():
            return {
                "_target_": "experiments.data.tokenizer.HuggingFaceTokenizer",
                "name": str(folder.absolute()),
                "revision": None,
                "end_of_text": None,
            }
        if place.is_file():
            return {
                "_target_": "experiments.init.gguf_tokenizer.GGUFTokenizer",
                "path": str(place.absolute()),
            }
        raise ValueError(
            f"{folder} has no {_TOKENIZER}; transformers writes one: "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )

    def state(self, cache: Path) -> dict[str, Tensor]:
        place, shape = self._place(), self.shape(cache)
        if self._is_export(place):
            return exported_state(place, shape)
        with named(place):
            return to_trunk(gguf_state(place) if place.is_file() else read_tensors(place), shape)

    def _is_export(self, place: Path) -> bool:
        """Whether experiments.export wrote it, with our modeling file."""
        with named(place):
            return place.is_dir() and is_export(read_config(place / _CONFIG))

    def _place(self) -> Path:
        """Folder with safetensors, or the gguf file. Raises ValueError if there is neither."""
        path = Path(self.path).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            return path
        if not path.is_dir():
            raise ValueError(
                f"{path} is no folder and no .gguf file; give a model's folder, as `hf download` "
                "or save_pretrained write it"
            )
        for name, remedy in _OTHERS.items():
            if (path / name).is_file():
                raise ValueError(f"{path} has a {name}: {remedy}")
        if (path / WEIGHTS).exists() or (path / INDEX).exists():
            return path
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return files[0]
        if files:
            raise ValueError(f"{path} has {len(files)} gguf files; give one, as {files[0]}")
        raise ValueError(_nothing(path))


def _nothing(folder: Path) -> str:
    """Why a folder without weights that are read is refused."""
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} has {pickles[0]}, a pickle, which runs code when it is read, and no "
            f"{WEIGHTS}; if you trust it, transformers converts it: "
            "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)"
        )
    if (folder / _CONFIG).is_file():
        with named(folder):  # a model of a kind that is refused needs no advice about its files
            read_shape(read_config(folder / _CONFIG))
    return f"{folder} has no {WEIGHTS} and no gguf file; give a folder with a model in it"

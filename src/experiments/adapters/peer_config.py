"""Config of PEER as a peft adapter: what adapter_config.json holds."""

import re
from dataclasses import dataclass

from experiments.adapters.peft_release import added_type, peft
from experiments.init.retrofit import check_query_norm
from experiments.models.ffn.peer import PEERConfig

PEER_TYPE = added_type("PEER")


@dataclass
class PeerConfig(peft.PeftConfig):
    """A PEER layer beside each targeted module; its output is added to the module's.

    n_experts, n_heads, top_k, d_key, query_norm, score, share_keys, activation, glu: as in
        models.ffn.peer.PEERConfig, with defaults of an adapter's size. The rows that write (w_up)
        start at zero, so that the model's function is unchanged to the bit.
    target_modules: names of modules that map hidden states to hidden states of the same width, or
        a regular expression of their paths. None: the MLPs, for the architectures of init/slots.py.
    pair: instead, for an MLP that is no module by itself (OPT): the paths below the model of the
        module that takes its input, and of the one that gives its output, with {} for the block's
        number, as retrofit()'s mlp.
    exclude_modules, layers_to_transform, layers_pattern, modules_to_save: as in peft's LoraConfig.

    Raises ValueError for a value that breaks its rule. query_norm="batch" is one.
    """

    n_experts: int = 1024
    n_heads: int = 2
    top_k: int = 8
    d_key: int = 32
    query_norm: str = "layer"
    score: str = "softmax"
    share_keys: bool = True
    activation: str = "gelu"
    glu: bool = False
    target_modules: list[str] | set[str] | str | None = None
    pair: list[str] | None = None
    exclude_modules: list[str] | set[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEER_TYPE
        check_query_norm(self.query_norm)
        self.layer()
        if self.pair is not None:
            self._target_pair(self.pair)
        self.target_modules = _names("target_modules", self.target_modules)
        self.exclude_modules = _names("exclude_modules", self.exclude_modules)
        if self.target_modules == "all-linear":
            raise ValueError(
                "target_modules='all-linear' names matrices, which change the width; "
                "name the MLPs, as target_modules=['mlp']"
            )
        self._check_layers()

    def layer(self) -> PEERConfig:
        return PEERConfig(
            n_experts=self.n_experts,
            n_heads=self.n_heads,
            top_k=self.top_k,
            d_key=self.d_key,
            query_norm=self.query_norm,
            score=self.score,
            share_keys=self.share_keys,
            activation=self.activation,
            glu=self.glu,
            value_init="zero",
        )

    @property
    def layer_numbers(self) -> list[int] | None:
        chosen = self.layers_to_transform
        return [chosen] if isinstance(chosen, int) else chosen

    def _check_layers(self) -> None:
        numbers = self.layer_numbers
        if numbers is None:
            if self.layers_pattern:
                raise ValueError(
                    f"layers_pattern={self.layers_pattern!r} says where layers_to_transform is "
                    "counted; give layers_to_transform too"
                )
            return
        given = f"layers_to_transform={self.layers_to_transform!r}"
        if not isinstance(numbers, list) or not numbers:
            raise ValueError(f"{given} must be a block's number or a list of them, as [1, 2]")
        if any(type(number) is not int or number < 0 for number in numbers):
            raise ValueError(f"{given} must have numbers of blocks, from 0")
        if isinstance(self.target_modules, str) and self.pair is None:
            raise ValueError(
                f"{given} needs target_modules as a list; the regular expression "
                f"target_modules={self.target_modules!r} has to choose blocks by itself"
            )

    def _target_pair(self, pair: list[str]) -> None:
        """Makes the module that gives the output the target, of the blocks that are chosen."""
        right = isinstance(pair, list | tuple) and len(pair) == 2
        if not right or any(not isinstance(path, str) or path.count("{}") != 1 for path in pair):
            raise ValueError(
                f"pair={pair!r} must be two paths with one {{}} each in the place of the block's "
                "number, as ['model.decoder.layers.{}.fc1', 'model.decoder.layers.{}.fc2']"
            )
        self.pair = list(pair)
        numbers = self.layer_numbers
        block = r"\d+" if numbers is None else "|".join(map(str, numbers))
        target = re.escape(pair[1]).replace(re.escape("{}"), f"({block})")
        if self.target_modules not in (None, target):  # an adapter that was saved has it
            raise ValueError(
                f"target_modules={self.target_modules!r} beside pair={pair!r}: the pair names the "
                "modules; give one of the two"
            )
        self.target_modules = target

    def find_input(self, path: str) -> str | None:
        """Path of the module that takes the input of a target; None: the target itself."""
        if self.pair is None:
            return None
        assert isinstance(self.target_modules, str)
        found = re.fullmatch(self.target_modules, path)
        assert found is not None
        return self.pair[0].format(found[1])


def _names(field: str, value: list[str] | set[str] | str | None) -> set[str] | str | None:
    """As peft's matching takes it: names as a set. Raises ValueError for what it can't match."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{field}={value!r} is no regular expression: {error}") from None
        return value
    names = set(value) if isinstance(value, list | set | tuple) else {None}
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"{field}={value!r} must be a list of modules' names, as ['mlp'], or a regular "
            "expression of their paths"
        )
    return set(value)

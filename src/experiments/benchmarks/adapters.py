"""A token's cost beside a library of adapters, and beside peft's ways.

The base is some blocks of SmolLM2's shape with random weights, of transformers. Beside it, in turn:
libraries of more and more adapters, two retrieved a token by product keys; and peft's own ways to
have several, with as many adapters as they can hold: X-LoRA, Arrow, and one adapter switched by
hand before each call.
"""

import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.adapters.library import LoRALibrary
from experiments.adapters.lora_files import LoRA, LowRank
from experiments.adapters.routes import ProductKeys
from experiments.benchmarks.core.arguments import (
    add_json,
    check_json,
    parse_numbers,
    save_json,
)
from experiments.benchmarks.core.timing import Contender, Timing, compare, is_gated
from experiments.init.reading import from_extra
from experiments.system import environment
from experiments.system.command import at_least
from experiments.system.text_table import aligned
from experiments.system.version import install

D_MODEL, D_FF, N_HEADS, N_KV_HEADS, VOCABULARY = 576, 1536, 9, 3, 1024
Call = Callable[[], object]
MAPS = {  # that adapters are beside: (d_in, d_out)
    "self_attn.q_proj": (576, 576),
    "self_attn.v_proj": (576, 192),
    "mlp.down_proj": (1536, 576),
}
_LISTS = (
    ("n", "64,256,1024,4096", "adapters of a library"),
    ("rivals-n", "8,64", "adapters of peft's ways"),
)
_COUNTS = (
    ("rank", 4, "of each adapter"),
    ("top-k", 2, "adapters a token"),
    ("tokens", 256, "of one text"),
    ("blocks", 2, "of the base"),
    ("rounds", 7, "of one repeat each"),
    ("threads", 1, "of torch"),
)


def arguments(parser: ArgumentParser) -> None:
    for name, several, what in _LISTS:
        parser.add_argument(
            f"--{name}", default=several, metavar="N,...", help=f"{what} (default {several})"
        )
    for name, default, what in _COUNTS:
        parser.add_argument(
            f"--{name}", type=at_least(1), default=default, metavar="N",
            help=f"{what} (default {default})",
        )  # fmt: skip
    add_json(parser)


def run(options: Namespace) -> None:
    """Prints a table, progress on stderr, and writes --json. Raises ValueError without peft."""
    options.n = parse_numbers("--n", options.n)
    options.rivals_n = parse_numbers("--rivals-n", options.rivals_n)
    check_json(options)
    from_extra("transformers", "bench adapters")
    torch.set_num_threads(options.threads)
    tokens = torch.randint(VOCABULARY, (1, options.tokens))
    with tempfile.TemporaryDirectory(prefix="experiments-bench-") as folder, torch.no_grad():
        contenders = [Contender(name="base", make=lambda: _call(_base(options), tokens))]
        for n in options.n:
            make = partial(lambda n: _call(_with_library(options, n), tokens), n)
            contenders.append(Contender(name=f"library of {n}", make=make, baseline="base"))
        contenders += _rivals(options, Path(folder), tokens)
        timings = compare(contenders, rounds=options.rounds, device="cpu", label="adapters")
    rows = [("", "us/token", "times the base", "loud")]
    by_name = {timing.name: timing for timing in timings}
    for timing in timings:
        ratio = by_name["base"].times_faster_than(timing)
        micro = f"{timing.median / options.tokens * 1e6:.1f}"
        rows.append((timing.name, micro, f"{ratio:.3f}", str(timing.n_loud)))
    print("\n".join(aligned(rows)))
    if any(timing.n_loud for timing in timings):
        print("loud: repeats that other processes disturbed; time again on a quiet machine")
    first, last = (by_name[f"library of {n}"] for n in (options.n[0], options.n[-1]))
    print(
        f"{options.n[-1]} adapters take {first.times_faster_than(last):.3f} times what "
        f"{options.n[0]} do"
    )
    save_json(options, _report(options, timings))


def _base(options: Namespace) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=D_MODEL,
        intermediate_size=D_FF,
        num_hidden_layers=options.blocks,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config).eval()


def _call(model: nn.Module, tokens: Tensor) -> Call:
    return lambda: model(tokens)


def _paths(options: Namespace) -> list[tuple[str, tuple[int, int]]]:
    return [
        (f"model.layers.{block}.{name}", shape)
        for block in range(options.blocks)
        for name, shape in MAPS.items()
    ]


def _with_library(options: Namespace, n: int) -> Any:
    model = _base(options)
    library = LoRALibrary(options.rank)
    maps = {
        path: LowRank(
            down=torch.randn(options.rank, d_in) * d_in**-0.5,
            up=torch.randn(options.rank, d_out) * 0.01,
        )
        for path, (d_in, d_out) in _paths(options)
    }
    for i in range(n):  # equal ones: what is read is another place each time all the same
        library.add(LoRA(name=f"a{i}", base=None, maps=maps))
    library.attach(model)
    route = ProductKeys(D_MODEL, rank=options.rank, top_k=options.top_k, memory=64)
    library.set_route(route)
    route.keys = torch.cat([route.keys, torch.randn(n, D_MODEL + 1)])
    route.places = torch.arange(n + 1)
    return model


def _rivals(options: Namespace, folder: Path, tokens: Tensor) -> list[Contender]:
    """peft's ways; none, with a line on stderr, where it is not installed."""
    try:
        import peft
    except ImportError as error:
        print(f"peft's ways are left out ({error}): {install('peft')}", file=sys.stderr)
        return []
    found = []
    for n in options.rivals_n:
        places = _saved(peft, options, folder / str(n), n)
        for name, make in _WAYS.items():
            made = partial(make, peft, options, places, tokens)
            found.append(Contender(name=f"peft{name} {n}", make=made, baseline="base"))
    return found


def _saved(peft: Any, options: Namespace, folder: Path, n: int) -> list[Path]:
    """Folders of n random adapters."""
    config = peft.LoraConfig(
        r=options.rank, target_modules=[name.split(".")[1] for name in MAPS],
        init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = peft.get_peft_model(_base(options), config, adapter_name="a0")
    model.save_pretrained(folder)
    names = [folder / "a0"]
    for i in range(1, n):
        place = folder / f"a{i}"
        place.symlink_to(names[0])
        names.append(place)
    return names


def _arrow(peft: Any, options: Namespace, places: list[Path], tokens: Tensor) -> Call:
    from peft.tuners.lora.arrow import create_arrow_model
    from peft.tuners.lora.config import ArrowConfig

    config = ArrowConfig(top_k=options.top_k, rng_seed=0)
    model = create_arrow_model(_base(options), [str(p) for p in places], config)
    return _call(model.eval(), tokens)


def _xlora(peft: Any, options: Namespace, places: list[Path], tokens: Tensor) -> Call:
    config = peft.XLoraConfig(
        task_type="CAUSAL_LM", hidden_size=D_MODEL, xlora_depth=1, top_k_lora=options.top_k,
        adapters={str(i): str(p) for i, p in enumerate(places)},  # it calls them so by itself
    )  # fmt: skip
    model = peft.get_peft_model(_base(options), config)
    return _call(model.eval(), tokens)


def _switched(peft: Any, options: Namespace, places: list[Path], tokens: Tensor) -> Call:
    """Each call is for another adapter, as requests are."""
    model = peft.PeftModel.from_pretrained(_base(options), str(places[0]), adapter_name="a0")
    for i, place in enumerate(places[1:], 1):
        model.load_adapter(str(place), adapter_name=f"a{i}")
    model.eval()
    turn = 0

    def call() -> object:
        nonlocal turn
        turn = (turn + 1) % len(places)
        model.set_adapter(f"a{turn}")
        return model(tokens)

    return call


_WAYS = {" Arrow,": _arrow, " X-LoRA,": _xlora, ", switched among": _switched}


def _report(options: Namespace, timings: Sequence[Timing]) -> dict[str, Any]:
    return {
        "gated": is_gated("cpu"),
        **environment.describe("cpu"),
        "options": {k: v for k, v in vars(options).items() if k not in ("json", "words")},
        "seconds": {timing.name: timing.seconds for timing in timings},
        "loud": {timing.name: timing.n_loud for timing in timings},
    }

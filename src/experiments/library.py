"""Libraries of adapters that are found at run time: `python -m experiments.library COMMAND ...`.

ADAPTER is a folder: of peft (safetensors), or of a finished run with init.train=lora. NAME=FOLDER
gives it another name than its own.
"""

import argparse
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.cli import Parser, exit_codes
from experiments.system.disk import write_text_atomically

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.adapters.library import LoRALibrary
    from experiments.adapters.lora_files import LoRA


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, function in _COMMANDS.items():
        text = " ".join((function.__doc__ or "").split())
        command = commands.add_parser(name, help=text, description=text)
        _ARGUMENTS[name](command)
    given = sys.argv[1:]
    words = []
    if given and given[0] in ("route", "compare"):  # whose other words name folders alone
        words = [word for word in given if re.match(r"^[+~]*[a-z0-9_.]+=", word)]
    options = parser.parse_args([word for word in given if word not in words])
    options.words = words
    with exit_codes():
        _COMMANDS[options.command](options)


def _make(options: argparse.Namespace) -> None:
    """A library of the adapters, in a new folder."""
    from experiments.adapters.library import LoRALibrary
    from experiments.adapters.storage import is_library, save_library

    if is_library(options.folder):
        raise ValueError(
            f"{options.folder} is a library already; add to it, or name another folder"
        )
    found = [_read(word) for word in options.adapters]
    library = LoRALibrary(options.rank or max(lora.rank for lora in found))
    for lora in found:
        library.add(lora)
    save_library(library, options.folder)
    _print(library)


def _add(options: argparse.Namespace) -> None:
    """One adapter more; the others stay as they are."""
    from experiments.adapters.storage import load_library, save_library

    library = load_library(options.folder)
    library.add(_read(options.adapter))
    save_library(library, options.folder)
    _print(library)


def _remove(options: argparse.Namespace) -> None:
    """One adapter less; the others stay as they are."""
    from experiments.adapters.storage import load_library, save_library

    library = load_library(options.folder)
    library.remove(options.name)
    save_library(library, options.folder)
    _print(library)


def _show(options: argparse.Namespace) -> None:
    """What is in a library, and how it is chosen from."""
    from experiments.adapters.storage import load_library

    _print(load_library(options.folder))


def _route(options: argparse.Namespace) -> None:
    """How adapters are chosen from now on: none | mix | arrow | text. By text, each adapter gets a
    key from its run's own training text, against a named background set (eval=[...]).
    """
    from experiments.adapters.prototypes import by_text
    from experiments.adapters.storage import load_library, save_library

    library = load_library(options.folder)
    if options.by == "none":
        library.use()
    elif options.by == "mix":
        library.mix()
    elif options.by == "arrow":
        library.arrow(top_k=options.top_k, memory=options.memory)
    else:
        from experiments.run_texts import domain_name, read_adapter, read_base, read_sets

        if not options.runs:
            raise ValueError("route text needs the runs that trained the adapters, after it")
        runs, overrides, sets = _text_words(options)
        library.attach(read_base(runs[0], overrides))
        background = _only(read_sets(runs[0], sets, options.windows))
        texts = {}
        for run in runs:
            found = read_adapter(run, overrides, n_fit=options.windows, n_held_out=1)
            texts[domain_name(run)] = found.fit
        by_text(library, texts, background, top_k=options.top_k, memory=options.memory)
        library.detach()
    save_library(library, options.folder)
    _print(library)


def _compare(options: argparse.Namespace) -> None:
    """What each way to choose costs, in nats/token: no adapter, the oracle's, the mean of all,
    Arrow, keys made of text, learned keys. Writes a JSON file, for python -m analysis adapters.
    """
    import torch

    from experiments.adapters.compare import Settings, Texts, compare
    from experiments.adapters.library import LoRALibrary
    from experiments.adapters.lora_files import read_lora
    from experiments.run_texts import read_adapter, read_base, read_sets

    if options.file.exists():
        raise ValueError(f"{options.file} is there already; delete it, or name another file")
    runs, overrides, sets = _text_words(options)
    if options.later is not None:
        runs = [*runs, options.later]
    found = [
        read_adapter(run, overrides, n_fit=options.windows, n_held_out=options.held_out)
        for run in runs
    ]
    named = {one.lora.name: one for one in found}
    if len(named) < len(found):
        raise ValueError(f"two of the runs have one domain: {[one.lora.name for one in found]}")
    model = read_base(runs[0], overrides)
    n_of = {options.background: options.windows}
    others = read_sets(runs[0], sets, options.held_out, **n_of)
    if options.background not in others:
        raise ValueError(
            f"--background {options.background} is not one of the sets {', '.join(others)}"
        )
    background = others.pop(options.background)
    library = LoRALibrary(max(one.lora.rank for one in found))
    for one in found:
        library.add(one.lora)
    library.attach(model)
    texts = Texts(
        fit={name: one.fit for name, one in named.items()},
        held_out={
            **{name: one.held_out for name, one in named.items()},
            **others,
        },
        background=background,
    )
    settings = Settings(top_k=options.top_k, n_steps=options.steps, seed=options.seed)
    later = None if options.later is None else found[-1].lora.name
    single = None if options.single is None else read_lora(options.single)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        result = compare(
            library, model, texts, settings, later=later, single=single, progress=_announce
        )
    report = {
        "runs": [str(run.resolve().name) for run in runs],
        "base": library.base,
        "adapters": [name for name in named if name != later],
        "unseen": list(others),
        "settings": asdict(settings),
        "bfloat16": options.bfloat16,
        "windows": {"fit": options.windows, "held_out": options.held_out},
        **asdict(result),
    }
    options.file.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(options.file, json.dumps(report, indent=1) + "\n")
    print(options.file)


def _text_words(options: argparse.Namespace) -> tuple[list[Path], list[str], list[str]]:
    """The runs, the overrides of trainer and paths, and those with the sets' too."""
    sets = [w for w in options.words if w.lstrip("+~").startswith("eval")]
    overrides = [w for w in options.words if w not in sets]
    if not any(w.startswith("eval=") for w in sets):
        raise ValueError("no background is named; give eval=[wikitext2], or another set")
    return list(options.runs), overrides, [*overrides, *sets]


def _only(sets: "dict[str, Tensor]") -> "Tensor":
    if len(sets) != 1:
        raise ValueError(f"the background is one set, and {', '.join(sets)} are given")
    return next(iter(sets.values()))


def _read(word: str) -> "LoRA":
    from experiments.adapters.lora_files import read_lora

    name, equals, folder = word.partition("=")
    return read_lora(folder, name) if equals else read_lora(word)


def _print(library: "LoRALibrary") -> None:
    from experiments.adapters.routes import ProductKeys
    from experiments.system.text_table import aligned

    route = library.route
    keyed = route if isinstance(route, ProductKeys) else None
    rows = [("adapter", "place", "maps") + (("key",) if keyed else ())]
    for name in library.names:
        place = library.places[name]
        key = () if keyed is None else ("no" if keyed.key(place) is None else "yes",)
        rows.append((name, str(place), str(len(library.paths_of(name))), *key))
    print("\n".join(aligned(rows)))
    print(f"rank {library.rank}; chosen by {route.describe()}")
    if any(row[-1] == "no" for row in rows):
        print("an adapter without a key is not chosen; library route FOLDER text RUN... makes keys")


def _announce(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _arguments_of_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER")
    parser.add_argument("--rank", type=int, help="the most that a later adapter may have")


def _arguments_of_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("adapter", metavar="ADAPTER")


def _arguments_of_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")


def _arguments_of_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)


def _arguments_of_route(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path)
    parser.add_argument("by", choices=("none", "mix", "arrow", "text"))
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    _arguments_of_keys(parser)


def _arguments_of_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the JSON file to write")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--later", type=Path, metavar="RUN", help="comes to the running library")
    parser.add_argument("--single", type=Path, metavar="RUN", help="was trained on all domains")
    parser.add_argument("--background", default="wikitext2/train", help="one of the sets of eval=")
    parser.add_argument("--held-out", type=int, default=8, help="windows to score (default 8)")
    parser.add_argument(
        "--bfloat16", action="store_true", help="compute the base under autocast; faster"
    )
    parser.add_argument("--steps", type=int, default=60, help="of the learned keys (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    _arguments_of_keys(parser)


def _arguments_of_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=int, default=2, help="adapters a token (default 2)")
    parser.add_argument(
        "--memory", type=float, default=64, help="of the evidence, in tokens (default 64)"
    )
    parser.add_argument(
        "--windows", type=int, default=16, help="of each text, to make keys of (default 16)"
    )


_COMMANDS = {
    "make": _make, "add": _add, "remove": _remove, "show": _show, "route": _route,
    "compare": _compare,
}  # fmt: skip
_ARGUMENTS = {
    "make": _arguments_of_make, "add": _arguments_of_add, "remove": _arguments_of_remove,
    "show": _arguments_of_show, "route": _arguments_of_route, "compare": _arguments_of_compare,
}  # fmt: skip

if __name__ == "__main__":
    main()

"""Libraries of adapters that are found at run time: `python -m experiments.library COMMAND ...`.

ADAPTER is a folder: of peft (safetensors), or of a finished run with init.train=lora. NAME=FOLDER
gives it another name than its folder's. RUN is the folder of such a run, or NAME=RUN.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.words import check_text, make_node, split_pairs
from experiments.system.command import Parser, at_least, exit_codes
from experiments.system.disk import (
    OTHER_FOLDER,
    check_writable,
    make_folder,
    reached,
    write_text_atomically,
)

TOP_K, MEMORY = 2, 64
_NODES = ("eval", "trainer", "paths")  # of the runs' configs: what the command line may change
_SETS = "eval=[wikitext2]"

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.adapters.library import LoRALibrary
    from experiments.adapters.lora_files import LoRA


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (run, arguments) in _COMMANDS.items():
        text = " ".join((run.__doc__ or "").split())
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if run is not _compare:
            command.add_argument("folder", type=Path)
        arguments(command)
    given = sys.argv[1:]
    words = []
    if given and given[0] in ("route", "compare"):
        words = [word for word in split_pairs(given)[0] if make_node(word) in _NODES]
    options = parser.parse_args([word for word in given if word not in words])
    options.words = words
    with exit_codes():
        for word in given:
            check_text(word, "type it again; names of folders must be UTF-8 too")
        options.run(options)


def _make(options: argparse.Namespace) -> None:
    """A library of the adapters, in a new folder."""
    from experiments.adapters.library import lora_library
    from experiments.adapters.storage import is_library, save_library

    if is_library(options.folder):
        raise ValueError(
            f"{options.folder} is a library already; add to it, or name another folder"
        )
    check_writable(reached(options.folder.expanduser()), OTHER_FOLDER)
    library = lora_library(map(_read, options.adapters), rank=options.rank)
    save_library(library, options.folder)
    _print(library)


def _add(options: argparse.Namespace) -> None:
    """One adapter more; the others stay as they are."""
    with _changed(options.folder) as library:
        library.add(_read(options.adapter))


def _remove(options: argparse.Namespace) -> None:
    """One adapter less; the others stay as they are."""
    with _changed(options.folder) as library:
        library.remove(options.name)


def _merge(options: argparse.Namespace) -> None:
    """Adds the sum of adapters times their gates to a library, as one adapter more. With --rank the
    nearest one of that rank; the others stay as they are.
    """
    from experiments.adapters.merging import merge_in

    gates: dict[str, float] = {}
    for word in options.gates:
        name, equals, gate = word.rpartition("=")
        try:
            gates[name] = float(gate)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ValueError(f"{word}: write NAME=GATE, as recipes=0.5")
    if len(gates) < len(options.gates):
        raise ValueError("an adapter is named twice; give it one gate")
    with _changed(options.folder) as library:
        share = merge_in(library, gates, options.name, options.rank)
    if share < 1:
        print(f"{options.name}: {100 * share:.1f} % of the squared norm of the exact merge")


def _export(options: argparse.Namespace) -> None:
    """Writes one adapter of a library as a new folder of peft."""
    from experiments.adapters.peft_folder import save_lora
    from experiments.adapters.storage import load_library

    lora = load_library(options.folder).adapter(options.name)
    print(save_lora(lora, options.to))


def _show(options: argparse.Namespace) -> None:
    """Shows the adapters of a library, and how they are chosen."""
    from experiments.adapters.storage import load_library

    _print(load_library(options.folder))


def _route(options: argparse.Namespace) -> None:
    """How adapters are chosen from now on: none | mix | arrow | text. By text, each adapter gets a
    key from its run's own training text, against a named background set (eval=[...]). NAME=RUN says
    which adapter's text it is; without NAME it is the one named as the run's domain or folder.
    """
    if options.by != "text" and (options.runs or options.words):
        raise ValueError(f"route {options.by} reads no text; leave out the runs and {_SETS}")
    with _changed(options.folder) as library:
        if options.by in ("none", "mix"):
            if options.top_k is not None or options.memory is not None:
                raise ValueError(f"--top-k and --memory have no effect on route {options.by}")
            (library.use if options.by == "none" else library.mix)()
            return
        _check_top_k(options.top_k, len(library.names) + (options.by == "text"))
        how = {"top_k": options.top_k or TOP_K, "memory": options.memory or MEMORY}
        if options.by == "arrow":
            library.arrow(**how)
        else:
            _by_text(library, options, how)


def _by_text(library: "LoRALibrary", options: argparse.Namespace, how: dict[str, Any]) -> None:
    from experiments.adapters.prototypes import by_text
    from experiments.finished.texts import find_adapter, read_adapter, read_base, read_sets

    if not options.runs:
        raise ValueError("route text needs the runs that trained the adapters, after it")
    overrides, sets = _text_words(options)
    runs: dict[str, Path] = {}
    for word in options.runs:
        name, run = _named(word)
        name = find_adapter(run, library.names) if name is None else name
        library.place(name)
        if name in runs:
            raise ValueError(f"two runs are of the adapter {name!r}: {runs[name]} and {run}")
        runs[name] = run
    first = next(iter(runs.values()))
    library.attach(read_base(first, overrides))
    background = _only(read_sets(first, sets, options.windows))
    texts = {
        name: read_adapter(run, overrides, n_fit=options.windows, n_held_out=1).fit
        for name, run in runs.items()
    }
    by_text(library, texts, background, **how)
    library.detach()


def _compare(options: argparse.Namespace) -> None:
    """Shows the cost of each choice, in nats/token: no adapter, the oracle's, the mean of all,
    Arrow, keys made of text, learned keys. Writes a JSON file, for python -m analysis compare.
    """
    import torch

    from experiments.adapters.compare import Settings, Texts, compare
    from experiments.adapters.library import lora_library
    from experiments.adapters.lora_files import read_lora
    from experiments.finished.texts import read_adapter, read_base, read_sets

    if options.file.exists():
        raise ValueError(f"{options.file} is there already; delete it, or name another file")
    check_writable(reached(options.file.absolute()).parent, OTHER_FOLDER)
    overrides, sets = _text_words(options)
    words = [*options.runs, *([] if options.later is None else [options.later])]
    runs = [run for _, run in map(_named, words)]
    found = [
        read_adapter(run, overrides, name=name, n_fit=options.windows, n_held_out=options.held_out)
        for name, run in map(_named, words)
    ]
    named = {one.lora.name: one for one in found}
    if len(named) < len(found):
        names = ", ".join(one.lora.name for one in found)
        raise ValueError(f"two of the runs have one domain ({names}); name them: NAME=RUN")
    _check_top_k(options.top_k, len(found) + 1)
    model = read_base(runs[0], overrides)
    n_of = {options.background: options.windows}
    others = read_sets(runs[0], sets, options.held_out, **n_of)
    if options.background not in others:
        raise ValueError(
            f"--background {options.background} is not one of the sets {', '.join(others)}"
        )
    background = others.pop(options.background)
    library = lora_library(one.lora for one in found)
    library.attach(model)
    texts = Texts(
        fit={name: one.fit for name, one in named.items()},
        held_out={**{name: one.held_out for name, one in named.items()}, **others},
        background=background,
    )
    settings = Settings(top_k=options.top_k or TOP_K, n_steps=options.steps, seed=options.seed)
    later = None if options.later is None else found[-1].lora.name
    single = None if options.single is None else read_lora(options.single)
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
        result = compare(
            library, model, texts, settings, later=later, single=single, progress=_announce
        )
    report = {
        "runs": [run.resolve().name for run in runs],
        "base": library.base,
        "adapters": [name for name in named if name != later],
        "unseen": list(others),
        "settings": asdict(settings),
        "bfloat16": options.bfloat16,
        "windows": {"fit": options.windows, "held_out": options.held_out},
        **asdict(result),
    }
    path = reached(options.file)
    make_folder(path.parent)
    write_text_atomically(path, json.dumps(report, indent=1) + "\n", then=OTHER_FOLDER)
    print(options.file)


def _text_words(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Overrides of trainer and paths, and those with the sets' too."""
    sets = [word for word in options.words if make_node(word) == "eval"]
    if not any(word.startswith("eval=") for word in sets):
        raise ValueError(f"no background is named; give {_SETS}, or another set")
    overrides = [word for word in options.words if word not in sets]
    return overrides, [*overrides, *sets]


def _check_top_k(top_k: int | None, n: int) -> None:
    """n: what there is to choose from."""
    if top_k is not None and top_k > n:
        raise ValueError(f"--top-k {top_k} is more than the {n} to choose from; give at most {n}")


@contextlib.contextmanager
def _changed(folder: Path) -> Iterator["LoRALibrary"]:
    """Library in a folder, which is then written there again, and printed."""
    from experiments.adapters.storage import load_library, save_library

    library = load_library(folder)
    check_writable(reached(folder.expanduser()), OTHER_FOLDER)
    yield library
    save_library(library, folder)
    _print(library)


def _only(sets: "dict[str, Tensor]") -> "Tensor":
    if len(sets) != 1:
        named = ", ".join(sets) or "none"
        raise ValueError(f"the background is one set, and eval= names {named}; give {_SETS}")
    return next(iter(sets.values()))


def _read(word: str) -> "LoRA":
    from experiments.adapters.lora_files import read_lora

    name, folder = _named(word)
    return read_lora(folder, name)


def _named(word: str) -> tuple[str | None, Path]:
    """NAME=FOLDER, or FOLDER alone."""
    name, equals, folder = word.partition("=")
    if not equals:
        return None, Path(word)
    if not (name and folder):
        raise ValueError(f"{word}: write NAME=FOLDER, with both, or the folder alone")
    return name, Path(folder)


def _print(library: "LoRALibrary") -> None:
    from experiments.adapters.routes import ProductKeys
    from experiments.system.text_table import aligned

    route = library.route
    keyed = route if isinstance(route, ProductKeys) else None
    rows = [("adapter", "place", "maps") + (("key",) if keyed else ())]
    for name in library.names:
        place = library.places[name]
        key = () if keyed is None else ("no" if keyed.key(place) is None else "yes",)
        rows.append((name, str(place), str(len(library.list_paths(name))), *key))
    print("\n".join(aligned(rows)))
    print(f"rank {library.rank}; chosen by {route.describe()}")
    if any(row[-1] == "no" for row in rows):
        print("an adapter without a key is not chosen; library route FOLDER text RUN... makes keys")


def _announce(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _arguments_of_make(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapters", nargs="+", metavar="ADAPTER")
    parser.add_argument("--rank", type=at_least(1), help="the most that a later adapter may have")


def _arguments_of_merge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="of the new adapter")
    parser.add_argument("gates", nargs="+", metavar="NAME=GATE")
    parser.add_argument("--rank", type=at_least(1), help="of the new one (default: exact)")


def _arguments_of_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument("to", type=Path, metavar="FOLDER", help="a new one")


def _arguments_of_route(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("by", choices=("none", "mix", "arrow", "text"))
    parser.add_argument("runs", nargs="*", metavar="RUN")
    _arguments_of_keys(parser)


def _arguments_of_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the JSON file to write")
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--later", metavar="RUN", help="comes to the running library")
    parser.add_argument("--single", type=Path, metavar="RUN", help="was trained on all domains")
    parser.add_argument("--background", default="wikitext2/train", help="one of the sets of eval=")
    parser.add_argument(
        "--held-out", type=at_least(1), default=8, help="windows to score (default 8)"
    )
    parser.add_argument(
        "--bfloat16", action="store_true", help="compute the base under autocast; faster"
    )
    parser.add_argument(
        "--steps", type=at_least(1), default=60, help="of the learned keys (default 60)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0)
    _arguments_of_keys(parser)


def _arguments_of_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=at_least(1), help=f"adapters a token (default {TOP_K})")
    parser.add_argument(
        "--memory",
        type=at_least(1, of=float),
        help=f"of the evidence, in tokens; inf: of all (default {MEMORY})",
    )
    parser.add_argument(
        "--windows",
        type=at_least(1),
        default=16,
        help="of each text, to make keys of (default 16)",
    )


_COMMANDS: dict[str, tuple[Callable[[Any], None], Callable[[Any], object]]] = {
    "make": (_make, _arguments_of_make),
    "add": (_add, lambda parser: parser.add_argument("adapter", metavar="ADAPTER")),
    "remove": (_remove, lambda parser: parser.add_argument("name")),
    "merge": (_merge, _arguments_of_merge),
    "export": (_export, _arguments_of_export),
    "show": (_show, lambda parser: None),
    "route": (_route, _arguments_of_route),
    "compare": (_compare, _arguments_of_compare),
}

if __name__ == "__main__":
    main()

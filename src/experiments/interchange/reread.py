"""An export read back as its users will read it, before it gets its name."""

import contextlib
import importlib
import importlib.util
import sys
import types
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from experiments.interchange.forms import Form

# Of the largest logit. Sums are in another order, and float32's own error grows with the depth;
# a layer of another form is off by tenths.
_TOLERANCE = 1e-3


def check_loads(folder: Path, form: Form) -> None:
    """Raises RuntimeError if transformers can't load the folder, or reads another model.

    Of the logits of a text, half may be off: in float32 a near tie may give a token other experts.
    Without transformers, which an export doesn't need, nothing is read.
    """
    if not can_load():
        return
    try:
        with _quiet(), _class(folder, form) as cls, torch.no_grad():
            model = cls.from_pretrained(folder, dtype="auto").eval()
            logits = model(form.tokens, use_cache=False).logits
    except Exception as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(
            f"transformers can't load what was written ({type(error).__name__}: {reason}); nothing "
            "is exported; please report it with the run's config.yaml"
        ) from error
    off = (logits.float() - form.logits.float()).abs().amax(-1) / form.logits.abs().max()
    if not off.median() <= _TOLERANCE:
        raise RuntimeError(
            f"transformers loads another model than was written: its logits differ by "
            f"{float(off.median()):.2g} of the largest; nothing is exported; please report it with "
            "the run's config.yaml"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar of transformers' loading, for a while."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def can_load() -> bool:
    return importlib.util.find_spec("transformers") is not None


@contextlib.contextmanager
def _class(folder: Path, form: Form) -> Iterator[Any]:
    """Class that reads the folder: transformers', or that of the files just written there."""
    if form.is_native:
        import transformers

        yield getattr(transformers, form.architecture)
        return
    # as a package of a name that nobody has; transformers' own way would leave a copy in its cache
    package = types.ModuleType(f"_export_{uuid.uuid4().hex}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        module = importlib.import_module(f"{package.__name__}.modeling_experts")
        yield getattr(module, form.architecture)
    finally:
        sys.dont_write_bytecode = written
        for name in [n for n in sys.modules if n.partition(".")[0] == package.__name__]:
            del sys.modules[name]

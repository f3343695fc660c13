"""Keys, and their usage, that all commands have which read texts with a finished run."""

from collections.abc import Callable, Collection

from experiments.config.hydra_hints import choice_names
from experiments.config.words import SCORING, Words
from experiments.system.command import run_words

_TEXTS = """\
  texts=NAME,...              sets ({sets}), files of text,
                              or folders of packed tokens; each is a domain. Without it, the run's
                              own validation text, as the run scored it
  eval.NAME.splits=[...]      and other keys of such a set, as conf/eval/NAME.yaml has them"""
_KEYS = """\
  evaluation.max_tokens=N     of each text, in windows spread evenly; all without it
  evaluation.batch_size=N     sequences; changes no result but by rounding
  trainer.accelerator=cpu     and other keys of trainer and paths
"""


def run_on_texts(usage: str, run: Callable[[Words], None], keys: Collection[str]) -> None:
    """A command of words. usage: with {texts} and {keys} where these lines go; keys: its own."""

    def whole() -> str:
        return usage.format(texts=_TEXTS.format(sets=", ".join(choice_names("eval"))), keys=_KEYS)

    run_words(whole, run, keys=keys, nodes=SCORING)

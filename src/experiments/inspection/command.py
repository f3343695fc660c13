"""Questions about a finished run as commands of words, and the keys of those that read texts."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Question:
    """usage: with {texts} and {keys} where the lines above go. keys: its own; nodes: those of
    Hydra's config that may be changed.
    """

    usage: str
    run: Callable[[Words], None]
    keys: Collection[str]
    nodes: Collection[str] = SCORING

    def ask(self, given: Sequence[str]) -> None:
        """Answer the words of a command line, or show the usage."""

        def usage() -> str:
            texts = _TEXTS.format(sets=", ".join(choice_names("eval")))
            return self.usage.format(texts=texts, keys=_KEYS)

        run_words(usage, self.run, keys=self.keys, nodes=self.nodes, given=given)

"""A model of ours as lm-evaluation-harness' LM, without a conversion. Needs the extra `lm-eval`.

    lm = HarnessLM(scorer, encoder)
    lm_eval.simple_evaluate(lm, tasks=["..."])

experiments.finished.scores.harness_model(RUN) makes one of a run's folder.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from tqdm import tqdm

from experiments.models.sampling import Sampling
from experiments.tasks.scoring import EncodedPair, Encoder, Scorer

_MAX_NEW = 256  # tokens where a task does not say; lm-evaluation-harness' default
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


class HarnessLM(TemplateLM):
    """A model for the harness's tasks, answered by the scorer that our own tasks use.

    stride: of loglikelihood_rolling's windows; None for fixed ones. They are those of
    experiments.evaluate, so that both find the same loss of the same text.
    """

    def __init__(self, scorer: Scorer, encoder: Encoder, stride: int | None = None) -> None:
        super().__init__()
        self.scorer, self.encoder, self.stride = scorer, encoder, stride
        self._device = scorer.device

    @property
    def eot_token_id(self) -> int:
        return self.encoder.end_of_text

    @property
    def max_length(self) -> int:
        return self.scorer.seq_len

    @property
    def tokenizer_name(self) -> str:
        return "experiments"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        return self.encoder.encode(string)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        return self.encoder.encode_pair(context, continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:  # fmt: skip
        pairs = [EncodedPair(context, continuation) for _, context, continuation in requests]
        scored = self.scorer.loglikelihoods(pairs, "log-probabilities", quiet=disable_tqdm)
        for (texts, _, _), result in zip(requests, scored, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, tuple(result))
        return [(result.logprob, result.greedy) for result in scored]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        results = []
        for request in tqdm(requests, "documents", disable=disable_tqdm or None, leave=False):
            (text,) = request.args
            total = self.scorer.rolling(self.tok_encode(text), self.eot_token_id, self.stride)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
            results.append(total)
        return results

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Up to a text of `until` or the end of text: greedy, or drawn by temperature and top_p.

        The place of a request among all is the seed of its draws, so that repeats of one differ.
        """
        results = []
        bar = tqdm(requests, "generating", disable=disable_tqdm or None, leave=False)
        for seed, request in enumerate(bar):
            context, settings = request.args
            results.append(self._generate(context, settings, seed))
            self.cache_hook.add_partial("generate_until", request.args, results[-1])
        return results

    def _generate(self, context: str, settings: dict[str, Any], seed: int) -> str:
        given = next((settings[name] for name in _LENGTHS if settings.get(name)), _MAX_NEW)
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [stop for stop in until if stop]
        decode = self.encoder.tokenizer.decode

        def done(new: list[int]) -> bool:
            if new[-1] == self.eot_token_id:
                return True
            text = decode(new, skip_special_tokens=False)
            return any(stop in text for stop in stops)

        ids = self.tok_encode(context) or [self.eot_token_id]
        new = self.scorer.go_on(ids, int(given), done, _sampling(settings), seed)
        if new and new[-1] == self.eot_token_id:
            new.pop()
        text = decode(new, skip_special_tokens=False)
        for stop in stops:
            text = text.partition(stop)[0]
        return text


def _sampling(settings: dict[str, Any]) -> Sampling:
    """Sampling of a task's generation_kwargs. Raises ValueError for a way that is not ours."""
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") and "temperature" not in settings:
        temperature = 1.0
    if settings.get("do_sample") is False or temperature == 0:
        return Sampling()
    if unknown := [name for name in ("top_k", "min_p") if settings.get(name)]:
        raise ValueError(
            f"a task samples with {unknown[0]}={settings[unknown[0]]}, and the adapter by "
            "temperature and top_p alone; drop it from generation_kwargs in the task's yaml"
        )
    return Sampling(temperature=temperature, top_p=float(settings.get("top_p") or 1.0))

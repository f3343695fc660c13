"""Tasks of lm-evaluation-harness, by name or as a yaml: found, hashed and scored.

What needs the extra is imported in functions alone.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.hub import is_network_error, probe
from experiments.tasks.harness_names import unknown_task
from experiments.tasks.harness_rule import HarnessRule, write_results
from experiments.tasks.local import KEY
from experiments.tasks.scoring import Encoder, Scorer

_SEED = 1234  # of the choice of few-shot examples: lm-evaluation-harness' default
_DRAWS = 1000  # of the bootstrap for standard errors that have no formula
_GENERIC = "json, text, csv or parquet"
_AS_THEY_ARE = HarnessRule()


@dataclass(frozen=True, kw_only=True)
class HarnessTasks:
    """Loaded tasks: what was named, and by the name of each leaf task the digest of what it asks.

    named: a task, a group, or all tasks of a tag. digests are of all requests, so of data,
    few-shot examples and wording alike. rule: how they are asked.
    """

    named: Mapping[str, Sequence[Any]]
    leaves: Mapping[str, Sequence[str]]
    digests: Mapping[str, str]
    rule: HarnessRule = _AS_THEY_ARE

    def without_scored(self, evaluations: Mapping[str, Mapping[str, Any]]) -> "HarnessTasks":
        """Those that a record has not all results of; all of them where files are asked for."""
        if self.rule.output is not None:
            return self

        def is_scored(leaf: str) -> bool:
            found = evaluations.get(KEY + leaf + self.rule.suffix, {})
            return found.get("digest") == self.digests[leaf]

        missing = [name for name in self.named if not all(map(is_scored, self.leaves[name]))]
        return HarnessTasks(
            named={name: self.named[name] for name in missing},
            leaves={name: self.leaves[name] for name in missing},
            digests=self.digests,
            rule=self.rule,
        )


def load_tasks(
    names: Sequence[str],
    folder: Path | None = None,
    stride: int | None = None,
    rule: HarnessRule = _AS_THEY_ARE,
) -> HarnessTasks:
    """Named tasks with their data. folder: where yamls of one's own are looked for too; stride:
    of the windows of whole documents; rule: how they are asked.

    Raises ValueError for a name that no task has, and RuntimeError without the extra and for data
    that can't be had.
    """
    if not names:
        return HarnessTasks(named={}, leaves={}, digests={})
    manager = _manager(names, folder)
    named: dict[str, list[Any]] = {}
    leaves: dict[str, list[str]] = {}
    digests: dict[str, str] = {}
    for name in names:
        loaded = _load(manager, name)
        named[name] = [loaded["groups"][name]] if name in loaded["groups"] else []
        named[name] = named[name] or list(loaded["tasks"].values())
        leaves[name] = list(loaded["tasks"])
        for leaf, task in loaded["tasks"].items():
            if rule.num_fewshot is not None and task.get_config("num_fewshot") == 0:
                print(f"note: {leaf} keeps num_fewshot=0, which its yaml says", file=sys.stderr)
            digests[leaf] = _digest(task, stride, rule)
    return HarnessTasks(named=named, leaves=leaves, digests=digests, rule=rule)


def score_tasks(
    tasks: HarnessTasks, scorer: Scorer, encoder: Encoder, stride: int | None, run_id: str
) -> dict[str, dict[str, Any]]:
    """Results of each task and group, as a record keeps them: metric (and filter) to number.
    Where the rule asks for files, they are written and named.

    As lm_eval.simple_evaluate, but without its seven seconds of describing the environment.
    """
    if not tasks.named:
        return {}
    from lm_eval import evaluate
    from lm_eval.tasks import TaskManager

    from experiments.tasks.lm_eval_adapter import HarnessLM

    loaded = TaskManager(include_defaults=False).load(
        [one for several in tasks.named.values() for one in several]
    )
    for task in loaded["tasks"].values():
        _set_few_shots(task, tasks.rule)
    found = evaluate(
        HarnessLM(scorer, encoder, stride),
        task_dict=loaded,
        limit=tasks.rule.limit,
        bootstrap_iters=_DRAWS,
        log_samples=tasks.rule.samples,
    )
    assert found is not None
    if tasks.rule.output is not None:
        for path in write_results(tasks.rule.output, run_id, found):
            print(path)
    version = importlib.metadata.version("lm_eval")
    n_items = {name: n["effective"] for name, n in found["n-samples"].items()}
    groups = {name: sum(n_items[leaf] for leaf in tasks.leaves[name]) for name in tasks.named}
    return {
        KEY + name + tasks.rule.suffix: {
            **_metrics(values),
            "n_items": n_items.get(name, groups.get(name)),
            "n_shot": found["n-shot"].get(name),
            "version": str(found["versions"].get(name)),  # one type, for tables of many records
            "lm_eval": version,
            "seq_len": scorer.seq_len,
            "stride": stride,
            "digest": tasks.digests.get(name),
        }
        for name, values in {**found["results"], **found.get("groups", {})}.items()
    }


def _manager(names: Sequence[str], folder: Path | None) -> Any:
    """Index of the tasks; the 14,000 that the package brings take up to a minute to read."""
    from lm_eval.tasks import TaskManager

    others = [name for name in names if not Path(name).is_file()]
    manager = TaskManager(include_path=folder, include_defaults=False)
    if set(others) <= set(manager.all_tasks):
        return manager
    manager = TaskManager(include_path=folder)
    for name in others:
        if name not in manager.all_tasks:
            raise unknown_task(name, manager.all_tasks)
    return manager


def _load(manager: Any, name: str) -> Any:
    try:
        with _offline_if_unreachable():
            return manager.load([name])
    except Exception as error:  # of datasets, of its clients, and of what a yaml calls
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        if is_network_error(error):
            raise RuntimeError(
                f"tasks=[{name}]: its data is on a hub that can't be reached ({line}); write a "
                f"yaml with dataset_path: {_GENERIC} and local data_files, or a .jsonl of ours "
                "(docs/tasks.md)"
            ) from error
        raise ValueError(f"tasks=[{name}]: lm-evaluation-harness can't load it: {line}") from error


@contextlib.contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Without a network, what is in the caches is found at once, and what is not fails at once."""
    import datasets
    import huggingface_hub

    constants = huggingface_hub.constants
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    try:
        probe(constants.ENDPOINT)
    except ConnectionError:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _set_few_shots(task: Any, rule: HarnessRule) -> None:
    """As simple_evaluate does before it builds requests: a yaml's own 0 stays."""
    own = task.get_config("num_fewshot")
    if own != 0 and (own is None or rule.num_fewshot is not None):
        task.set_config(key="num_fewshot", value=rule.num_fewshot or 0)
    task.set_fewshot_seed(seed=_SEED)


def _digest(task: Any, stride: int | None, asked: HarnessRule) -> str:
    """sha256 of all that the task asks, its version and its metrics; and of the rule of windows
    where it scores whole documents.
    """
    from lm_eval.evaluator_utils import get_sample_size

    _set_few_shots(task, asked)
    limit = get_sample_size(task, asked.limit)
    task.build_all_requests(limit=limit, rank=0, world_size=1)
    config = task.dump_config()
    rule = stride if task.OUTPUT_TYPE == "loglikelihood_rolling" else None
    about = [config.get("metadata"), config.get("metric_list"), rule]
    digest = hashlib.sha256(json.dumps(about, default=str).encode())
    for instance in task.instances:
        words = [instance.request_type, instance.doc_id, instance.idx, *instance.args]
        digest.update(json.dumps(words, default=str).encode())
        digest.update(json.dumps(instance.doc, default=str, sort_keys=True).encode())
    return digest.hexdigest()


def _metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """`acc,none` is acc, `acc_stderr,none` acc_stderr; another filter stays in the name."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and "," in name
    }

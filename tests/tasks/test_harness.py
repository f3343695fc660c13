"""lm-evaluation-harness on a run of ours, without a conversion: the same numbers as our own."""

import importlib.util
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch

from experiments import evaluate
from experiments.config.paths import conf_dir
from experiments.evaluate import evaluate_run
from experiments.export import export_run
from experiments.finished.scores import harness_model
from experiments.points.planning import make_point
from experiments.records.files import read_record
from experiments.tasks import harness
from experiments.tasks.harness import load_tasks
from experiments.tasks.harness_names import check_extra
from experiments.training.execute import execute
from tests.conftest import TINY, WORDS, Nursery, run_cache
from tests.rounding import relative

installed = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install -e '.[lm-eval]'",
)


def test_without_the_extra_one_line_says_what_to_install(run_dir, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"tasks=\[arc_easy\]: cloze, .* and .jsonl") as e:
        evaluate_run(run_dir, ["tasks=[arc_easy]", run_cache(run_dir)])
    assert "not installed: pip install -e '.[lm-eval]' in a clone" in str(e.value)
    with pytest.raises(RuntimeError, match=r"this is lm-evaluation-harness', which is not inst"):
        check_extra()


def write_yaml(folder, name, lines, **settings):
    """A task of lm-evaluation-harness with its data beside it."""
    data = folder / f"{name}-data.jsonl"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "hf")},
        "test_split": "test",
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(values))  # JSON is YAML
    return path


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [{"metric": m} for m in ("acc", "acc_norm", "acc_bytes")],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "text",
    "metric_list": [{"metric": m} for m in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
}


def committed(name):
    lines = (conf_dir() / "tasks" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def instances(*arguments, kind="loglikelihood"):
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, args, i, ("task", i, 1)) for i, args in enumerate(arguments)]


@installed
def test_accuracy_through_the_harness_is_ours_exactly(run_dir, tmp_path):
    for name in ("cloze", "grammar"):
        write_yaml(tmp_path, f"their_{name}", committed(name), **CHOICE)
    words = ["tasks=[cloze,grammar,their_cloze,their_grammar]", f"tasks_folder={tmp_path}"]
    record = evaluate_run(run_dir, [*words, run_cache(run_dir)])
    for name in ("cloze", "grammar"):
        ours, theirs = (record.evaluations[f"tasks/{prefix}{name}"] for prefix in ("", "their_"))
        for metric in ("acc", "acc_norm", "acc_bytes"):
            assert theirs[metric] == ours[metric], (name, metric)
            assert theirs[f"{metric}_stderr"] == pytest.approx(ours[f"{metric}_stderr"])
        assert theirs["n_items"] == ours["n_items"] == len(committed(name))
    assert record == read_record(run_dir / "record.json")
    # scored once: nothing is read again, until the data changes
    (run_dir / "last.ckpt").write_bytes(b"no longer a checkpoint")
    assert evaluate_run(run_dir, [*words, run_cache(run_dir)]) == record
    write_yaml(tmp_path, "their_cloze", committed("cloze")[:-1], **CHOICE)
    with pytest.raises(ValueError, match=r"last.ckpt is damaged"):
        evaluate_run(run_dir, [*words, run_cache(run_dir)])


@installed
def test_a_group_is_its_tasks_and_their_mean(run_dir, tmp_path):
    for name in ("cloze", "grammar"):
        write_yaml(tmp_path, f"their_{name}", committed(name), **CHOICE)
    group = {
        "group": "both",
        "task": ["their_cloze", "their_grammar"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "both.yaml").write_text(json.dumps(group))
    words = [f"tasks_folder={tmp_path}", run_cache(run_dir)]
    record = evaluate_run(run_dir, ["tasks=[both]", *words])
    both, cloze, grammar = (
        record.evaluations[f"tasks/{name}"] for name in ("both", "their_cloze", "their_grammar")
    )
    n_cloze, n_grammar = len(committed("cloze")), len(committed("grammar"))
    assert both["n_items"] == n_cloze + n_grammar
    hits = cloze["acc"] * n_cloze + grammar["acc"] * n_grammar
    assert both["acc"] == pytest.approx(hits / both["n_items"])
    (run_dir / "last.ckpt").write_bytes(b"no longer a checkpoint")
    assert evaluate_run(run_dir, ["tasks=[their_grammar,their_cloze]", *words]) == record
    assert evaluate_run(run_dir, ["tasks=[both]", *words]) == record


@installed
def test_a_name_that_nobody_has_is_one_line_with_names_near_it(run_dir, tmp_path):
    write_yaml(tmp_path, "their_cloze", committed("cloze"), **CHOICE)
    with pytest.raises(
        ValueError, match=r"\[their_close\]: neither a file.*; near it are their_cl"
    ):
        evaluate_run(run_dir, ["tasks=[their_close]", f"tasks_folder={tmp_path}"])


@installed
def test_simple_evaluate_takes_the_model_and_finds_the_same(run_dir, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    write_yaml(tmp_path, "their_cloze", committed("cloze"), **CHOICE, num_fewshot=2,
               fewshot_split="test")  # fmt: skip
    words = ["tasks=[their_cloze]", f"tasks_folder={tmp_path}", run_cache(run_dir)]
    ours = evaluate_run(run_dir, words).evaluations["tasks/their_cloze"]
    manager = TaskManager(include_path=tmp_path, include_defaults=False)
    lm = harness_model(run_dir, [run_cache(run_dir)])
    found = simple_evaluate(lm, tasks=["their_cloze"], task_manager=manager, bootstrap_iters=100)
    theirs = found["results"]["their_cloze"]
    for metric in ("acc", "acc_norm", "acc_bytes", "acc_stderr"):
        assert theirs[f"{metric},none"] == ours[metric]
    assert found["n-shot"]["their_cloze"] == ours["n_shot"] == 2


@pytest.mark.long
@installed
def test_few_shots_and_a_part_of_the_questions_are_the_harness_s_own(run_dir, tmp_path, capsys):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    copied = shutil.copytree(run_dir, tmp_path / "s" / run_dir.name)
    path = write_yaml(tmp_path, "part", committed("cloze"), fewshot_split="test", **CHOICE)
    asked = [f"tasks=[{path}]", "num_fewshot=2", "limit=0.25", run_cache(run_dir)]
    out = [f"output_path={tmp_path / 'out'}", "log_samples=true"]
    record = evaluate_run(copied, [*asked, *out])
    ours = record.evaluations["tasks/part@num_fewshot=2,limit=0.25"]
    assert (ours["n_shot"], ours["n_items"]) == (2, 9)
    manager = TaskManager(include_path=tmp_path, include_defaults=False)
    theirs = simple_evaluate(
        harness_model(run_dir, [run_cache(run_dir)]), tasks=["part"], num_fewshot=2, limit=0.25,
        task_manager=manager,
    )  # fmt: skip
    for metric in ("acc", "acc_norm", "acc_bytes", "acc_stderr"):
        assert theirs["results"]["part"][f"{metric},none"] == ours[metric]
    (results,) = (tmp_path / "out").glob("results_*.json")
    found = json.loads(results.read_text())
    assert found["results"]["part"]["acc,none"] == ours["acc"]
    assert found["n-shot"] == {"part": 2}
    assert found["config"]["model_args"] == {"run_id": record.run_id}
    (samples,) = (tmp_path / "out").glob("samples_part_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == list(range(9))
    assert sum(row["acc"] for row in rows) / 9 == ours["acc"]
    logprobs = [one[0] for one in theirs["samples"]["part"][3]["filtered_resps"]]
    assert [one[0] for one in rows[3]["filtered_resps"]] == pytest.approx(logprobs, rel=1e-6)
    assert evaluate_run(copied, [*asked]).evaluations == record.evaluations  # scored already
    capsys.readouterr()
    evaluate_run(copied, [*asked, out[0]])  # asked for as a file, it is scored again
    assert len(list((tmp_path / "out").iterdir())) >= 2
    assert "results_" in capsys.readouterr().out

    fixed = write_yaml(tmp_path, "fixed", committed("cloze"), num_fewshot=0, **CHOICE)
    words = [f"tasks=[{fixed}]", "num_fewshot=2", run_cache(run_dir)]
    assert evaluate_run(copied, words).evaluations["tasks/fixed@num_fewshot=2"]["n_shot"] == 0
    assert "note: fixed keeps num_fewshot=0" in capsys.readouterr().err


@installed
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["num_fewshot=x"], "num_fewshot=x must be a whole number of at least 0"),
        (["num_fewshot=-1"], "num_fewshot=-1 must be"),
        (["limit=0"], "limit=0 must be a number of questions, or a share"),
        (["limit=1.5"], "limit=1.5 must be"),
        (["limit=nan"], "limit=nan must be"),
        (["limit=1e999"], "limit=1e999 must be"),
        (["log_samples=maybe", "output_path=a"], "log_samples=maybe must be true or false"),
        (["log_samples=true"], "log_samples=true needs a place .* give output_path=FOLDER"),
        (["output_path=RECORD"], "is a file; name a folder"),
        (["tasks=[cloze]", "limit=4"], "limit=4 is of .* tasks, and cloze is not: score it by"),
        (["tasks=[]", "limit=4", "eval=[validation]"], "limit=4 is of .*, and none is named"),
    ],
)
def test_options_that_can_t_be_are_one_line(run_dir, tmp_path, words, message):
    path = write_yaml(tmp_path, "part", committed("cloze"), **CHOICE)
    given = [word.replace("RECORD", str(run_dir / "record.json")) for word in words]
    tasks = [] if words[0].startswith("tasks") else [f"tasks=[{path}]"]
    with pytest.raises(ValueError, match=message) as error:
        evaluate_run(run_dir, [*tasks, *given, run_cache(run_dir)])
    assert "\n" not in str(error.value)


@pytest.mark.long
@installed
def test_all_names_are_listed_without_a_run(command, tmp_path):
    write_yaml(tmp_path, "mine_alone", committed("cloze"), **CHOICE)
    code, out, _ = command(evaluate, "tasks=list", f"tasks_folder={tmp_path}")
    names = out.splitlines()
    assert code == 0
    assert {"cloze", "grammar", "lambada_openai", "arc_easy", "mine_alone"} <= {*names}
    assert len(names) > 1000


@installed
@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="the harness's hf model needs accelerate"
)
@pytest.mark.usefixtures("hub_modules")
def test_the_harness_s_own_model_scores_an_export_as_the_run(run_dir, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    export_run(run_dir, tmp_path / "export", [run_cache(run_dir)])
    theirs = HFLM(
        pretrained=str(tmp_path / "export"), trust_remote_code=True, device="cpu", dtype="float32"
    )
    texts = [{"text": " ".join(WORDS[i::3]) + " ."} for i in range(3)]
    write_yaml(tmp_path, "own", texts, **ROLLING)
    manager = TaskManager(include_path=tmp_path, include_defaults=False)
    found = []
    for lm in (harness_model(run_dir, [run_cache(run_dir)]), theirs):
        result = simple_evaluate(lm, tasks=["own"], task_manager=manager, bootstrap_iters=0)
        found.append(result["results"]["own"]["bits_per_byte,none"])
    assert found[0] == pytest.approx(found[1], rel=relative(1))


@installed
def test_loglikelihood_is_a_slow_reference_s(run_dir):
    """float64, one request at a time, by torch alone; 1e-4 nats for the batch's float32."""
    lm = harness_model(run_dir, [run_cache(run_dir)])
    pairs = [
        ("the cat sat", " on a mat"),
        ("the cat sat ", "on a mat"),
        ("", "seven dogs"),
        ("past it ran \n", " the"),
        (" ".join(["while seven dogs"] * 40), " ran past"),
    ]
    found = lm.loglikelihood(instances(*pairs), disable_tqdm=True)
    model, tokenizer = lm.scorer.model, lm.encoder.tokenizer
    for (context, continuation), (logprob, greedy) in zip(pairs, found, strict=True):
        kept = context.rstrip()
        n_before = len(tokenizer.encode(kept).ids) if kept else 0
        ids = tokenizer.encode(context + continuation).ids
        row = ids if n_before else [lm.eot_token_id, *ids]
        n_scored, row = len(ids) - n_before, row[-(lm.max_length + 1) :]
        logs = model(torch.tensor([row[:-1]])).detach()[0].double().log_softmax(-1)
        targets = torch.tensor(row[1:])
        each = logs.gather(1, targets[:, None])[-n_scored:]
        assert logprob == pytest.approx(float(each.sum()), rel=relative(1))
        assert greedy == bool((logs.argmax(-1) == targets)[-n_scored:].all())


@installed
def test_encodes_pairs_as_the_harness_does(run_dir):
    from lm_eval.api.model import TemplateLM

    lm = harness_model(run_dir, [run_cache(run_dir)])
    rng = np.random.default_rng(0)
    letters = list("the cat sat on dogs seven  \n\té")
    for _ in range(300):
        context, continuation = ("".join(rng.choice(letters, 12)) for _ in range(2))
        if not context.strip():
            continue
        theirs = TemplateLM._encode_pair(lm, context, continuation)
        if theirs[1]:  # where it is empty, the harness fails later, and ours says why
            assert tuple(lm._encode_pair(context, continuation)) == theirs


@installed
@pytest.mark.parametrize("stride", [None, pytest.param(16, marks=pytest.mark.long)])
def test_perplexity_of_a_text_is_experiments_evaluate_s(compose_raw, tmp_path, stride):
    """Within 1e-3 nats a token. The harness scores a document after an end of text, and
    experiments.evaluate the whole stream but for its first token: so windows differ by one place.
    """
    (tmp_path / "train.txt").write_text("\n\n".join(Nursery().documents("train", tmp_path)))
    rng = np.random.default_rng(0)
    text = " ".join(rng.choice(WORDS, 6_000))
    (tmp_path / "valid.txt").write_text(text)
    overrides = [word for word in TINY if "data.corpus" not in word]
    point = make_point(
        compose_raw(
            "model=peer", "size=2", "budget=2e9", *overrides, "data=local",
            f"data.path={tmp_path / 'train.txt'}",
            f"data.corpus.validation_path={tmp_path / 'valid.txt'}",
            "data.corpus.text_unit=file",
            f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}",
        )
    )  # fmt: skip
    assert execute(point).status == "done"
    path = write_yaml(tmp_path, "valid", [{"text": text}], **ROLLING)
    command = ["eval=[validation]", f"tasks=[{path}]", f"paths.cache={tmp_path / 'cache'}"]
    rule = [] if stride is None else [f"evaluation.stride={stride}"]
    found = evaluate_run(point.run_dir, [*command, *rule]).evaluations
    ours = found["validation" + ("" if stride is None else f"@stride={stride}")]
    theirs = found["tasks/valid"]
    n_tokens, n_bytes = ours["n_tokens"], len(text.encode())
    assert n_tokens > 10_000
    nats = {
        "bits_per_byte": theirs["bits_per_byte"] * math.log(2) * n_bytes,
        "byte_perplexity": math.log(theirs["byte_perplexity"]) * n_bytes,
        "word_perplexity": math.log(theirs["word_perplexity"]) * len(re.split(r"\s+", text)),
    }
    for metric, total in nats.items():
        assert total / n_tokens == pytest.approx(ours["loss"], abs=1e-3), metric


@installed
def test_generates_greedily_up_to_a_stop(run_dir):
    lm = harness_model(run_dir, [run_cache(run_dir)])
    whole, cut = lm.generate_until(
        instances(
            ("the cat", {"until": [], "max_gen_toks": 40}),
            ("the cat", {"until": ["a"], "max_new_tokens": 40, "do_sample": False}),
            kind="generate_until",
        ),
        disable_tqdm=True,
    )
    row = lm.tok_encode("the cat")
    for _ in range(40):
        logits = lm.scorer.model(torch.tensor([row[-lm.max_length :]]))
        row.append(int(logits[0, -1].argmax()))
        if row[-1] == lm.eot_token_id:
            row.pop()
            break
    assert whole == lm.encoder.tokenizer.decode(row[len(lm.tok_encode("the cat")) :])
    assert "a" in whole
    assert cut == whole.partition("a")[0]


@installed
def test_draws_by_temperature_where_a_task_asks_for_it(run_dir):
    lm = harness_model(run_dir, [run_cache(run_dir)])

    def texts(n=1, **settings):
        asked = instances(*[("the", {"until": [], "max_gen_toks": 20, **settings})] * n,
                          kind="generate_until")  # fmt: skip
        return lm.generate_until(asked, disable_tqdm=True)

    drawn = texts(3, do_sample=True)
    assert len(set(drawn)) == 3  # repeats of one request differ
    assert texts(3, do_sample=True, temperature=1.0) == drawn
    greedy = texts()
    assert texts(do_sample=True, temperature=1e-4) == greedy
    assert texts(do_sample=True, temperature=0.0) == greedy
    assert texts(do_sample=False, temperature=1.0) == greedy
    assert texts(do_sample=True, top_p=1e-6) == greedy
    with pytest.raises(ValueError, match=r"samples with top_k=5, and the adapter by temperature"):
        texts(do_sample=True, top_k=5)


@installed
def test_a_task_whose_data_is_out_of_reach_is_one_line(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "probe", lambda endpoint: (_ for _ in ()).throw(ConnectionError))
    write_yaml(tmp_path, "far", [], **CHOICE)
    values = json.loads((tmp_path / "far.yaml").read_text())
    values |= {"dataset_path": "nobody/has-this", "dataset_kwargs": {}}
    (tmp_path / "far.yaml").write_text(json.dumps(values))
    with pytest.raises(RuntimeError, match=r"tasks=\[far\]: its data is on a hub that can't") as e:
        evaluate_run(run_dir, ["tasks=[far]", f"tasks_folder={tmp_path}", run_cache(run_dir)])
    assert "\n" not in str(e.value)


@installed
def test_a_yaml_that_can_t_be_loaded_is_one_line(tmp_path):
    path = write_yaml(tmp_path, "bad", committed("cloze"), **CHOICE)
    (tmp_path / "bad-data.jsonl").unlink()
    with pytest.raises(ValueError, match=r"bad.yaml\]: lm-evaluation-harness can't load") as error:
        load_tasks([str(path)])
    assert "\n" not in str(error.value)

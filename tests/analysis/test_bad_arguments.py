"""Whatever is typed or handed in that can't work: one line, the right exit code, nothing written.

All through the command's own main. A case that ends before the fits is a few milliseconds.
"""

import math
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from analysis import command
from analysis.__main__ import main
from analysis.commands.compare import COMMAND

ROW = "dense,6e12,1e6,1e6,4.0,1,0"
HEAD = "model,budget,n_params,n_tokens,loss,n_experts,seed\n"


def table():
    """Two models, three budgets, five sizes, two seeds; fits in a moment."""
    rows = [
        {
            "model": model,
            "budget": budget,
            "n_params": size,
            "n_tokens": budget / 6 / size,
            "loss": 4 - gain + 0.08 * math.log(size / best) ** 2 + 0.001 * seed,
            "n_experts": experts,
            "seed": seed,
        }
        for model, gain, experts in (("dense", 0.0, 1), ("moe", 0.1, 8))
        for budget, best in ((1e12, 2e5), (4e12, 4e5), (16e12, 8e5))
        for size in (best / 3, best / 1.7, best, best * 1.7, best * 3)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


def csv(*rows, head=HEAD):
    return (head + "\n".join(rows) + "\n").encode()


def change(**values):
    """A CSV of one good row, and one with these values."""
    names = HEAD.strip().split(",")
    good = dict(zip(names, ROW.split(","), strict=True))
    extra = [name for name in values if name not in names]
    other = {**good, "n_params": "2e6", "n_tokens": "5e5", **values}
    rows = [",".join(row.get(n, "") for n in (*names, *extra)) for row in (good, other)]
    return csv(*rows, head=",".join((*names, *extra)) + "\n")


FILES = {
    "text.txt": b"x",
    "runs.xlsx": b"PK\x03\x04",
    "empty.csv": b"",
    "head.csv": HEAD.encode(),
    "semicolons.csv": csv(ROW).replace(b",", b";"),
    "tabs.csv": csv(ROW).replace(b",", b"\t"),
    "bytes.csv": bytes(range(256)) * 4,
    "utf16.csv": csv(ROW).decode().encode("utf-16"),
    "ragged.csv": csv(ROW, ROW + ",7,8,9"),
    "twice.csv": csv(ROW, head=HEAD.replace("seed", "loss")),
    "spaces.csv": csv(ROW).replace(b",", b" "),
    "mixed.csv": csv(ROW, ROW.replace("4.0", "4.1"), head=HEAD.replace(",", ";")),
    "blank.csv": b"\n" + csv(ROW),
    "noloss.csv": csv(ROW, head=HEAD.replace("loss", "nll")),
    "nothing.csv": b"size,cost,nll\n1e6,6e12,4\n",
    "nobudget.csv": csv(ROW, head=HEAD.replace("budget", "cost")),
    "below_one.csv": csv(ROW.replace("4.0", "0.5"), head=HEAD.replace("loss", "ppl")),
    "comma.csv": change(loss='"4,125"'),
    "huge_seed.csv": change(seed="1e30"),
    "rate.csv": change(lr="-1"),
    "gigaflops.csv": csv(ROW.replace("6e12", "6e3")),
    "empty_loss.csv": csv(ROW.replace("4.0", "")),
    "names.csv": csv(*(f"run{n},6e12,{n}e6,{1 / n}e6,4.{n},1,0" for n in range(1, 6))),
    "counted.csv": csv(*(f"m,6.{n}e12,{n}e6,{1 / n}e6,4.{n},1,0" for n in range(1, 6))),
    "nosize.csv": csv(ROW, head=HEAD.replace("n_params", "width")),
    "losses.csv": csv(ROW + ",3", head=HEAD.replace("loss", "val_loss").strip() + ",eval_loss\n"),
    "bad.parquet": b"PAR1 but no more",
    "text_loss.csv": change(loss="four"),
    "no_loss.csv": change(loss="", status="done"),
    "zero_loss.csv": change(loss="0"),
    "negative_loss.csv": change(loss="-1"),
    "tiny_loss.csv": change(loss="1e-300"),
    "infinite_loss.csv": change(loss="inf", status="done"),
    "perplexity.csv": change(loss="54.6"),
    "zero_params.csv": change(n_params="0"),
    "negative_budget.csv": change(budget="-6e12"),
    "infinite_tokens.csv": change(n_tokens="inf"),
    "half_expert.csv": change(n_experts="1.5"),
    "no_expert.csv": change(n_experts="0"),
    "units.csv": change(budget="6"),
    "swapped.csv": change(n_active_params="9e9"),
    "status.csv": change(status="finished"),
    "failed.csv": csv(ROW + ",failed", head=HEAD.strip() + ",status\n"),
    "causal.csv": change(causal_eval="perhaps"),
    "noname.csv": change(model=""),
    "ids.csv": csv(ROW + ",a", ROW.replace("4.0", "4.1") + ",a", head=HEAD.strip() + ",run_id\n"),
    "one.csv": csv(ROW),
    "two.csv": change(),
    "torn/a/record.json": b'{"run_id": "a", "sta',
    "deep/a/record.json": b"[" * 100_000,
    "nothing/readme": b"",
}
EQUAL = [f"dense,6e12,{n}e6,{1 / n}e6,4.0,1,0" for n in range(1, 9)]
FILES["equal.csv"] = csv(*EQUAL)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    table().to_csv(folder / "good.csv", index=False)
    return folder


def tree(folder):
    """Each path, of a file with its date: a folder's is that of a try to write there."""
    return sorted(
        (str(path), path.is_dir() or path.lstat().st_mtime_ns) for path in folder.rglob("*")
    )


def refused(here, capsys, monkeypatch, words, code):
    """Line on stderr."""
    monkeypatch.chdir(here)
    before = tree(here)
    try:
        got = main(words)
    except SystemExit as stop:
        got = stop.code
    err = capsys.readouterr().err
    assert got == code, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert tree(here) == before
    return err.strip()


PARSED = """
-> required: COMMAND
frobnicate good.csv -> invalid choice: 'frobnicate'
isoflop -> required: path
isoflop '' -> '' is no path
isoflop good.csv --out= -> '' is no path
isoflop good.csv --frobnicate -> unrecognized arguments: --frobnicate
isoflop good.csv more.csv -> unrecognized arguments: more.csv
isoflop good.csv --x width -> invalid choice: 'width'
isoflop good.csv --method cubic -> invalid choice: 'cubic'
isoflop good.csv --n-nearest many -> invalid int value: 'many'
isoflop good.csv --n-nearest 3.5 -> invalid int value: '3.5'
isoflop good.csv --noise small -> invalid float value: 'small'
parametric good.csv --draws many -> invalid int value: 'many'
parametric good.csv --residual mean -> invalid choice: 'mean'
parametric good.csv --x n_tokens -> invalid choice: 'n_tokens'
experts good.csv --form cubic -> invalid choice: 'cubic'
experts good.csv --hold-out seed -> invalid choice: 'seed'
experts good.csv --residual mean -> invalid choice: 'mean'
surfaces good.csv --form none-such -> invalid choice: 'none-such'
surfaces good.csv --hold-out seed -> invalid choice: 'seed'
plan good.csv --half-width .01 --pool size -> invalid choice: 'size'
plan good.csv --budget much -> invalid float value: 'much'
report good.csv --x width -> invalid choice: 'width'
"""

OPTIONS = """
isoflop good.csv --n-nearest 2 -> --n-nearest 2 must be 3 or more
isoflop good.csv --n-nearest -1 -> --n-nearest -1 must be 3 or more
isoflop good.csv --noise 0 -> --noise 0 must be a finite number of nats above 0
isoflop good.csv --noise=-1 -> --noise -1 must be a finite number of nats above 0
isoflop good.csv --noise nan -> --noise nan must be a finite number of nats above 0
isoflop good.csv --noise inf -> --noise inf must be a finite number of nats above 0
isoflop good.csv --table column.loss -> --table column.loss must be column.OURS=THEIRS,
isoflop good.csv --table column.=loss -> --table column.=loss must be column.OURS=THEIRS,
isoflop good.csv --table column.loss= -> --table column.loss= must be column.OURS=THEIRS,
isoflop good.csv --table column.width=loss -> --table column: 'width' is not one of series, model
isoflop good.csv --table column.loss=width -> --table column: loss='width' is not there; found model
isoflop good.csv --table column.loss=a --table column.loss=b -> --table column.loss is given twice;
isoflop good.csv --table unit.budget -> --table unit.budget must be column.OURS=THEIRS,
isoflop good.csv --table unit.budget=GFLAP -> --table unit: budget='GFLAP' is not one of FLOP,
isoflop good.csv --table unit.budget=0 -> --table unit: budget='0' is not one of FLOP
isoflop good.csv --table unit.loss=GFLOP -> --table unit: loss='GFLOP' is not one of nat, bit,
isoflop good.csv --table unit.seed=M -> --table unit: 'seed' is not one of budget, n_params
isoflop good.csv --table unit.budget=M --table unit.budget=k -> --table unit.budget is given twice;
isoflop good.csv --table unit.flops_per_token=GFLOP -> --table unit: there is no flops_per_token;
isoflop good.csv --series= -> --series is empty
isoflop good.csv --series model, -> --series 'model,' must be COLUMN[,COLUMN], each once, or none
isoflop good.csv --series width -> --series: 'width' is no column; found series, model
isoflop good.csv --series seed --table column.series=seed -> both name the series; give one
experts good.csv --series seed -> --series is not for experts, which compares models; --table
isoflop nothing --table separator=tab -> --table separator 'tab' is of a CSV, and nothing is none;
isoflop good.csv --table separator=,, -> --table separator ',,' is none: comma, semicolon, tab,
isoflop good.csv --where model -> --where 'model' must be COLUMN=VALUE[,VALUE]
isoflop good.csv --where model=a --where model=b -> --where model is given twice; give model=a,b
isoflop good.csv --where model=pkm -> --where: no run has model=pkm; they have dense, moe
isoflop good.csv --where width=1 -> --where: 'width' is no column; found series, model
isoflop good.csv --where budget=much -> --where: budget='much' is not a number
parametric good.csv --draws 0 -> --draws 0 must be 2 to 100000
parametric good.csv --draws 1 -> --draws 1 must be 2 to 100000
parametric good.csv --draws=-5 -> --draws -5 must be 2 to 100000
parametric good.csv --draws 1000000000 -> --draws 1000000000 must be 2 to 100000
parametric good.csv --delta 0 -> --delta 0 must be above 0
parametric good.csv --delta nan -> --delta nan must be above 0
parametric good.csv --model pkm -> has no finished run; the table has dense, moe
parametric good.csv --model= -> --model is empty; give a value, or leave it out
experts good.csv --model pkm -> no finished run of --model pkm; the table has dense, moe
experts good.csv --baseline pkm -> no finished run of --model pkm; the table has dense, moe
experts good.csv --model moe --size width -> --size width is no column; found series, model
experts good.csv -> models with experts: dense, moe; choose one with --model
experts good.csv --size seed -> --size seed is not a size of models
experts good.csv --size n_params -> counts the experts and grows with them
differences good.csv --baseline pkm -> wanted: pkm and another; at C=1e+12 two seeds
differences good.csv --budget 0 -> --budget 0 must be a finite number of FLOPs above 0
differences good.csv --budget 5 -> at C=5 two seeds or more have: none
differences good.csv --by width -> by='width' is no column; found series
differences good.csv --noise-of nan -> --noise-of nan must be a finite number of FLOPs
differences good.csv --by n_layers --holm -> --by n_layers and --holm don't go together
differences good.csv --noise-of 5 -> at C=5: no setting was run with two seeds or more
plan good.csv --for width --budget 1e13 -> --for width must be N*@FLOPS, a, alpha
plan good.csv --for a --budget 0 -> --budget 0 must be a finite number of FLOPs above 0
plan good.csv --for a --budget 1e13 --model pkm -> --model pkm must be one of dense, moe
plan good.csv --for a --budget 1e13 --base x -> --base x is of --write YAML; give it too
plan good.csv --half-width 0 -> --half-width 0 must be a finite number of nats above 0
plan good.csv --half-width .01 --level 1 -> --level 1 must be between 0 and 1, e.g. 0.95
plan good.csv --half-width .01 --pilot 1 -> --pilot 1 must be 2 or more: one seed has no scatter
plan good.csv --half-width .01 --baseline pkm -> --baseline pkm has no finished run; the table
isoflop good.csv --table flops=8nd -> --table flops=8nd must be 6nd, or left out
isoflop good.csv --table budget=1 -> --table budget=1 must be column.OURS=THEIRS, unit.OURS=UNIT
plan good.csv -> plan needs more options; give --budget: what size, tokens and experts
plan good.csv --for a -> plan needs more options; give --for with --budget: which runs would
plan good.csv --for a --half-width 1 -> no question takes --for, --half-width together; leave out
plan good.csv --question seeds --budget 1e13 -> --budget is for size and runs, and not for seeds
plan good.csv --budget 1e13 --pilot 3 -> no question takes --budget, --pilot together; leave out
plan good.csv --for a --budget 1e13 --form joint -> no question takes --budget, --for, --form
plan good.csv --for a --budget 1e13 --x n_tokens -> --x n_tokens is of a plan by isoFLOP curves
plan good.csv --budget 1e13 --out x -> --out is not for plan_size, which reads a budget and
plan good.csv --budget 1e13 --method surfaces --n-nearest 3 -> --n-nearest is of isoFLOP curves
plan good.csv --budget 0 -> --budget 0 must be a finite number of FLOPs above 0
plan good.csv --budget=-1 -> --budget -1 must be a finite number of FLOPs above 0
plan good.csv --budget nan -> --budget nan must be a finite number of FLOPs above 0
plan good.csv --budget 1e300 -> --budget 1e300 is 6.25e+286 times beyond the budgets
plan good.csv --budget 1e-290 -> --budget 1e-290 is 1e+302 times beyond the budgets
plan good.csv --budget 1e-310 -> --budget 1e-310 is inf times beyond the budgets
plan good.csv --budget 1e13 --model pkm -> must name one whose laws were fitted: dense, moe
plan good.csv --budget 1e13 --min-gain 0 -> --min-gain 0 must be a finite number of nats
plan good.csv --budget 1e13 --method surfaces --unique-tokens 0 -> must be a finite number of tokens
plan good.csv --budget 1e13 --min-gain nan -> --min-gain nan must be a finite number of nats
report good.csv --asymptote nan -> --asymptote nan must be a finite number of nats, 0 or more
report good.csv --asymptote inf -> --asymptote inf must be a finite number of nats, 0 or more
report good.csv --asymptote=-1 -> --asymptote -1 must be a finite number of nats, 0 or more
report good.csv --asymptote 99 -> --asymptote 99 must be below every loss: the lowest is 3.9
report good.csv --asymptote 2,x -> '2,x' is no NATS or LOWEST,HIGHEST
report good.csv --asymptote 2,1 -> '2,1' is no NATS or LOWEST,HIGHEST
report good.csv --asymptote 1,99 -> --asymptote 99 must be below every loss: the lowest is 3.9
multiplier good.csv --baseline pkm -> --baseline pkm has no finished run; the table has dense, moe
multiplier good.csv --at 0 -> --at 0 must be a finite number of FLOPs above 0
multiplier good.csv --at-loss=-1 -> --at-loss -1 must be a finite number of nats above 0
report good.csv --baseline pkm -> --baseline pkm has no finished run; the table has dense, moe
report good.csv --title= -> --title is empty
"""

TABLES = """
isoflop nowhere -> nowhere: no such file or folder
report nowhere.csv -> nowhere.csv: no such file or folder
isoflop text.txt -> its suffix is not .csv, .tsv or .parquet
isoflop runs.xlsx -> its suffix is not .csv, .tsv or .parquet
isoflop empty.csv -> empty.csv is empty
isoflop head.csv -> head.csv has no rows
isoflop spaces.csv -> it is one column: is its separator another? e.g. --table separator=tab
isoflop semicolons.csv --table separator=tab -> it is one column: is its separator another?
isoflop mixed.csv -> mixed.csv: line 2 has 7 fields, its head 1: put texts with a comma in quotes
isoflop twice.csv -> twice.csv: columns occur twice: loss; rename or drop one
isoflop blank.csv -> blank.csv: line 1 is empty; it must name the columns
isoflop bytes.csv -> bytes.csv is not a CSV in UTF-8: line 2 has the byte 0x80; save it as UTF-8
isoflop utf16.csv -> utf16.csv is not a CSV in UTF-8: it begins as UTF-16 does; save it
isoflop ragged.csv -> ragged.csv: line 3 has 10 fields, its head 7: put texts with a comma in quotes
isoflop noloss.csv -> no column loss; found model, budget, n_params, n_tokens, nll, n_experts
isoflop noloss.csv -> say which it is: --table column.loss=MY_NAME
isoflop nosize.csv -> say which it is: --table column.n_params=MY_NAME
isoflop nothing.csv -> no column loss, budget, n_params or n_active_params; found size, cost, nll
isoflop nothing.csv -> --table column.loss=MY_NAME --table column.budget=MY_NAME --table
isoflop nothing.csv --x n_tokens -> --table column.loss=MY_NAME --table column.n_params=MY_NAME
plan nothing.csv --budget 1e13 -> --table column.loss=MY_NAME --table column.budget=MY_NAME --table
parametric nothing.csv -> --table column.loss=MY_NAME --table column.n_params=MY_NAME --table
report nothing.csv -> say which they are: --table column.loss=MY_NAME --table
isoflop nobudget.csv -> say which it is: --table column.budget=MY_NAME, or budget by --table
isoflop losses.csv -> say which, e.g. --table column.loss=val_loss
isoflop bad.parquet -> bad.parquet
isoflop text_loss.csv -> line 3: loss='four' is text; a plain number is wanted
isoflop no_loss.csv -> line 3: loss=nan must be above 0 if done
isoflop zero_loss.csv -> line 3: loss=0.0 must be
isoflop negative_loss.csv -> line 3: loss=-1.0 must be
isoflop tiny_loss.csv -> line 3: loss=1e-300 is below 1e-06 nats
isoflop infinite_loss.csv -> line 3: loss=inf must be
isoflop perplexity.csv -> line 3: loss=54.6 is above 20 and looks like a perplexity
isoflop perplexity.csv -> --table unit.loss=perplexity says which
isoflop below_one.csv -> line 2: loss=0.5 is below 1, which no perplexity is
isoflop comma.csv -> line 3: loss='4,125' has a comma: a point is for decimals, and nothing for
isoflop huge_seed.csv -> line 3: seed=1e+30 must be below 2**63
isoflop rate.csv -> line 3: lr=-1.0 must be finite, and 0 or more
isoflop zero_params.csv -> line 3: n_params=0.0 must be above 0
isoflop negative_budget.csv -> line 3: budget=-6000000000000.0 must be above 0
isoflop infinite_tokens.csv -> line 3: n_tokens=inf must be finite
isoflop half_expert.csv -> line 3: n_experts=1.5 must be a whole number
isoflop no_expert.csv -> line 3: n_experts=0 must be 1 or more
isoflop units.csv -> line 3: budget=6, N=2e+06
isoflop gigaflops.csv -> of the whole table: --table unit.budget=GFLOP, or another
isoflop swapped.csv -> line 3: n_active_params=9000000000.0 must not exceed n_params
isoflop status.csv -> line 3: status='finished' is not one of done, failed, diverged
isoflop causal.csv -> line 3: causal_eval='perhaps' must be True or False
isoflop noname.csv -> line 3: model=<NA> is empty; name it
isoflop ids.csv -> run a: run_id='a' occurs twice
isoflop failed.csv -> no finished run in the table: 1 failed
isoflop empty_loss.csv -> no row has a finite loss; --table column.loss=MY_NAME names it
report failed.csv -> no finished run in the table: 1 failed
parametric failed.csv -> no finished run in the table: 1 failed
isoflop torn -> 1 of 1 records are damaged: torn/a/record.json (not a run record
isoflop deep -> 1 of 1 records are damaged: deep/a/record.json (not a run record
isoflop nothing -> no record.json below nothing
isoflop names.csv -> if a model's name is of one run, --series none makes all runs one curve
isoflop counted.csv -> --table budgets=6e18,1e19 or --table budget_tolerance=0.05 joins those that
isoflop good.csv --table budget_tolerance=0.5 -> --table budget_tolerance=0.5 must be 0 or more, and
plan good.csv --budget 1e13 --unique-tokens 1e9 -> --unique-tokens is of --method surfaces; give
plan good.csv --budget 1e13 --method surfaces --x n_tokens -> --method surfaces plans a size
plan good.csv --budget 1e13 --size -1 -> --size is of a law of experts; give --form, or leave
plan good.csv --budget 1e13 --baseline foo -> --baseline is of a law of experts; give --form
plan good.csv --budget 1e13 --min-gain 0.1 -> --min-gain is of a law of experts; give --form
surfaces good.csv --cluster loss -> --cluster loss is what is fitted; name what rows
isoflop good.csv --table budgets=1e18,x -> --table budgets=1e18,x must be numbers of FLOPs above 0
rates good.csv -> no column lr; found model, budget, n_params, n_tokens, loss, n_experts, seed
rates good.csv --n-nearest 2 -> --n-nearest 2 must be 3 or more: a parabola has 3 parameters
rates good.csv --baseline dense -> --baseline dense is of the differences of --used; give --used
rates good.csv --noise 0 -> --noise 0 must be a finite number of nats above 0
flatness good.csv --within 0 -> --within 0 must be a number of nats above 0, or of percents
flatness good.csv --within 100% -> --within 100% must be a number of nats above 0, or of percents
isoflop good.csv --table budgets=1e30 -> --table budgets: no run is within 0.01 of 1e+30; they have
isoflop one.csv -> no curve to fit: dense at C=6e+12: 1 size, and a curve needs 3
isoflop two.csv -> no curve to fit: dense at C=6e+12: 2 sizes, and a curve needs 3
parametric one.csv -> no model could be fitted: dense: 1 distinct
experts one.csv -> no form to compare: loglinear: dense: 1 runs
differences one.csv -> no setting was run with two seeds or more
plan one.csv --half-width .01 -> no model has a run of dense's seed at equal FLOPs and n_params
plan one.csv --budget 1e13 -> no curve to fit
isoflop equal.csv -> all 8 losses are 4: is this their column?
report equal.csv -> all 8 losses are 4: is this their column?
"""

MACHINE = """
isoflop good.csv --out /dev/null -> can't write to /dev/null: a file of that name is there
isoflop good.csv --out /dev/null/x -> can't write to /dev/null/x: a part of its path is a file
isoflop good.csv --out /proc/x -> can't write to /proc/x: no folder can be made there
isoflop good.csv --out text.txt -> can't write to text.txt: a file of that name is there
parametric good.csv --out text.txt/x -> can't write to text.txt/x: a part of its path is a file
experts good.csv --out text.txt -> can't write to text.txt: a file of that name is there
differences good.csv --out text.txt -> can't write to text.txt: a file of that name is there
report good.csv --out text.txt -> can't write to text.txt: a file of that name is there
"""


def cases(text):
    """(words, message) of each line "words -> message"."""
    pairs = [line.partition("->")[::2] for line in text.strip().splitlines()]
    return [
        pytest.param(asked(shlex.split(words)), message.strip(), id=words.strip() or "nothing")
        for words, message in pairs
    ]


def asked(words):
    """Words of a command; of a question that is named alone, those of compare."""
    named = words and words[0] in COMMAND.known
    return ["compare", "--question", *words] if named else words


@pytest.mark.parametrize(("words", "message"), [*cases(PARSED), *cases(OPTIONS), *cases(TABLES)])
def test_bad_input_is_one_line_and_writes_nothing(here, capsys, monkeypatch, words, message):
    assert message in refused(here, capsys, monkeypatch, words, 2)


@pytest.mark.parametrize(("words", "message"), cases(MACHINE))
def test_what_the_disk_denies_is_one_line_and_exit_1(here, capsys, monkeypatch, words, message):
    line = refused(here, capsys, monkeypatch, words, 1)
    assert message in line
    assert line.endswith("make it writable, or name another folder: --out DIR")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PermissionError(13, "Permission denied", "good.csv"), 1, "good.csv: Permission denied"),
        (MemoryError(), 1, "the memory does not suffice; take fewer runs, e.g. by --where"),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
    ],
    ids=["unreadable", "memory", "interrupted"],
)
def test_what_ends_a_command_is_one_line(here, capsys, monkeypatch, error, code, line):
    def load_table(*_, **__):
        raise error

    monkeypatch.setattr(command, "load_table", load_table)
    assert line in refused(here, capsys, monkeypatch, ["isoflop", "good.csv"], code)


def test_a_full_disk_for_what_is_printed_is_one_line(here):
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has /dev/full")
    words = ["plan", str(here / "good.csv"), "--budget", "1e13"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "analysis", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "error: can't print: No space left on device; free some space\n"
    assert done.returncode == 1

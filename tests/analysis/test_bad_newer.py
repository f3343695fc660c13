"""What can't work of the newer commands: contrast, power, next, curves. As test_bad_arguments."""

import numpy as np
import pandas as pd
import pytest

from tests.analysis.test_bad_arguments import FILES, cases, refused, table

CONTRAST = """
contrast widths.csv --x width -> --x width is not one of d_model, n_layers, n_active_params
contrast widths.csv --x n_layers -> contrast needs n_layers: the table has none; load with --table
contrast widths.csv --baseline pkm -> baseline='pkm' has no curve; there are dense, moe
contrast widths.csv --layer pkm -> layer='pkm' has no curve; there are dense, moe
contrast widths.csv --layer dense --baseline dense -> no two layers to compare: baseline='dense'
contrast widths.csv --primary moe -> must be LAYER-BASELINE@FLOPS[,FLOPS] of two of dense, moe
contrast widths.csv --primary moe-dense -> must be LAYER-BASELINE@FLOPS[,FLOPS], each budget once
contrast widths.csv --primary moe-dense@ -> '' is no budget of the curves; they have 1e12, 4e12
contrast widths.csv --primary moe-dense@x -> 'x' is no budget of the curves; they have 1e12, 4e12
contrast widths.csv --primary moe-dense@5e12 -> '5e12' is no budget of the curves; they have 1e12
contrast widths.csv --primary moe-moe@1e12 -> must be LAYER-BASELINE@FLOPS[,FLOPS] of two of
contrast widths.csv --primary moe-dense@1e12,1e12 -> each budget once
contrast widths.csv --primary= -> primary='' must be LAYER-BASELINE@FLOPS
contrast widths.csv --centres mine -> invalid choice: 'mine'
contrast widths.csv --centres layer+budget --curvature layer -> needs one curvature: give
contrast widths.csv --classes 'a: moe' -> classes: dense is in no class; give each layer one
contrast widths.csv --classes 'a: moe dense; b: moe' -> classes: 'moe' is in 'a' and in 'b'
contrast widths.csv --classes 'a: moe dense pkm' -> 'pkm' of 'a' has no curve; curves are of dense
contrast widths.csv --classes= -> --classes is empty; give a value, or leave it out
contrast widths.csv --margin=-1 -> --margin -1 must be a finite number of nats above 0
contrast widths.csv --margin 15 --stop 21 -> --stop 21 must be a finite number of nats above 0, and
contrast widths.csv --stop inf -> --stop inf must be a finite number of nats above 0
contrast widths.csv --level 95 -> --level 95 must be between 0 and 1, e.g. 0.95
contrast widths.csv --level 1e-300 -> --level 1e-300 must be between 0 and 1, e.g. 0.95, and 1e-9
contrast widths.csv --rates nowhere.json -> argument --rates: 'nowhere.json' is no file
contrast widths.csv --rates . -> argument --rates: '.' is no file
contrast widths.csv --rates list.json -> list.json has no laws of rates
contrast widths.csv --rates half.json -> half.json has no laws of rates
contrast widths.csv --by targets -> by targets: the losses of documents are needed, and no record
contrast widths.csv --by domain -> a table of a file has none, and records of older versions; take
contrast widths.csv --by size -> --by size is not one of domain, targets, which contrast takes
contrast widths.csv --x n_tokens -> --x n_tokens is not one of d_model, n_layers, n_active_params
contrast widths.csv --mark a -> --mark 'a' must be 'NAME: LOW HIGH', multipliers above 0
contrast widths.csv --preregistered nowhere.yaml -> argument --preregistered: 'nowhere.yaml' is no
contrast widths.csv --preregistered list.json -> list.json: the file must be keys with values, not
contrast widths.csv --preregistered bytes.csv -> bytes.csv is no yaml of a pre-registration
contrast widths.csv --preregistered far.yaml -> far.yaml: no run is of its layers x, y; the table
contrast widths.csv --preregistered where.yaml -> where.yaml: where: 'width' is no column; found
contrast widths.csv --preregistered own.yaml --errors seeds -> --errors seeds is not registered in
contrast widths.csv --preregistered own.yaml --where seed=0 -> --where seed=0 is not registered in
contrast one_seed.csv --errors seeds -> no size has two seeds; add seeds, or take errors='auto'
contrast one_model.csv -> no two layers to compare: baseline='dense', and there are dense
contrast two_sizes.csv -> do not identify the curvature and best sizes: more sizes are needed
contrast down.csv -> the curves open downwards, so they have no lowest loss: take sizes nearer
contrast text_loss.csv -> line 3: loss='four' is text; a plain number is wanted
contrast failed.csv -> no finished run in the table: 1 failed
contrast nobudget.csv -> say which it is: --table column.budget=MY_NAME
contrast two_losses.csv -> loss may be any of loss, smooth loss; say which, e.g. --table
"""

POWER = """
plan widths.csv --half-width=-1 -> --half-width -1 must be a finite number of nats above 0
plan widths.csv --half-width nan -> --half-width nan must be a finite number of nats above 0
plan widths.csv --half-width inf -> --half-width inf must be a finite number of nats above 0
plan widths.csv --half-width 1e300 -> must be a finite number of nats above 0, and 20 at most,
plan widths.csv --half-width x -> invalid float value: 'x'
plan widths.csv --half-width= -> invalid float value: ''
plan widths.csv --half-width .01 .02 -> unrecognized arguments: .02
plan widths.csv --half-width .01 --level 0 -> --level 0 must be between 0 and 1, e.g. 0.95
plan widths.csv --half-width .01 --level 1e-300 -> --level 1e-300 must be between 0 and 1
plan widths.csv --half-width .01 --level nan -> --level nan must be between 0 and 1, e.g. 0.95
plan widths.csv --half-width .01 --level .9999999999999999 -> --level 1 must be between 0 and 1
plan widths.csv --half-width .01 --pilot 0 -> --pilot 0 must be 2 or more: one seed has no scatter
plan widths.csv --half-width .01 --pilot=-3 -> --pilot -3 must be 2 or more
plan widths.csv --half-width .01 --pilot 99999999999 -> is more than the 2 seeds that a cell has at
plan widths.csv --half-width .01 --pilot 2.5 -> invalid int value: '2.5'
plan widths.csv --half-width .01 --pool seeds -> invalid choice: 'seeds'
plan widths.csv --half-width .01 --baseline= -> --baseline is empty; give a value, or leave it out
plan widths.csv --half-width .01 --baseline MOE -> --baseline MOE has no finished run; the table
plan widths.csv --half-width .01 --where model=dense -> no model has a run of dense's seed at equal
plan widths.csv --half-width .01 --where seed=0 -> no model has two seeds or more beside dense at
plan widths.csv --half-width .01 --where seed=7 -> --where: no run has seed=7; they have 0, 1
plan widths.csv --half-width .01 --where seed=a -> --where: seed='a' is not a number
plan widths.csv --half-width .01 --table budgets=1e30 -> --table budgets: no run is within 0.01 of
plan widths.csv --half-width .01 --table column.seed=loss -> seed=
plan widths.csv --half-width .01 --table unit.loss=GFLOP -> --table unit: loss='GFLOP' is not one of
plan one_model.csv --half-width .01 -> no model has a run of dense's seed at equal FLOPs and
plan one_seed.csv --half-width .01 -> no model has two seeds or more beside dense at equal FLOPs
plan apart.csv --half-width .01 -> there are no pairs
plan noseed.csv --half-width .01 -> no column seed; found model, budget, n_params, n_tokens, loss
plan failed.csv --half-width .01 -> no finished run in the table: 1 failed
plan nothing --half-width .01 -> no record.json below nothing; run a sweep first
plan huge_seed.csv --half-width .01 -> line 3: seed=1e+30 must be below 2**63
"""

NEXT = """
plan widths.csv --for a --budget nan -> --budget nan must be a finite number of FLOPs above 0
plan widths.csv --for a --budget inf -> --budget inf must be a finite number of FLOPs above 0
plan widths.csv --for a --budget=-1 -> --budget -1 must be a finite number of FLOPs above 0
plan widths.csv --for a --budget x -> invalid float value: 'x'
plan widths.csv --for a -> plan needs more options; give --for with --budget: which runs
plan widths.csv --for a --budget 1 -> 'a' needs a model: one of dense, moe
plan widths.csv --for= --budget 1e13 -> --for is empty; give a value, or leave it out
plan widths.csv --for N* --budget 1e13 -> --for 'N*' must be N*@FLOPS, a, alpha, multiplier@FLOPS or
plan widths.csv --for N*@ --budget 1e13 -> --for 'N*@': '' must be a number of FLOPs above 0
plan widths.csv --for N*@x --budget 1e13 -> --for 'N*@x': 'x' must be a number of FLOPs above 0
plan widths.csv --for N*@-1 --budget 1e13 -> --for 'N*@-1': '-1' must be a number of FLOPs above 0
plan widths.csv --for N*@nan --budget 1e13 -> 'nan' must be a number of FLOPs above 0
plan widths.csv --for N*@1e13 --budget 1e13 -> 'N*@1e13' needs a model: one of dense, moe
plan widths.csv --for N*@1e13 --budget 1e13 --model pkm -> --model pkm must be one of dense, moe
plan widths.csv --for a@1e13 --budget 1e13 --model moe -> --for a@1e13 must be N*@FLOPS, a, alpha
plan widths.csv --for alpha --budget 1e13 -> 'alpha' needs a model: one of dense, moe
plan widths.csv --for beta --budget 1e13 -> --for beta must be N*@FLOPS, a, alpha, multiplier@FLOPS
plan widths.csv --for multiplier --budget 1e13 -> --for multiplier must be N*@FLOPS, a, alpha
plan widths.csv --for multiplier@4e12 --budget 1e13 -> 'multiplier@4e12' needs a model: one of dense
plan widths.csv --for multiplier@4e12 --budget 1e13 --model dense -> is of two models; dense is both
plan widths.csv --for multiplier@4e12 --budget 1e13 --model moe --baseline pkm -> --baseline pkm
plan widths.csv --for moe-dense --budget 1e13 -> --for moe-dense must be N*@FLOPS, a, alpha
plan widths.csv --for moe-moe@4e12 --budget 1e13 -> is of two models; moe is both
plan widths.csv --for moe-pkm@4e12 --budget 1e13 -> --model pkm must be one of dense, moe
plan widths.csv --for=-@1 --budget 1e13 -> --for -@1 must be
plan widths.csv --for a --budget 1e13 --model moe --x width -> invalid choice: 'width'
plan widths.csv --for a --budget 1e13 --model moe --level 1 -> --level 1 must be between 0 and 1
plan widths.csv --for a --budget 1e13 --model moe --level nan -> --level nan must be between 0 and 1
plan widths.csv --for a --budget 1e13 --write x.txt -> --write x.txt must end with .yaml, e.g. conf
plan widths.csv --for a --budget 1e13 --write x.yaml -> --write needs a sweep's folder, whose runs
plan widths.csv --for a --budget 1e13 --write far.yaml -> --write far.yaml is there already; name
plan widths.csv --for N*@1e300 --budget 1e13 --model moe -> is 6.25e+286 times beyond the
plan widths.csv --for N*@1e-300 --budget 1e13 --model moe -> beyond the budgets that were fitted
plan nothing --for a --budget 1e13 -> no record.json below nothing; run a sweep first
plan failed.csv --for a --budget 1e13 -> no finished run in the table: 1 failed
plan two_sizes.csv --for a --budget 1e13 --model moe -> no curve to fit: 6 budgets of 2 models
plan nobudget.csv --for a --budget 1e13 -> say which it is: --table column.budget=MY_NAME
"""

CURVES = """
curves curve.csv --law cubic -> invalid choice: 'cubic'
curves curve.csv --hold-out zzz -> --hold-out 'zzz' is in no run's name; they are a, b
curves curve.csv --hold-out= -> --hold-out '' is in no run's name; they are a, b
curves curve.csv --predict sine -> --predict 'sine' is not {cosine,wsd,constant}:STEPS[,decay=SHARE]
curves curve.csv --predict cosine -> --predict 'cosine' is not {cosine,wsd,constant}:STEPS
curves curve.csv --predict cosine:0 -> steps=0 is no longer than the warm-up
curves curve.csv --predict cosine:1e3 -> --predict 'cosine:1e3' is not {cosine,wsd,constant}:STEPS
curves curve.csv --predict wsd:1000,decay=2 -> shares from 0 to 1, and no file
curves curve.csv --predict wsd:1000,decay=nan -> shares from 0 to 1, and no file
curves curve.csv --predict wsd:1000,final_lr=-1 -> shares from 0 to 1, and no file
curves curve.csv --skip=-1 -> --skip -1 must be 0 or more steps
curves curve.csv --skip nan -> --skip nan must be 0 or more steps
curves curve.csv --skip 1e9 -> no history has 8 rows after step 1e+09; give longer ones, or skip
curves curve.csv --delta 0 -> --delta 0 must be above 0
curves curve.csv --draws 1 -> --draws 1 must be 2 to 100000
curves curve.csv --table unit.loss=bit -> --table unit is not for curves, which reads steps, losses
curves curve.csv --table budgets=1e12 -> --table budgets is not for curves, which reads steps,
curves curve.csv --table flops=6nd -> --table flops is not for curves, which reads steps, losses and
curves curve.csv --where run=zzz -> --where: no row has run=zzz
curves curve.csv --where width=1 -> --where: 'width' is no column; found run, step, loss, lr
curves curve.csv --series width -> --series: 'width' is no column; found run, step, loss, lr
curves curve.csv --table column.loss=nll -> no column loss; found run, step, loss, lr; say which
curves good.csv -> no column run or step or lr; found model, budget, n_params
curves curve_nolr.csv -> no column lr; found run, step, loss; say which they are: --table column.lr=
curves curve_nan.csv -> loss=nan is no finite number; a run that diverged has no law
curves curve_text.csv -> loss=x is no finite number; a run that diverged has no law
curves curve_negative.csv -> run a: losses must be above 0
curves curve_no_rate.csv -> run a: steps and rates must be 0 or more, and some rates above 0
curves curve_backwards.csv -> comes after step 400; are two runs mixed? Sort the rows, and name
curves curve_same.csv -> step 100 comes after step 100; are two runs mixed?
curves curve_gap.csv -> run a has no row between steps 190 and 4200, and its rates there are not
curves curve_ten.csv -> run a has 9 rows; a curve needs 10
curves curve_noname.csv -> line 2: run is empty; name each run, or leave its rows out
curves curve_big.csv -> run a: losses must be above 0, and below 1e+06
curves curve_tokens.csv -> run a: 4e+14 steps are more than 10,000,000: are they tokens? Give
curves curve.csv --law steps --draws 2 --predict cosine:99999999999 -> cosine: 1e+11 steps
curves curve.csv --law steps --draws 2 --predict text.csv -> text.csv: steps must be finite numbers
curves curve.csv --law steps --draws 2 --predict zero.csv -> zero.csv: lr must be finite numbers, 0
curves curve.csv --law steps --draws 2 --predict good.csv -> good.csv has no column step or lr
curves nothing -> no record.json below nothing; run a sweep first
"""


def curve(run, n, every, warm=40, **values):
    """A run's curve under a cosine, with a loss that follows the sum of its rates."""
    step = np.arange(every, n + 1, every)
    rate = 1e-3 * np.minimum(1, step / warm) * (0.55 + 0.45 * np.cos(np.pi * step / n))
    loss = 2 + 3 * (np.cumsum(rate) / 1e-3 + 1) ** -0.4
    return pd.DataFrame({"run": run, "step": step, "loss": loss, "lr": rate, **values})


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("newer")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for name, frame in {**tables(), **curves()}.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    (folder / "list.json").write_text("[1]")
    (folder / "half.json").write_text('{"forms": [')
    difference = "kind: difference, budgets: [1e12], refuted_if: holds 0"
    for name, layers in (("own", "moe, dense"), ("far", "x, y")):
        layer, baseline = layers.split(", ")
        primary = f"{{name: a, layer: {layer}, baseline: {baseline}, {difference}}}"
        text = f"layers: [{layers}]\nbudgets: [1e12]\nprimaries: [{primary}]\n"
        (folder / f"{name}.yaml").write_text(text)
    (folder / "where.yaml").write_text(
        f"where: {{width: [3]}}\n{(folder / 'own.yaml').read_text()}"
    )
    return folder


def tables():
    good = table()
    wide = good.assign(d_model=(np.sqrt(good["n_params"]) / 10).round().astype(int))
    rank = wide.groupby(["model", "budget"])["n_params"].rank("dense")
    return {
        "good": good,
        "widths": wide,
        "one_model": wide[wide["model"] == "dense"],
        "one_seed": wide[wide["seed"] == 0],
        "apart": wide.assign(seed=range(len(wide))),
        "noseed": wide.drop(columns="seed"),
        "two_sizes": wide[rank <= 2],
        "down": wide.assign(loss=8 - wide["loss"]),
        "two_losses": wide.assign(**{"smooth loss": 3.0}),
    }


def curves():
    a = curve("a", 400, 10)
    late = a["step"].where(a["step"] < 200, a["step"] + 4000)
    return {
        "curve": pd.concat([a, curve("b", 800, 20)]),
        "curve_nolr": a.drop(columns="lr"),
        "curve_nan": a.assign(loss=np.nan),
        "curve_text": a.assign(loss="x"),
        "curve_negative": a.assign(loss=-1),
        "curve_no_rate": a.assign(lr=0),
        "curve_backwards": a.iloc[::-1],
        "curve_same": a.assign(step=100),
        "curve_gap": a.assign(step=late),
        "curve_ten": a.head(9),
        "curve_tokens": a.assign(step=a["step"] * 1e12),
        "curve_noname": a.assign(run=""),
        "curve_big": a.assign(loss=1e300),
        "text": pd.DataFrame({"step": ["a", "b"], "lr": 1e-3}),
        "zero": pd.DataFrame({"step": [1, 2], "lr": 0}),
    }


@pytest.mark.parametrize(
    ("words", "message"), [*cases(CONTRAST), *cases(POWER), *cases(NEXT), *cases(CURVES)]
)
def test_bad_input_is_one_line_and_writes_nothing(here, capsys, monkeypatch, words, message):
    assert message in refused(here, capsys, monkeypatch, words, 2)

"""Options that several commands of `python -m analysis` have."""

from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.methods import METHODS
from analysis.options import one_of

CURVES = f"""
--x=n_params {one_of(X_NAMES)}  the size on the axis (%(default)s)
--method={METHODS[0]} {one_of(METHODS)}  how a minimum is found: by curves whose
    skew the budgets of a model share, by parabolas, or by interpolation
--n-nearest N  fit only the N sizes nearest to the best
"""
SURFACE = f"""
--model MODEL  only this one (default: each)
--x=n_params {one_of(name for name in X_NAMES if name != "n_tokens")}  what N is (%(default)s)
"""
NOISE = """
--noise NATS  standard deviation of a loss, if known from seeds (default: from the scatter)
"""
CLUSTER = """
--cluster COLUMN  bootstrap whole runs: rows with one value of it, e.g. checkpoints of a run, are
    drawn together (default: trunk, where rows are branches of one; else each by itself)
"""
CHOICE = """
--model MODEL  which model, if the table has several
--baseline BASELINE  the model that others are compared with
"""
ASYMPTOTE = """
--asymptote NATS[,NATS]  the loss no compute beats, or its lowest and highest value, for compute
    multipliers; it belongs to the evaluation set (default: fitted)
"""

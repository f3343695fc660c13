"""Loss against all FLOPs, through a growth."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures.layout import legends_below, panels
from analysis.figures.style import edge
from analysis.growth import Curve


def draw_growth(curves: Sequence[Curve]) -> Figure:
    """A line a kind of run; the first fifth of the FLOPs, where all fall alike, is left out. A
    dotted line is where layers grew.
    """
    figure, (axis,) = panels(1, None, height=3.6)
    for curve in curves:
        start = len(curve.flops) // 5
        axis.plot(curve.flops[start:], curve.loss[start:], lw=1.2, label=curve.name)
    moments = sorted({curve.grown_at for curve in curves if curve.grown_at is not None})
    for i, moment in enumerate(moments):
        axis.axvline(moment, color=edge(), lw=0.9, ls=":", label="" if i else "the layer grows")
    axis.set_xlabel("training FLOPs in all")
    axis.set_ylabel("training loss, nats/token (lower is better)")
    legends_below(figure, axis.get_legend_handles_labels()[0])
    return figure

"""How far each way to choose adapters is from the oracle, and what it costs on unseen text."""

from matplotlib.figure import Figure

from analysis.adapters import Libraries
from analysis.figures.layout import errors, panels
from analysis.figures.style import edge


def draw_libraries(found: Libraries) -> Figure:
    """Three panels, a row a way: to the left is better; the line is the oracle's, or the base's."""
    figure, axes = panels(3, None, height=0.5 + 0.28 * len(found.ways))
    columns = (
        ("own", "minus the oracle,\nnats/token"),
        ("mixed", "domain changes: minus\nthe oracle, nats/token"),
        ("unseen", "unseen domains: minus\nthe base, nats/token"),
    )
    for axis, (name, label) in zip(axes, columns, strict=True):
        axis.axvline(0, color=edge(), lw=0.9)
        for i, way in enumerate(reversed(found.ways)):
            score = getattr(way, name)
            axis.errorbar([score.value], [i], xerr=errors([score]), fmt="o", ms=4, capsize=2)
        axis.set_xlabel(label)
        axis.set_yticks(range(len(found.ways)), [""] * len(found.ways))
    axes[0].set_yticklabels([way.way for way in reversed(found.ways)])
    return figure

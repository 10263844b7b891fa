"""The loss curve."""

import math
from pathlib import Path

from jaxdiff.files import write_atomically
from jaxdiff.report.writers import read_metrics


def plot_loss(folder: Path) -> Path:
    """`loss.png` from `metrics.jsonl`: the training loss and, where there is one, that on held-out images; below them
    the gradient's norm and the learning rate."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(folder / "metrics.jsonl")

    def points(name: str) -> tuple[list[int], list[float]]:
        found = [(line["step"], line[name]) for line in lines if math.isfinite(line.get(name, math.nan))]
        return [step for step, _ in found], [value for _, value in found]

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot, no display
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    above.plot(*points("loss"), marker=".", markersize=4, label="training")
    if points("eval_loss")[0]:
        above.plot(*points("eval_loss"), marker="o", markersize=4, label="held-out, moving average of the weights")
        above.legend()
    above.set(ylabel="loss", title=folder.name)
    above.set_ylim(bottom=min(0, *points("loss")[1], *points("eval_loss")[1], 0))
    below.plot(*points("grad_norm"), color="tab:green", linewidth=1)
    below.set(xlabel="step", ylim=(0, None))
    below.set_ylabel("gradient norm", color="tab:green")
    rate = below.twinx()
    rate.plot(*points("learning_rate"), color="tab:red", linewidth=1)
    rate.set(ylim=(0, None))
    rate.set_ylabel("learning rate", color="tab:red")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    path = folder / "loss.png"
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    return path

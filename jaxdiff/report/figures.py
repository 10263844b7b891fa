"""Plots: arrays in, a figure out, and its file. No pyplot, no display."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxdiff.files import write_atomically
from jaxdiff.report.results import Drawn
from jaxdiff.report.tradeoff import Tradeoff, said

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
MARKERS = "os^Dvp*X"


class Block(NamedTuple):
    """Pictures along the time.

    Attributes:
      title: what they are.
      pictures: uint8 `[n, B, H, W, C]`.
      times: of each row of B, `[n]`.
    """

    title: str
    pictures: np.ndarray
    times: np.ndarray


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """As PNG; whole or not at all."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=DPI))


def pixels(figure: Figure) -> np.ndarray:
    """The figure itself, uint8 `[H, W, 3]`."""
    figure.canvas.draw()
    canvas: Any = figure.canvas
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def metric(drawn: Drawn, *, against: str, log: bool = False, floor: float | None = None) -> Figure:
    """Lines of a metric, with 95 % intervals where there are some.

    Args:
      drawn: of `results.lines_of`.
      against: what the x axis says.
      log: whether it is logarithmic.
      floor: what the metric says of real images against real images, as a dashed line.
    """
    from matplotlib.ticker import MaxNLocator, NullFormatter

    figure = _figure(7, 4.5)
    axes = figure.subplots()
    for i, line in enumerate(drawn.lines):
        x, y = [p[0] for p in line.points], [p[1] for p in line.points]
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], markersize=5, color=f"C{i % 10}", label=line.label)
        # Not round the point, which may lie beside it: see `results.lines_of`.
        within = [(p[0], *p[2]) for p in line.points if p[2] is not None]
        if within:
            at, low, high = np.array(within).T
            middle = (low + high) / 2
            axes.errorbar(at, middle, yerr=(high - low) / 2, fmt="none", ecolor=f"C{i % 10}", capsize=4, alpha=0.7)
    if floor is not None:
        axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=f"floor, {floor:g}")
    if any(p[2] is not None for line in drawn.lines for p in line.points):
        axes.plot([], [], color="0.5", marker="_", markersize=10, linestyle="none", label=drawn.intervals)
    axes.set(xlabel=against, ylabel=drawn.metric, title=drawn.title)
    every = sorted({p[0] for line in drawn.lines for p in line.points}, reverse=True)
    place = np.log(every) if log else np.array(every)
    width = 0.02 * max(2, *(len(f"{x:g}") for x in every))  # of a label, of the axis
    shown = [0]
    for i in range(1, len(every)):  # of values whose labels would overlap only the largest
        if place[shown[-1]] - place[i] > width * (place[0] - place[-1]):
            shown.append(i)
    if log:
        axes.set_xscale("log")
    if len(shown) <= 8:
        axes.set_xticks([every[i] for i in shown], [f"{every[i]:g}" for i in shown])
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif not log:
        axes.xaxis.set_major_locator(MaxNLocator(8))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def tradeoff(drawn: Tradeoff) -> Figure:
    """Two metrics, joined along what was swept, each point with its value; those of the real images as dashed lines."""
    from matplotlib.patheffects import withStroke

    figure = _figure(7, 5.5)
    axes = figure.subplots()
    for i, sweep in enumerate(drawn.sweeps):
        colour = f"C{i % 10}"
        x, y, values = zip(*sweep.points, strict=True)
        axes.plot(x, y, marker=MARKERS[i % len(MARKERS)], markersize=5, color=colour, label=sweep.label, alpha=0.8)
        for at, value in zip(zip(x, y, strict=True), values, strict=True):
            side, height = [(5, -4), (5, 4), (-5, -4), (-5, 4)][i % 4]  # sweeps may share a point
            axes.annotate(
                said(value), at, (side, height), textcoords="offset points", fontsize=8, color=colour,
                ha="left" if side > 0 else "right", va="bottom" if height > 0 else "top",
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
    for real, line in zip(drawn.real, (axes.axvline, axes.axhline), strict=True):
        if real is not None:
            line(real, color="black", linestyle="--", linewidth=1, label=f"real images, {real:.4g}")
    axes.set(xlabel=drawn.x, ylabel=drawn.y, title=drawn.title)
    axes.margins(0.08)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def errors(
    terms: Mapping[str, Mapping[str, np.ndarray]],
    x: Mapping[str, np.ndarray],
    *,
    against: str,
    title: str,
    log_snr: np.ndarray | None = None,
) -> Figure:
    """The mean of each term over images by time, a panel for each, with its 95 % interval as a band.

    Args:
      terms: what the y axis says -> the name of a run -> per image and time, `[N, n]`.
      x: the name of a run -> its times or log-SNRs, `[n]`.
      against: what the x axis says.
      title: of the figure.
      log_snr: at the times, `[n]`, for a second x axis; None: there is none.
    """
    figure = _figure(7, 1 + 3 * len(terms))
    above, *_ = panels = list(figure.subplots(len(terms), squeeze=False, sharex=True)[:, 0])
    for axes, (what, runs) in zip(panels, terms.items(), strict=True):
        for i, (name, values) in enumerate(runs.items()):
            mean, error = values.mean(0), 1.96 * values.std(0) / np.sqrt(len(values))
            axes.plot(x[name], mean, color=f"C{i}", marker=".", markersize=4, linewidth=1.5, label=name)
            axes.fill_between(x[name], mean - error, mean + error, color=f"C{i}", alpha=0.2, linewidth=0)
        axes.set(ylabel=what, ylim=(0 if min(v.min() for v in runs.values()) >= 0 else None, None))
        axes.grid(alpha=0.3)
        axes.legend()
    panels[-1].set(xlabel=against)
    figure.suptitle(title, fontsize="large")
    if log_snr is not None:
        times = next(iter(x.values()))
        ticks = np.linspace(0, 1, 6)[1:]  # at 0 it may be infinite
        second = above.secondary_xaxis("top")
        second.set_xticks(ticks, [f"{value:.1f}" for value in np.interp(ticks, times, log_snr)])
        second.set_xlabel("log-SNR")
    return figure


def bits(terms: Mapping[str, tuple[np.ndarray, np.ndarray]], *, against: str, title: str) -> Figure:
    """The terms of the variational bound by time, in bits/dim, on a logarithmic axis; their sum is the legend's job.

    Args:
      terms: what the legend says -> times or log-SNRs `[n]` and the mean terms `[n]`, in bits/dim.
      against: what the x axis says.
      title: of the figure.
    """
    labels = [textwrap.fill(name, 80) for name in terms]
    figure = _figure(7, 4.2 + 0.3 * sum(1 + label.count("\n") for label in labels))
    axes = figure.subplots()
    for i, (label, (x, values)) in enumerate(zip(labels, terms.values(), strict=True)):
        marker = "." if len(x) == 1 else None
        axes.plot(x, np.where(values > 0, values, np.nan), color=f"C{i}", linewidth=1.5, marker=marker, label=label)
    axes.set(xlabel=against, ylabel="term of the bound (bits/dim)", yscale="log", title=title)
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside lower center")  # its lines are long, and the curves run from corner to corner
    return figure


def _ratio(pictures: np.ndarray) -> float:
    """Height over width of `[..., H, W, C]`."""
    return float(pictures.shape[-3] / pictures.shape[-2])


def _tile(
    axes: Any,
    tiles: Sequence[Sequence[np.ndarray]],
    *,
    left: Sequence[float] | None = None,
    gap: float = 0.04,
    below: float = 0.0,
) -> None:
    """Rows of pictures of width 1 whose columns begin at `left`, with room for words below each."""
    left = range(max(map(len, tiles))) if left is None else left
    for i, row in enumerate(tiles):
        for j, picture in zip(left, row, strict=False):
            y, ratio = i * (1 + below), _ratio(picture)
            grey = {"cmap": "gray", "vmin": 0, "vmax": 255} if picture.shape[-1] == 1 else {}
            shown = picture[..., 0] if grey else picture
            extent = (j + gap / 2, j + 1 - gap / 2, (y + 1 - gap / 2) * ratio, (y + gap / 2) * ratio)
            axes.imshow(shown, extent=extent, interpolation="nearest", **grey)
    ratio = _ratio(tiles[0][0])
    axes.set(xlim=(0, left[-1] + 1), ylim=(len(tiles) * (1 + below) * ratio, 0), yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if not below:  # no words between them: a grey that neither black nor white pictures run into
        axes.set_facecolor("0.6")


def strip(blocks: Sequence[Block]) -> Figure:
    """Blocks below each other: a picture each row, a time each column."""
    rows, columns = blocks[0].pictures.shape[1], max(len(block.times) for block in blocks)
    side = float(np.clip(12 / columns, 0.6, 1.2))
    height = side * rows * _ratio(blocks[0].pictures) + 0.6
    figure = _figure(max(side * columns, 3), height * len(blocks))
    for axes, block in zip(figure.subplots(len(blocks), squeeze=False)[:, 0], blocks, strict=True):
        _tile(axes, list(block.pictures.swapaxes(0, 1)))
        before = "t = " if columns <= 12 else ""  # there is room for it
        words = [before + (f"{t:.2f}" if 0.005 <= t < 0.995 else f"{t:.0f}") for t in block.times]
        axes.set_xlabel("" if before else "t")
        axes.set_xticks(np.arange(len(words)) + 0.5, words)
        axes.set_title(block.title, fontsize="medium", loc="left")
    return figure


def frames(blocks: Sequence[Block]) -> np.ndarray:
    """The same as the frames of an animation, uint8 `[n, H, W, 3]`: the blocks beside each other, for n times."""
    found = []
    for i in range(len(blocks[0].times)):
        num = blocks[0].pictures.shape[1]
        columns = int(np.ceil(np.sqrt(num)))
        rows = -(-num // columns)
        width = max(0.7 * columns, 2.2)
        figure = _figure(len(blocks) * width, width * rows / columns * _ratio(blocks[0].pictures) + 0.5)
        for axes, block in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks, strict=True):
            some = list(block.pictures[i])
            _tile(axes, [some[first : first + columns] for first in range(0, num, columns)])
            axes.set(xticks=[])
            axes.set_title(f"{block.title}\nt = {block.times[i]:.2f}", fontsize="medium")
        found.append(pixels(figure))
    return np.stack(found)


def neighbours(samples: np.ndarray, real: np.ndarray, distances: np.ndarray, *, title: str) -> Figure:
    """Samples, and beside each its nearest real images with their distances.

    Args:
      samples: uint8 `[n, H, W, C]`.
      real: the nearest first, uint8 `[n, k, H, W, C]`.
      distances: of them, `[n, k]`.
      title: of the figure.
    """
    n, k = distances.shape
    below, left = 0.25, [0.0, *(j + 1.4 for j in range(k))]
    ratio = _ratio(samples)
    figure = _figure(left[-1] + 1, n * (1 + below) * ratio + 0.8)
    axes = figure.subplots()
    _tile(axes, [[sample, *near] for sample, near in zip(samples, real, strict=True)], left=left, below=below)
    for i in range(n):
        for x, distance in zip(left[1:], distances[i], strict=True):
            y = (i * (1 + below) + 1.1) * ratio
            axes.text(x + 0.5, y, f"{distance:#.3g}".rstrip("."), ha="center", va="center", fontsize=8)
    axes.axvline(1.2, color="0.7", linewidth=1)
    axes.xaxis.tick_top()
    axes.set_xticks([x + 0.5 for x in left], ["sample", "nearest", *(f"{j + 1}." for j in range(1, k))])
    axes.set_title(title, fontsize="medium")
    return figure


def heat_maps(
    images: np.ndarray,
    restored: np.ndarray,
    heat: np.ndarray,
    *,
    levels: np.ndarray,
    scores: np.ndarray,
    title: str,
    unit: str,
) -> Figure:
    """Images with their scores, what a network makes of them, and where the two differ, on one scale.

    Args:
      images: uint8 `[n, H, W, C]`.
      restored: from each level, uint8 `[n, L, H, W, C]`.
      heat: not below 0, `[n, H, W]`.
      levels: times, `[L]`.
      scores: `[n]`.
      title: of the figure.
      unit: of the heat.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = Normalize(0, float(heat.max()) or 1.0)
    hot = (colormaps["inferno"](scale(heat))[..., :3] * 255).astype(np.uint8)
    n, num = restored.shape[:2]
    left, ratio = [0.0, *(j + 1.3 for j in range(num)), num + 1.6], _ratio(images)
    figure = _figure(0.8 * (left[-1] + 1) + 1.7, 0.8 * n * ratio + 1)
    axes = figure.subplots()
    rows = [[image, *row, where] for image, row, where in zip(images, restored, hot, strict=True)]
    _tile(axes, rows, left=left)
    axes.set_facecolor("white")
    axes.set_yticks([(i + 0.5) * ratio for i in range(n)], [f"{score:.3g}" for score in scores])
    axes.xaxis.tick_top()
    words = ["image", *(f"from\nt = {t:.2f}" for t in levels), "where"]
    axes.set_xticks([x + 0.5 for x in left], words)
    bar = figure.colorbar(ScalarMappable(scale, "inferno"), ax=axes, shrink=min(1.0, 3 / n), pad=0.02)
    bar.set_label(unit)
    axes.set(ylabel="score", title=title)
    return figure

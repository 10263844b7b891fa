"""What a person sees of a run: a progress bar, TensorBoard, metrics.jsonl, the loss curve."""

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from jaxdiff.files import write_atomically


class Report:
    """Collects every step's metrics and writes their means over `every` steps. Use it as a context.

    Args:
      folder: the run's; `metrics.jsonl` and `tensorboard/` are made in it. Lines after `start` (of a run that was
        killed after its last checkpoint) are dropped, so that the file tells one story.
      start: the step training starts or resumes from.
      steps: the last step.
      every: steps per line.
      batch_size: images per step, for img/s.
      write: False writes and shows nothing: for all processes but the first.
    """

    def __init__(self, folder: Path, *, start: int, steps: int, every: int, batch_size: int, write: bool = True):
        self._every, self._steps, self._batch_size = every, steps, batch_size
        self._window: defaultdict[str, list[float]] = defaultdict(list)
        path = folder / "metrics.jsonl"
        if write:
            kept = "".join(json.dumps(line) + "\n" for line in read_metrics(path) if line["step"] <= start)
            write_atomically(path, kept.encode())
        self._file = open(path if write else os.devnull, "a", buffering=1)  # noqa: SIM115 - closed in __exit__
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1, write_to_disk=write)
        quiet = {} if sys.stderr.isatty() else {"mininterval": 10}  # a log file wants few lines
        self._bar = tqdm(
            total=steps, initial=start, unit="step", desc=folder.name, dynamic_ncols=True, disable=not write, **quiet
        )

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._file.close()
        self._board.close()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One step's metrics, and its `seconds` where they are known."""
        for name, value in values.items():
            self._window[name].append(value)
        if "seconds" not in values:
            self._bar.unpause()  # compilation, or a picture: not part of the time left
        rate = f", {self._batch_size / np.mean(self._window['seconds']):,.0f} img/s" if self._window["seconds"] else ""
        self._bar.set_postfix_str(f"loss {values['loss']:.4f}{rate}", refresh=False)
        self._bar.update()
        if step % self._every == 0 or step == self._steps:
            means = {name: float(np.mean(window)) for name, window in self._window.items() if window}
            if "seconds" in means:
                means["images_per_second"] = self._batch_size / means.pop("seconds")
            self._file.write(json.dumps({"step": step} | means) + "\n")
            for name, value in means.items():
                self._board.add_scalar(name, value, step)
            self._window.clear()

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """uint8 `[H, W, C]`, for TensorBoard."""
        self._board.add_image(name, image, step, dataformats="HWC")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none if there is no file. A line cut short by a kill is left out."""
    lines = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and {"step", "loss"} <= value.keys():
            lines.append(value)
    return lines


def plot_loss(folder: Path) -> Path:
    """`loss.png` from `metrics.jsonl`: the loss against the step."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(folder / "metrics.jsonl")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot, no display
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], marker=".", markersize=4)
    axes.set(xlabel="step", ylabel="training loss", title=folder.name)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    path = folder / "loss.png"
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=110))
    return path

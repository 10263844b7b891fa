"""Every step's metrics, as means over windows, to the writers; and a progress bar."""

import math
import resource
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxdiff.losses import over_shares
from jaxdiff.report.writers import Lines, TensorBoard, WeightsAndBiases, Writer, read_metrics

TIMES = ("seconds", "data_seconds")


class Report:
    """Collects every step's metrics and writes their means over `every` steps. Use it as a context.

    A line has the mean of every metric, and

    * `seconds`, a step's, and `images_per_second`;
    * `data_wait`, the share of that time in which the data was waited for;
    * `learning_rate`, of the line's last step;
    * `host_peak_gib`, and where the device says so `device_gib` and `device_peak_gib`, of the fullest one;
    * `skipped`, how many of its updates were, and `skipped_total`, how many of all. Such a step counts in nothing else.

    A metric with another, NAME:share, is of a part of the examples: their quotient is written (`losses.by_time`).
    What is not finite is left out. A writer that fails is said so, once, and ends no training.

    Args:
      folder: the run's; `metrics.jsonl` and `tensorboard/` are made in it. Lines after `start` (of a run that was
        killed after its last checkpoint) are dropped, so that the file tells one story.
      start: the step training starts or resumes from.
      steps: the last step.
      every: steps per line.
      batch_size: images per step, for img/s.
      learning_rate: number of updates done -> rate, such as `build.learning_rate(config)`.
      wandb: the project of Weights & Biases to write to, if any.
      config: what to show there of the run's settings.
      write: False writes and shows nothing: for all processes but the first.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        steps: int,
        every: int,
        batch_size: int,
        learning_rate: Callable[[int], Any] | None = None,
        wandb: str | None = None,
        config: dict[str, Any] | None = None,
        write: bool = True,
    ):
        self._every, self._steps, self._batch_size, self._rate = every, steps, batch_size, learning_rate
        self._window: defaultdict[str, list[float]] = defaultdict(list)
        self._loss = math.nan
        self._failed: set[str] = set()
        self._writers: list[Writer] = []
        if write:
            others = [] if wandb is None else [WeightsAndBiases(folder, wandb, config or {})]
            lines, board = folder / "metrics.jsonl", folder / "tensorboard"
            self._writers = [Lines(lines, start=start), TensorBoard(board, start=start), *others]
        self._skipped = sum(line.get("skipped", 0) for line in read_metrics(folder / "metrics.jsonl")) if write else 0
        quiet = {} if sys.stderr.isatty() else {"mininterval": 10}  # a log file wants few lines
        self._bar = tqdm(
            total=steps, initial=start, unit="step", desc=folder.name, dynamic_ncols=True, disable=not write, **quiet
        )

    def __enter__(self) -> "Report":
        return self

    def __exit__(self, *_: object) -> None:
        with _unheard():
            self._bar.close()
        for writer in self._writers:
            with self._going_on(writer):
                writer.close()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One step's metrics, with its `seconds` and `data_seconds` where they are known, and `skipped` (0 or 1) where
        an update may be."""
        window = self._window
        if "seconds" in values:
            for name in TIMES:
                if name in values:
                    window[name].append(values[name])
        else:
            with _unheard():
                self._bar.unpause()  # compilation, or a picture: not part of the time left
        if "skipped" in values:
            window["skipped"].append(values["skipped"])
        if not values.get("skipped"):
            for name, value in values.items():
                if name not in (*TIMES, "skipped") and math.isfinite(value):
                    window[name].append(value)
            self._loss = values["loss"]
        rate = f", {self._batch_size / np.mean(window['seconds']):,.0f} img/s" if window["seconds"] else ""
        with _unheard():
            self._bar.set_postfix_str(f"loss {self._loss:.4f}{rate}", refresh=False)
            self._bar.update()
        if step % self._every == 0 or step == self._steps:
            self.scalars(step, self._line(step))
            window.clear()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of a step that are no means over steps, such as those of `train.evaluate`."""
        values = {name: value for name, value in over_shares(values).items() if math.isfinite(value)}
        for writer in self._writers:
            with self._going_on(writer):
                writer.scalars(step, values)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """uint8 `[H, W, C]`."""
        for writer in self._writers:
            with self._going_on(writer):
                writer.image(name, image, step)

    def get_state(self) -> dict[str, list[float]]:
        """The window under way, for a checkpoint: with it the next line of a resumed run is that of an unbroken one."""
        return {name: list(values) for name, values in self._window.items() if values}

    def set_state(self, state: dict[str, list[float]]) -> None:
        """Go on with the window of `get_state`."""
        self._window.clear()
        self._window.update({name: list(values) for name, values in state.items()})

    def _line(self, step: int) -> dict[str, float]:
        window = {name: values for name, values in self._window.items() if values}
        waited, skipped = window.pop("data_seconds", None), window.pop("skipped", None)
        line = {name: float(np.mean(values)) for name, values in window.items()}
        if "seconds" in line:
            line["images_per_second"] = self._batch_size / line["seconds"]
            if waited is not None:
                line["data_wait"] = sum(waited) / sum(window["seconds"])
        if skipped is not None:
            self._skipped += int(sum(skipped))
            line |= {"skipped": int(sum(skipped)), "skipped_total": self._skipped}
        if self._rate is not None:
            line["learning_rate"] = _on_host(self._rate, step - 1)
        return line | memory()

    @contextmanager
    def _going_on(self, writer: Writer) -> Iterator[None]:
        name = type(writer).__name__
        try:
            yield
        except Exception as error:  # of a full disk, or of wandb: it must not end the training
            if name not in self._failed:
                with _unheard():
                    self._bar.write(f"warning: {name}: {error!r}; training goes on without", file=sys.stderr)
            self._failed.add(name)
        else:
            self._failed.discard(name)


def _unheard() -> suppress:
    """A terminal or a pipe that is gone, or a log file on a full disk, must not end the training."""
    return suppress(OSError, ValueError)


def memory() -> dict[str, float]:
    """In GiB: the process's peak, and where the backend says so what the fullest local device holds, and has held.

    >>> memory()["host_peak_gib"] > 0.01
    True
    """
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    for name, key in (("device_gib", "bytes_in_use"), ("device_peak_gib", "peak_bytes_in_use")):
        if any(key in device for device in stats):
            found[name] = max(device.get(key, 0) for device in stats) / 2**30
    return found


def _on_host(rate: Callable[[int], Any], count: int) -> float:
    """Not on an accelerator: there it would wait for the steps under way."""
    try:
        host = jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS leaves it out
        return float(rate(count))
    with jax.default_device(host):
        return float(rate(count))

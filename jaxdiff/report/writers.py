"""Where numbers and pictures of a run go: metrics.jsonl, TensorBoard, Weights & Biases, all behind one protocol."""

import importlib.util
import json
import secrets
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from jaxdiff.files import write_atomically
from jaxdiff.typing import InputError


class Writer(Protocol):
    """What takes the numbers and the pictures of a run."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Finite numbers by name, of a step."""

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        """uint8 `[H, W, C]`, C = 1 or 3."""

    def close(self) -> None: ...


class Lines:
    """`metrics.jsonl`: a JSON object per line, on disk as soon as it is written.

    What a full disk does not take is kept, and written before the next line.

    Args:
      path: the file; lines after `start`, of a run that was killed after its last checkpoint, are dropped.
      start: the step training starts or resumes from.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> lines = Lines(path, start=0)
    >>> lines.scalars(10, {"loss": 0.5})
    >>> lines.close()
    >>> path.read_text()
    '{"step": 10, "loss": 0.5}\\n'
    """

    def __init__(self, path: Path, *, start: int):
        kept = [line for line in read_metrics(path) if line["step"] <= start]
        content = "".join(json.dumps(line) + "\n" for line in kept).encode()
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed in close
        self._waiting = b""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._waiting += json.dumps({"step": step} | values, allow_nan=False).encode() + b"\n"
        self._write()

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        pass

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        while self._waiting:  # a nearly full disk takes a part
            self._waiting = self._waiting[self._file.write(self._waiting) :]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """What a metrics.jsonl says of each step that it has a line of; none if there is no file.

    Lines of one step are joined. A line cut short by a kill is left out.
    """
    steps: dict[int, dict[str, Any]] = {}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            steps.setdefault(value["step"], {}).update(value)
    return list(steps.values())


class TensorBoard:
    """Event files for `tensorboard --logdir`, on disk as soon as they are written.

    Args:
      folder: is made.
      start: the step training starts or resumes from; TensorBoard forgets what older files have of later ones.
    """

    # Not tensorboardX's SummaryWriter: it writes in a thread, which a full disk ends, and then waits for it for ever.
    def __init__(self, folder: Path, *, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._events = EventsWriter(str(folder / "events"), f".{time.time_ns()}")  # TensorBoard reads by name
        self._write(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._events.write_event(Event(step=step, wall_time=time.time(), summary=summary.scalar(name, value)))
        self._events.flush()

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self._write(Event(step=step, summary=summary.image(name, picture, dataformats="HWC")))

    def close(self) -> None:
        self._events.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)
        self._events.flush()


class WeightsAndBiases:
    """A run of Weights & Biases that goes on when the training is resumed. Needs `pip install 'jaxdiff[wandb]'`.

    The environment variables of wandb hold: WANDB_MODE=offline keeps everything in `<folder>/wandb`, for
    `wandb sync` later. A step that it has already is left as it is: a resumed run's numbers are the same.

    Args:
      folder: the run's; `wandb_id` in it is what the run is known by to the server.
      project: to which it belongs.
      config: what to show of its settings.

    Raises:
      InputError: wandb is not installed, or nobody is logged in.
    """

    def __init__(self, folder: Path, project: str, config: dict[str, Any]):
        check_wandb(project)
        import wandb

        path = folder / "wandb_id"
        if not path.exists():
            write_atomically(path, secrets.token_hex(4).encode())
        try:
            self._run = wandb.init(
                project=project, name=folder.name, id=path.read_text().strip(), resume="allow", config=config,
                dir=str(folder),
            )  # fmt: skip
        except (wandb.errors.UsageError, wandb.errors.CommError) as error:
            raise InputError(
                f"--log.wandb {project}: {error}. Log in once with `wandb login` (or WANDB_API_KEY), or set "
                "WANDB_MODE=offline and send the run later with `wandb sync`"
            ) from error
        self._image = wandb.Image

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, name: str, picture: np.ndarray, step: int) -> None:
        self._run.log({name: self._image(picture)}, step=step)

    def close(self) -> None:
        self._run.finish()


def check_wandb(project: str | None) -> None:
    """Raise `InputError` if Weights & Biases is asked for and not installed.

    >>> check_wandb(None)
    """
    spec = importlib.util.find_spec("wandb") if project is not None else None
    if project is not None and (spec is None or spec.origin is None):  # the latter: a folder of that name
        raise InputError(
            f"--log.wandb {project}: Weights & Biases is not installed. pip install 'jaxdiff[wandb]', or leave it out: "
            "metrics.jsonl and TensorBoard have the same numbers"
        )

"""Checkpoints with orbax: asynchronous, atomic, with sums of their files; the last few and the best are kept."""

import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from jaxdiff.train import integrity
from jaxdiff.train.best import worth
from jaxdiff.train.parallel import replicated
from jaxdiff.train.state import TrainState
from jaxdiff.typing import Array, InputError, PyTree

DELETED = ".deleted"  # the folder, among the checkpoints, of those that are being deleted
Shardings = Callable[[PyTree], PyTree]


class SaveError(RuntimeError):
    """A checkpoint could not be written; those before it are as they were."""


class Checkpoints:
    """The checkpoints in a folder. Use it as a context: leaving it waits for the save under way.

    A save holds the state, the key, the place in the data and a description of the run. The parameters and each of
    their averages are items of their own, so that sampling reads nothing else. All processes of a run save and restore
    together, each its part of the arrays.

    Args:
      folder: where; made if missing unless `read_only`.
      keep: how many of the latest to keep.
      best: of these metrics, the name of the one by which also the `keep_best` best (lowest) are kept.
      keep_best: how many.
      read_only: raise `InputError` instead of making the folder; clean up nothing.
      on_saved: called, in a thread, when a checkpoint is on disk; before the next begins, and before `wait` returns.
      say: gets what a person should know: a save that failed, a checkpoint that is damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 2,
        best: str = "loss",
        keep_best: int = 0,
        read_only: bool = False,
        on_saved: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda message: None,
    ):
        self.folder = folder.absolute()  # orbax wants absolute paths
        self._say, self._on_saved = say, on_saved
        if read_only and not self.folder.is_dir():
            raise InputError(f"{folder.parent}: no checkpoint in this run. Train first, or give another --run.")

        of_best = partial(worth, name=best)
        best_ones = [managers.BestN(get_metric_fn=of_best, n=keep_best)] if keep_best else []
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), *best_ones]),
            best_fn=of_best,  # without it the metrics would not be written
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # what a kill during a save left; such a save was never listed
            # Renamed at once, then deleted: a kill amid the deletion would leave half a checkpoint that is listed.
            todelete_subdir=None if read_only else DELETED,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
        )
        self._put_aside_without_metrics(read_only)
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)
        if not read_only:
            (self.folder / DELETED).mkdir(exist_ok=True)
            self._empty_deleted()
        self._waiter = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: tuple[int, Future[None]] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None or jax.process_count() == 1:
                self.wait()
            elif self._saving is not None:  # the others are elsewhere: they cannot be asked how it went with them
                self._saving[1].exception()
        except SaveError:
            pass  # it was said
        finally:
            self._waiter.shutdown()
            self._manager.close()

    def steps(self) -> list[int]:
        """The saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def metrics(self, step: int) -> dict[str, float]:
        """Those that were saved with a step."""
        found: dict[str, float] = self._manager.metrics(step) or {}
        return found

    def save(
        self,
        state: TrainState,
        key: Array,
        *,
        data: dict[str, Any],
        description: dict[str, Any],
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Start saving; returns as soon as the arrays are copied. Saving a step again does nothing.

        If it fails, here or later, `say` gets it and training can go on; `wait` raises it.
        """
        with suppress(SaveError):  # of the one before: it was said, and this one may succeed
            self.wait()
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            **{name: ocp.args.StandardSave(average) for name, average in state.ema.items()},
            rest=ocp.args.StandardSave(_rest(state, key)),
            data=ocp.args.JsonSave(data),
            description=ocp.args.JsonSave(description),
        )
        self._step = step
        saving: Future[None] = Future()
        try:
            self._manager.save(step, args=items, metrics=metrics or {})
        except Exception as error:  # what the file system raises
            saving.set_exception(error)
        else:
            saving = self._waiter.submit(self._finish)
        self._saving = step, saving
        saving.add_done_callback(lambda done: self._tell(step, done))

    def _finish(self) -> None:
        self._manager.wait_until_finished()
        self._empty_deleted()
        self._on_saved()

    def _empty_deleted(self) -> None:
        if jax.process_index() == 0:
            for old in (self.folder / DELETED).iterdir():
                shutil.rmtree(old, ignore_errors=True)

    def _tell(self, step: int, saving: "Future[None]") -> None:
        error = saving.exception()
        if error is not None:
            full = any(word in str(error) for word in ("No space", "quota"))
            self._say(
                f"the checkpoint of step {step} could NOT be saved ({gist(error)}). Training goes on; the checkpoints "
                f"before it are kept. {'Make room in' if full else 'Look at'} {self.folder}"
            )

    def wait(self) -> None:
        """Until the save under way is on disk.

        Raises:
          SaveError: it could not be written.
        """
        if self._saving is None:
            return
        (step, saving), self._saving = self._saving, None
        error = saving.exception()
        if jax.process_count() > 1 and multihost_utils.process_allgather(np.bool_(error is not None)).any():
            error = error or RuntimeError("another process could not write its part")
        if error is None:
            return
        self._manager = ocp.CheckpointManager(self.folder, options=self._options)  # the old one keeps its error
        raise SaveError(f"{self.folder}: the checkpoint of step {step} could not be saved ({gist(error)})") from error

    def _before_commit(self) -> None:
        integrity.write_sums_of_step(self.folder, self._step)

    def damage(self, step: int) -> list[str]:
        """What is wrong with the files of a step; see `integrity.damage`."""
        return integrity.damage(self.folder / str(step))

    def weights(self, step: int) -> list[str]:
        """What `restore_weights` finds at a step: "params" and the averages."""
        return [name for name in self._trees(step) if name != "rest"]

    def description(self, step: int) -> dict[str, Any]:
        """Of the run, as it was saved with a step."""
        found: dict[str, Any] = self._read(step, description=ocp.args.JsonRestore())["description"]
        return found

    def unreadable(self, step: int) -> list[str]:
        """What of a step cannot be restored, each array on every local device; nothing if all can."""
        wrong = []
        for name in self._trees(step):
            try:
                with ocp.StandardCheckpointer() as reader:
                    found = reader.metadata(self.folder / str(step) / name).item_metadata
                self._read(step, **{name: ocp.args.StandardRestore(abstract(found.tree))})
            except (InputError, AttributeError) as error:  # the latter: there is no readable metadata
                wrong.append(f"{name}: {error}")
        return wrong

    def _trees(self, step: int) -> list[str]:
        """The items that are arrays."""
        return sorted(path.parent.name for path in (self.folder / str(step)).glob("*/_METADATA"))

    def restore(
        self, like: TrainState, key: Array, *, shardings: Shardings | None = None
    ) -> tuple[TrainState, Array, dict[str, Any]]:
        """The newest state that can be read, its key and its place in the data.

        A newer checkpoint that is damaged is put aside, into the folder `damaged` beside this one, and `say` says so.

        Args:
          like: the state's shapes.
          key: the key's shape.
          shardings: where the arrays shall lie (`parallel.Parallel.shardings`); default: whole on every local device.
            It may be other devices than those it was saved from.

        Raises:
          InputError: no checkpoint, or none that can be read.
        """
        like, key = abstract((like, key), shardings)
        wrong: dict[int, str] = {}
        self.choose(None)  # says so if there is none
        for step in reversed(self.steps()):
            found = self._agreed("; ".join(self.damage(step)) if jax.process_index() == 0 else "")
            if not found:
                try:
                    restored = self._restore(step, like, key)
                except InputError as error:
                    found = str(error)
                else:
                    self._put_aside(wrong)
                    return restored
            wrong[step] = found
        said = "".join(f"\n  step {step}: {what}" for step, what in wrong.items())
        raise InputError(f"{self.folder}: no checkpoint can be read:{said}\nStart a new --run.")

    def _restore(self, step: int, like: TrainState, key: Array) -> tuple[TrainState, Array, dict[str, Any]]:
        restored = self._read(
            step,
            params=ocp.args.StandardRestore(like.params),
            **{name: ocp.args.StandardRestore(average) for name, average in like.ema.items()},
            rest=ocp.args.StandardRestore(_rest(like, key)),
            data=ocp.args.JsonRestore(),
        )
        rest = restored["rest"]
        ema = {name: restored[name] for name in like.ema}
        state = TrainState(rest["step"], restored["params"], ema, rest["opt_state"])
        return state, rest["key"], restored["data"]

    def _agreed(self, found: str) -> str:
        """What process 0 found: all must choose the same checkpoint."""
        if jax.process_count() == 1:
            return found
        text = np.frombuffer(found.encode()[:500].ljust(500), np.uint8)
        return bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))).decode(errors="replace").strip()

    def _put_aside_without_metrics(self, read_only: bool) -> None:
        """orbax reads the metrics of all steps when it opens a folder, and fails at one file that is cut."""
        steps = saved_steps(self.folder) if jax.process_index() == 0 else []
        found = {step: integrity.unreadable(self.folder / str(step) / "metrics" / "metrics") for step in steps}
        wrong = {step: what for step, what in found.items() if what}
        if wrong and (read_only or len(wrong) == len(steps)):
            raise InputError(f"{self.folder}: damaged: {wrong}. train.py goes on from the newest that is not")
        for step, what in wrong.items():
            self._move_aside(step, what)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("the metrics of the checkpoints can be read")

    def _move_aside(self, step: int, what: str) -> None:
        aside = self.folder.parent / "damaged" / str(step)
        while aside.exists():
            aside = aside.with_name(aside.name + "_")
        self._say(f"the checkpoint of step {step} is damaged ({what}); it is now in {aside}")
        if jax.process_index() == 0:
            aside.parent.mkdir(exist_ok=True)
            (self.folder / str(step)).rename(aside)

    def _put_aside(self, wrong: dict[int, str]) -> None:
        for step, what in wrong.items():
            self._move_aside(step, what)
        if wrong:
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("damaged checkpoints are put aside")
            self._manager.reload()

    def restore_weights(self, like: PyTree, *, item: str = "ema", step: int | None = None) -> tuple[int, PyTree]:
        """The weights of a step (default: the latest): `params` as the optimiser has them, or an average by its name.

        Raises:
          InputError: no checkpoint, or none of that step; names those there are.
        """
        step = self.choose(step)
        wrong = integrity.damage(self.folder / str(step), below=f"{item}/")
        if wrong:
            raise self._unreadable(step, "; ".join(wrong))
        return step, self._read(step, **{item: ocp.args.StandardRestore(abstract(like))})[item]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax, tensorstore and json raise many kinds on damaged files
            raise self._unreadable(step, gist(error)) from error

    def _unreadable(self, step: int, what: str) -> InputError:
        others = ", ".join(str(s) for s in self.steps() if s != step)
        mend = f"There are also {others}" if others else "There is no other; start a new --run"
        return InputError(f"{self.folder / str(step)}: this checkpoint cannot be read ({what}). {mend}")

    def choose(self, step: int | None) -> int:
        """That step, or for None the latest; `InputError` if there is none, naming those there are."""
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            have = f"; there are {', '.join(map(str, steps))}" if steps else ". Train first, or give another --run"
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise InputError(f"{self.folder.parent}: {which} in this run{have}")
        return steps[-1] if step is None else step


def saved_steps(folder: Path) -> list[int]:
    """The steps saved in a folder of checkpoints, ascending; of many processes each may ask for itself.

    >>> saved_steps(Path("none"))
    []
    """
    return sorted(ocp.utils.checkpoint_steps(folder.absolute())) if folder.is_dir() else []


def gist(error: BaseException) -> str:
    """Its kind and its first line: orbax and tensorstore say pages."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def _rest(state: TrainState, key: Array) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": key}


def abstract(tree: PyTree, shardings: Shardings | None = None) -> PyTree:
    """Shapes and where to put them: a checkpoint of eight devices opens on one, and vice versa."""
    places = jax.tree.map(lambda _: replicated(), tree) if shardings is None else shardings(tree)
    return jax.tree.map(lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree, places)

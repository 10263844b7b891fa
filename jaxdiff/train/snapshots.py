"""Snapshots: averages of the parameters at many steps of a run, all kept, for `ema.fit` to make any other from."""

import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxdiff.train import integrity
from jaxdiff.train.checkpoint import abstract, gist
from jaxdiff.typing import InputError, PyTree


class Snapshots:
    """The snapshots in a folder. Use it as a context: leaving it waits for the save under way.

    Args:
      folder: where; made if missing unless `read_only`.
      read_only: raise `InputError` instead of making the folder; clean up nothing.
    """

    def __init__(self, folder: Path, *, read_only: bool = False):
        self.folder = folder.absolute()  # orbax wants absolute paths
        if read_only and not self.folder.is_dir():
            raise InputError(
                f"{folder.parent}: no snapshots in this run. They are made by --train.ema-lengths 0.05 0.1 "
                "--log.snapshot-every STEPS, given to train.py from the start"
            )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._before_commit),
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._whole: set[int] = set()  # the steps whose files were found as they were written

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for the save under way, and let go of the folder."""
        self._manager.close()

    def steps(self) -> list[int]:
        """The saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, averages: dict[str, PyTree], step: int) -> None:
        """Start saving; returns as soon as the arrays are copied. Saving a step again does nothing: a run that was
        killed and goes on from before it comes to the same averages."""
        if step not in self._manager.all_steps():
            self.wait()  # for the one before: its sums are written under its own step
            self._step = step
            items = {name: ocp.args.StandardSave(tree) for name, tree in averages.items()}
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def _before_commit(self) -> None:
        integrity.write_sums_of_step(self.folder, self._step)

    def wait(self) -> None:
        """Until the save under way is on disk; one that failed leaves nothing there."""
        try:
            self._manager.wait_until_finished()
        except Exception:
            if jax.process_index() == 0:
                for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(path, ignore_errors=True)
            raise

    def restore(self, like: PyTree, *, name: str, step: int) -> PyTree:
        """One of the averages of a step, on every local device; `like` gives the shapes.

        Raises:
          InputError: it is not there, or cannot be read.
        """
        items = ocp.args.Composite(**{name: ocp.args.StandardRestore(abstract(like))})
        try:
            if step not in self._whole:
                wrong = integrity.damage(self.folder / str(step))
                if wrong:
                    raise ValueError("; ".join(wrong))
                self._whole.add(step)
            return self._manager.restore(step, args=items)[name]
        except Exception as error:  # orbax, tensorstore and json raise many kinds on damaged files
            raise InputError(
                f"{self.folder / str(step)}: {name} of this snapshot cannot be read ({gist(error)}). "
                "Move the folder away to do without it"
            ) from error

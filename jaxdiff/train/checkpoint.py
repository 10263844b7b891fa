"""Checkpoints with orbax: asynchronous, atomic, the last few kept."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxdiff.train.parallel import replicated
from jaxdiff.train.state import TrainState
from jaxdiff.typing import Array, InputError, PyTree


class Checkpoints:
    """The checkpoints in a folder. Use it as a context: leaving it waits for the save under way.

    A save holds the state, the key, the place in the data and a description of the run. The parameters and each of
    their averages are items of their own, so that sampling reads nothing else.

    Args:
      folder: where; made if missing unless `read_only`.
      keep: how many of the latest to keep.
      read_only: raise `InputError` instead of making the folder; clean up nothing.
    """

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False):
        self.folder = folder.absolute()  # orbax wants absolute paths
        if read_only and not self.folder.is_dir():
            raise InputError(f"{folder.parent}: no checkpoint in this run. Train first, or give another --run.")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # what a kill during a save left; such a save was never listed
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def steps(self) -> list[int]:
        """The saved steps, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, key: Array, *, data: dict[str, Any], description: dict[str, Any]) -> None:
        """Start saving; returns as soon as the arrays are copied. Saving a step again does nothing."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                **{name: ocp.args.StandardSave(average) for name, average in state.ema.items()},
                rest=ocp.args.StandardSave(_rest(state, key)),
                data=ocp.args.JsonSave(data),
                description=ocp.args.JsonSave(description),
            ),
        )

    def wait(self) -> None:
        """Until the save under way is on disk."""
        self._manager.wait_until_finished()

    def restore(self, like: TrainState, key: Array) -> tuple[TrainState, Array, dict[str, Any]]:
        """The latest state, key and place in the data, on every local device; `like` gives the shapes.

        Raises:
          InputError: no checkpoint, or one that cannot be read.
        """
        like, key = _abstract((like, key))
        restored = self._read(
            self._choose(None),
            params=ocp.args.StandardRestore(like.params),
            **{name: ocp.args.StandardRestore(average) for name, average in like.ema.items()},
            rest=ocp.args.StandardRestore(_rest(like, key)),
            data=ocp.args.JsonRestore(),
        )
        rest = restored["rest"]
        ema = {name: restored[name] for name in like.ema}
        state = TrainState(rest["step"], restored["params"], ema, rest["opt_state"])
        return state, rest["key"], restored["data"]

    def restore_weights(self, like: PyTree, *, item: str = "ema", step: int | None = None) -> tuple[int, PyTree]:
        """The weights of a step (default: the latest): `params` as the optimiser has them, or an average by its name.

        Raises:
          InputError: no checkpoint, or none of that step; names those there are.
        """
        step = self._choose(step)
        return step, self._read(step, **{item: ocp.args.StandardRestore(_abstract(like))})[item]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # orbax, tensorstore and json raise many kinds on damaged files
            others = [s for s in self.steps() if s != step]
            gist = next(iter(str(error).splitlines()), "")[:200]
            raise InputError(
                f"{self.folder / str(step)}: this checkpoint cannot be read ({type(error).__name__}: {gist}). "
                + (f"Delete it to go on from step {others[-1]}" if others else "There is no other; start a new --run")
            ) from error

    def _choose(self, step: int | None) -> int:
        steps = self.steps()
        if not steps or (step is not None and step not in steps):
            have = f"; there are {', '.join(map(str, steps))}" if steps else ". Train first, or give another --run"
            which = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise InputError(f"{self.folder.parent}: {which} in this run{have}")
        return steps[-1] if step is None else step


def _rest(state: TrainState, key: Array) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state, "key": key}


def _abstract(tree: PyTree) -> PyTree:
    """Shapes, to be placed on every local device: a checkpoint of eight devices opens on one, and vice versa."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated()), tree)

"""The command `jaxdiff ema`."""

import sys
from pathlib import Path

from jaxdiff import runs
from jaxdiff.cli.common import read_run
from jaxdiff.train.ema import name_of
from jaxdiff.weights import check_name, write_weights

RESIDUAL = 0.01
"""Above this share of the profile that the snapshots leave out, the user is told."""


def ema(run: str, length: float, out: Path, step: int | None = None) -> None:
    """Make the average of a run's parameters of any length, from its snapshots.

    Args:
      run: The folder or URL that train.py wrote to, with --train.ema-lengths and --log.snapshot-every.
      length: The standard deviation of the average's profile as a share of training, such as 0.1 (EDM2's sigma_rel).
      out: NAME.safetensors, for sample.py --run RUN --weights NAME.safetensors.
      step: Of the snapshot at which it ends; default the last.
    """
    check_name(out)
    folder = read_run(run)
    config, spec = runs.load_run(folder)
    step, params, residual = runs.reconstruct(folder, config, spec, length=length, step=step)
    write_weights(out, params, runs.weights_metadata(config, spec, step=step, weights=name_of(length)))
    if residual > RESIDUAL:
        print(
            f"warning: these snapshots give an average of the length {length:g} at step {step} only to "
            f"{100 * residual:.1f} % (of its profile, in the L2 norm); {100 * RESIDUAL:g} % is good. Lengths nearer to "
            "--train.ema-lengths and later steps are exacter, and so is a run with a smaller --log.snapshot-every",
            file=sys.stderr,
        )
    print(f"the average of the length {length:g} at step {step}, to {100 * residual:.2g} %: {out}")

"""The command `jaxdiff export`."""

from pathlib import Path
from typing import Annotated

import tyro

from jaxdiff.cli.out import check_file, writing
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.export import PLATFORMS, Guide, Platform, artefact, weights_file, write
from jaxdiff.typing import InputError


def export(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    *,
    out: Path,
    platforms: tuple[Platform, ...] = PLATFORMS,
    weights_beside: bool = False,
) -> None:
    """Write network, weights and sampler into one file, which jaxdiff.serving runs by JAX alone.

    Args:
        pictures: With which network, and how; as sample.py has them. Of these, batch, labels, guidance, temperature,
            classifier-scale and seed are defaults that every call may change; with --guidance 1 it may not.
        out: NAME.jaxdiff.
        platforms: On which it is to run; none of them need be here.
        weights_beside: Put the weights into a second file, NAME.safetensors.
    """
    check_file(out, ".jaxdiff")
    if not platforms:
        raise InputError(f"--platforms: which? Leave it out for {', '.join(PLATFORMS)}")
    beside = weights_file(out) if weights_beside else None
    if beside is not None and beside.exists() and not out.exists():
        raise InputError(f"--weights-beside: there is a file {beside}, which is of no {out}; give another --out")
    made = prepare(pictures, 1)
    name, params = made.load()
    one = made.classifier
    guide = None if one is None else Guide(one.log_prob, one.params, one.num_classes, pictures.guide_scale)
    done = artefact(
        made.config, made.spec, params, guide=guide, platforms=tuple(dict.fromkeys(platforms)), seed=pictures.seed,
        labels=pictures.labels, batch=pictures.batch, latents=made.latents, made_from=_whose(pictures, name),
    )  # fmt: skip
    with writing(out):
        write(out, done, weights_beside=weights_beside)
    about, files = done.manifest, [out] if beside is None else [out, beside]
    print(
        f"{name}, {about['sampler']} of {about['steps']} steps ({about['network_evaluations']} calls of the network), "
        f"for {', '.join(about['platforms'])}: "
        + " and ".join(f"{file}, {file.stat().st_size / 2**20:.1f} MiB" for file in files)
    )
    print(f"In Python: jaxdiff.serving.load({str(out)!r})(16, seed=0) makes 16 pictures, uint8 NHWC")


def _whose(pictures: Pictures, name: str) -> dict[str, str]:
    """The weights, without the folders that they were in."""
    if pictures.run is None:
        return {"pretrained": name}
    return {"run": Path(pictures.run).absolute().name, "weights": Path(pictures.weights).name, "checkpoint": name}

"""`jaxdiff evaluate` and `jaxdiff statistics`: samples against real images, in numbers that can be repeated."""

import dataclasses
import json
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxdiff import build, evaluation, features
from jaxdiff.cli.compared import (
    Real,
    Reference,
    Samples,
    bar,
    check_features,
    features_name,
    features_of,
    from_files,
    from_network,
    gather_real,
    reference_of,
    size_of,
    source_of,
)
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.data import Subset, in_order
from jaxdiff.files import write_atomically
from jaxdiff.train import evaluate as losses
from jaxdiff.typing import InputError

BITS = {"bits_per_dim_vlb": "vlb", "bits_per_dim_ode": "ode"}


def statistics(
    real: Annotated[Real, tyro.conf.arg(name="")], *, out: Path, keep: bool = False, batch: int = 256
) -> None:
    """Write what `jaxdiff evaluate` needs to know of a set of real images, so that it need not be read again.

    Args:
        real: Which images.
        out: A .npz file, that pytorch-fid reads too.
        keep: Also all their features, which kernel, manifold and sliced_wasserstein compare with: 4 bytes each.
        batch: At a time.
    """
    if real.reference is None:
        raise InputError("--reference: which images? A folder, a .npz file, digits, tfds:NAME, ...")
    _check_out(out, ".npz")
    check_features(real)
    source, index = source_of(real.section(), real)
    plan = evaluation.planned(features_name(real, source.image_shape, source), source.image_shape, source.num_classes)
    evaluation.check(evaluation.chosen(["frechet"], plan), plan, len(index), None)
    space = features_of(real, source.image_shape, source)
    outputs: list[str] = [name for name in ("pool", "spatial") if name in space.dimensions]
    found = gather_real(
        space, source, index, real.reference, moments_of=outputs, keep=outputs[:1] if keep else [], batch=batch
    )
    evaluation.write_statistics(out, found, space)
    print(f"{out}: {found.count:,} images of {real.reference} in the features {space.name}")


def evaluate(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    real: Annotated[Real, tyro.conf.arg(name="")],
    *,
    samples: str | None = None,
    num: int | None = None,
    metrics: tuple[str, ...] = ("frechet", "kernel", "manifold"),
    lpips: tuple[Path, Path] | None = None,
    bootstrap: int = 0,
    out: Path | None = None,
) -> None:
    """Compare samples with real images: a run's, made now, or those in a folder or a .npz file.

    Args:
        pictures: Of a run: which, and how; as sample.py has them. Labels: default as the real images have them.
        real: What to compare with.
        samples: In place of a --run: a folder of images, or a .npz, .npy or IDX file.
        num: How many samples; default all of --samples, of a --run as many as there are real images, at most 50,000.
        metrics: Of all samples, in features: frechet, frechet_infinity, frechet_spatial, kernel, inception_score,
            manifold (precision, recall, density, coverage), accuracy (of the class asked for), sliced_wasserstein; with
            Inception's features also by the names fid, fid_infinity, sfid, kid. Of each sample with the real image of
            its number: psnr, ssim, ms_ssim, lpips. Of a run's network on the real images: bits_per_dim_vlb,
            bits_per_dim_ode.
        lpips: Weights of lpips: torchvision's of AlexNet or VGG-16, and the linear layers, alex.pth or vgg.pth.
        bootstrap: Give a 95 % interval of the Frechet distance, from so many resamplings of the samples.
        out: A .json file with the numbers and all that it takes to repeat them.
    """
    started = time.perf_counter()
    if out is not None:
        _check_out(out, ".json")
    if num is not None and num < 1:
        raise InputError(f"--num {num}: expected at least 1")
    if bootstrap and not 20 <= bootstrap <= 100_000:
        raise InputError(f"--bootstrap {bootstrap}: expected 0 (none), or 20 to 100,000")
    pairs = [name for name in metrics if name in (*evaluation.PAIRED, "lpips")]
    bits = [name for name in metrics if name in BITS]
    of_features = [name for name in metrics if name not in (*pairs, *bits)]
    if bits and (samples is not None or pictures.run is None):
        raise InputError(f"--metrics {bits[0]}: is of a network; give its --run, and no --samples")
    if ("lpips" in pairs) != (lpips is not None):
        raise InputError("--metrics lpips and --lpips TRUNK LINEAR, its weights: give both or none")
    check_features(real)
    reference = reference_of(real, pictures, made=samples is None)
    compared = None
    if of_features or pairs:
        compared = from_files(samples, num, pictures) if samples is not None else from_network(pictures, reference, num)
        if reference.shape is not None and reference.shape != compared.shape:
            raise InputError(
                f"{compared.name} has images {size_of(compared.shape)}, {reference.name} {size_of(reference.shape)}: "
                "make the real ones alike by --size and --channels"
            )
    result: dict[str, Any] = {"metrics": {}, "intervals": {}, "warnings": []}
    if compared is not None and pairs:  # before what takes long, for it refuses more
        result["metrics"] |= _paired(pairs, compared, reference, lpips, pictures.batch, result)
    if compared is not None and of_features:
        _in_features(of_features, compared, reference, real, pictures, bootstrap, result)
    for name in bits:
        result["metrics"] |= _bits(name, reference, pictures, result)
    result["made_by"] = {
        "jaxdiff": version("jaxdiff"),
        "jax": jax.__version__,
        "devices": f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}",
        "seconds": round(time.perf_counter() - started, 1),
        "command": shlex.join(["jaxdiff", *sys.argv[1:]]),
    }
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    what = "" if compared is None else f"{compared.name}, {compared.num:,} images, against "
    print(f"{what}{reference.name}" + ("" if reference.num is None else f", {reference.num:,} images"))
    for name, value in result["metrics"].items():
        low, high = result["intervals"].get(name, (None, None))
        print(f"{name:36} {value:.6g}" + ("" if low is None else f"   (95 %: {low:.6g} to {high:.6g})"))
    if out is not None:
        try:
            write_atomically(out, (json.dumps(result, indent=2) + "\n").encode())
        except OSError as error:
            raise InputError(f"--out {out}: cannot be written ({error})") from error
        print(f"all of it: {out}")


def _in_features(
    names: list[str],
    samples: Samples,
    reference: Reference,
    real: Real,
    pictures: Pictures,
    bootstrap: int,
    result: dict[str, Any],
) -> None:
    """Sets of images against each other."""
    classes = None if reference.source is None else reference.source.num_classes
    plan = evaluation.planned(features_name(real, samples.shape, reference.source), samples.shape, classes)
    rows = evaluation.chosen(names, plan)
    evaluation.check(rows, plan, samples.num, reference.num)
    if bootstrap and "frechet" not in rows:
        raise InputError("--bootstrap: is of the Frechet distance, which --metrics leaves out")
    space = features_of(real, samples.shape, reference.source, reference.name)
    moments_of = sorted({output for row in rows.values() for output in row.moments})
    keep = sorted({output for row in rows.values() for output in row.arrays} | ({"pool"} if bootstrap else set()))
    theirs = reference.gathered(space, moments_of, keep, pictures.batch)
    extract = evaluation.extractor(space, {*moments_of, *keep}, batch=pictures.batch)
    with bar(samples.num, "samples") as progress:
        ours = evaluation.gather(
            samples.draw(), extract, name=samples.name, moments_of=moments_of, keep=keep, labels=samples.labels,
            progress=progress,
        )  # fmt: skip
    size = min(evaluation.Options.subset_size, samples.num, theirs.count or evaluation.Options.subset_size)
    options = evaluation.Options(seed=pictures.seed, subset_size=size)
    result["metrics"] |= evaluation.measure(rows, space, ours, theirs, options)
    if bootstrap:
        name = evaluation.name_of("frechet", rows["frechet"], space)
        result["intervals"][name] = evaluation.frechet_interval(ours, theirs, num=bootstrap, seed=pictures.seed)
    result["warnings"] += evaluation.warnings(rows, space, ours, theirs)
    result["features"] = {"name": space.name, **space.description}
    result["samples"] = {"name": samples.name, "count": ours.count, "sha256": ours.sha256, **samples.about()}
    result["reference"] = {"name": theirs.name, "count": theirs.count, "sha256": theirs.sha256, **reference.about}
    result["options"] = dataclasses.asdict(options)


def _paired(
    names: list[str],
    samples: Samples,
    reference: Reference,
    weights: tuple[Path, Path] | None,
    batch: int,
    result: dict[str, Any],
) -> dict[str, float]:
    """Image by image."""
    if reference.num != samples.num or reference.source is None:
        raise InputError(
            f"--metrics {names[0]}: compares image i with image i; {samples.name} has {samples.num:,} and "
            f"{reference.name} {'none' if reference.num is None else format(reference.num, ',')}. Give as many of each "
            "(--num, --reference-num)"
        )
    perceptual = None
    if weights is not None:
        trunk = "vgg" if "vgg" in weights[1].name else "alex"
        distance = features.lpips(*weights, trunk=trunk)  # type: ignore[arg-type]
        perceptual, result["lpips"] = (distance.name, distance), distance.description
    with bar(samples.num, "pairs") as progress:
        return evaluation.paired(
            [name for name in names if name != "lpips"], zip(samples.draw(), reference.images(batch), strict=True),
            perceptual=perceptual, progress=progress,
        )  # fmt: skip


def _bits(name: str, reference: Reference, pictures: Pictures, result: dict[str, Any]) -> dict[str, float]:
    """Of a run's network on the real images: the mean, and its standard error over them."""
    if reference.source is None:
        raise InputError(f"--metrics {name}: is of images; {reference.name} holds their statistics only")
    made = prepare(pictures, 1)
    source = Subset(reference.source, reference.numbers)
    if (source.image_shape, source.num_classes) != (made.spec.image_shape, made.spec.num_classes):
        raise InputError(
            f"--metrics {name}: the network knows images {size_of(made.spec.image_shape)} of "
            f"{made.spec.num_classes or 'no'} classes; {reference.name} has {size_of(source.image_shape)} of "
            f"{source.num_classes or 'no'}"
        )
    program = losses.pmapped(build.bits_per_dim(made.config, made.spec, BITS[name]))
    said, params = made.load()
    devices = jax.local_device_count()
    size = -(-min(pictures.batch, len(source)) // devices) * devices
    with bar(len(source), name) as progress:

        def told() -> Any:
            for index, batch in in_order(source, batch_size=size):
                yield index, batch
                progress(int((index >= 0).sum()))

        found = losses.evaluate(params, told(), jax.random.key(pictures.seed), program)
    variance = max(found.pop(f"{name}_square") - found[name] ** 2, 0)
    result["likelihood"] = {"weights": said, "item": pictures.weights, "seed": pictures.seed, "images": len(source)}
    return {name: found[name], f"{name}_error": (variance / len(source)) ** 0.5}


def _check_out(out: Path, suffix: str) -> None:
    if out.suffix != suffix or out.is_dir():
        raise InputError(f"--out {out}: expected a file whose name ends in {suffix}")

"""`jaxdiff evaluate`: samples against real images, in numbers that can be repeated."""

import dataclasses
import hashlib
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxdiff import build, evaluation, features
from jaxdiff.cli.compared import (
    NO_REFERENCE,
    Real,
    Reference,
    Samples,
    bar,
    check_files,
    from_files,
    from_network,
    reference_of,
    refuse_others,
    sha256_of,
)
from jaxdiff.cli.features import check_features, features_name, features_of
from jaxdiff.cli.out import check_file, check_numbers, made_by, writing
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.config import to_dict
from jaxdiff.data import Source, Subset, Unlabelled, in_order
from jaxdiff.evaluation import size_of
from jaxdiff.files import write_atomically
from jaxdiff.train import evaluate as losses
from jaxdiff.typing import InputError

BITS = {"bits_per_dim_vlb": "vlb", "bits_per_dim_ode": "ode"}
Found = dict[str, Any]
"""Sections of the result."""
OF_BITS = ("step", "weights", "batch", "variance", "dtype", "seed")
"""The options of samples that they have too."""


def evaluate(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    real: Annotated[Real, tyro.conf.arg(name="")],
    *,
    samples: str | None = None,
    num: int | None = None,
    metrics: tuple[str, ...] | None = None,
    lpips: tuple[Path, Path] | None = None,
    bootstrap: int = 0,
    neighbours: int = 5,
    out: Path | None = None,
) -> None:
    """Compare samples with real images: a run's, made now, or those in a folder or a .npz file.

    Args:
        pictures: Of a run: which, and how; as sample.py has them. Labels: default as the real images have them.
        real: What to compare with. inception_score and accuracy of --samples, in the features of a FILE, need nothing.
        samples: In place of a --run: a folder of images, or a .npz, .npy or IDX file.
        num: How many samples; default all of --samples, of a --run as many as there are real images, at most 50,000.
        metrics: Default frechet, kernel and manifold. Of all samples, in features: frechet, frechet_infinity,
            frechet_spatial, kernel, inception_score, manifold (precision, recall, density, coverage), diversity (the
            mean distance of two, and of two of one class), accuracy (of the class asked for), sliced_wasserstein; with
            Inception's features also by the names fid, fid_infinity, sfid, kid. Of each sample with the real image of
            its number: psnr, ssim, ms_ssim, lpips. Of a run's network on the real images: bits_per_dim_vlb,
            bits_per_dim_ode.
        lpips: Weights of lpips: torchvision's of AlexNet or VGG-16, and the linear layers, alex.pth or vgg.pth.
        bootstrap: Give a 95 % interval of the Frechet distance, from so many resamplings of the samples.
        neighbours: The k of manifold: 5 as prdc has it; papers of precision and recall take 3.
        out: A .json file with the numbers and all that it takes to repeat them.
    """
    started = time.perf_counter()
    if out is not None:
        check_file(out, ".json")
    check_numbers(batch=pictures.batch, num=num, neighbours=neighbours)
    check_numbers(least=0, seed=pictures.seed)
    if bootstrap and not 20 <= bootstrap <= 100_000:
        raise InputError(f"--bootstrap {bootstrap}: expected 0 (none), or 20 to 100,000")
    if metrics == ():
        raise InputError("--metrics: which? Leave it out for frechet, kernel and manifold")
    asked = ("frechet", "kernel", "manifold") if metrics is None else metrics
    pairs = [name for name in asked if name in (*evaluation.PAIRED, "lpips")]
    bits = [name for name in asked if name in BITS]
    of_features = [name for name in asked if name not in (*pairs, *bits)]
    rows = [evaluation.METRICS[evaluation.row_of(name)] for name in of_features]
    if bits and (samples is not None or pictures.run is None):
        raise InputError(f"--metrics {bits[0]}: is of a network; give its --run, and no --samples")
    if pairs and samples is None:
        raise InputError(
            f"--metrics {pairs[0]}: compares image i of --samples with real image i; a run's are no copies"
        )
    if ("lpips" in pairs) != (lpips is not None):
        raise InputError("--metrics lpips and --lpips TRUNK LINEAR, its weights: give both or none")
    if samples is None and pictures.run is None and pictures.pretrained is None:
        raise InputError("give --run RUN or --pretrained PATH, whose samples are made now, or --samples FILE or FOLDER")
    if bits == ["bits_per_dim_ode"] and not of_features and pictures.variance is not None:
        raise InputError(f"--variance {pictures.variance}: is of the ancestral sampler's bound; leave it out")
    if bits and not of_features:
        refuse_others(pictures, "run", *OF_BITS, why=f"--metrics {bits[0]}: takes no samples")
        if num is not None:
            raise InputError(f"--num {num}: is of samples, which {bits[0]} needs none of; see --reference-num")
    check_features(real)
    compared = None if samples is None else from_files(samples, num, pictures)
    alone = samples is not None and not pairs and not any(row.moments or row.against for row in rows)
    if alone and real.reference is None and ":" not in (real.features or ""):
        file = "classifier:FILE, or the --reference that one is trained on" if "accuracy" in asked else "inception:FILE"
        raise InputError(f"--metrics {of_features[0]}: in which features? Give --features {file}")
    if alone and real.reference is None:
        real.refuse("is not needed", "reference_split", "reference_dir", "reference_num", "size", "channels")
        reference = NO_REFERENCE
    else:
        reference = reference_of(real, pictures, made=samples is None)
    if metrics is None and reference.moments_only:
        of_features = ["frechet"]
        print(f"note: {reference.name} has no features of each image: no kernel, no manifold", file=sys.stderr)
    if samples is None and (of_features or not bits):
        compared = from_network(pictures, reference, num)
    if compared is not None and reference.shape is not None and reference.shape != compared.shape:
        raise InputError(
            f"{compared.name} has images {size_of(compared.shape)}, {reference.name} {size_of(reference.shape)}: "
            "make the real ones alike by --size and --channels"
        )
    # All that can be refused is, before anything is made: each of these checks, and is the work that is left.
    work = [_bits(name, reference, pictures) for name in bits]
    if compared is not None and pairs:
        work.append(_paired(pairs, compared, reference, real, num, lpips, pictures.batch))
    if compared is not None and of_features:
        work.append(_in_features(of_features, compared, reference, real, pictures, bootstrap, neighbours))
    if not of_features and (bootstrap or real.features is not None):
        flag = "--bootstrap" if bootstrap else f"--features {real.features}"
        raise InputError(f"{flag}: no metric of features is asked for; leave it out, or add --metrics frechet")
    if samples is not None and compared is not None:
        check_files("--samples", compared.name, compared.num, compared.draw)
    if len(work) > 1 and reference.num is not None:  # one finds them itself, with nothing lost
        check_files("--reference", reference.name, reference.num, partial(reference.images, pictures.batch))
    result: dict[str, Any] = {"metrics": {}, "intervals": {}, "warnings": []}
    for do in work:
        for section, found in do().items():
            if section == "warnings":
                result[section] += found
            else:
                result[section] = {**result.get(section, {}), **found}
    result["made_by"] = made_by(time.perf_counter() - started)
    _tell(result, compared, reference)
    if out is not None:
        text = json.dumps(result | {"metrics": {name: _finite(x) for name, x in result["metrics"].items()}}, indent=2)
        with writing(out):
            write_atomically(out, (text + "\n").encode())
        print(f"all of it: {out}")


def _tell(result: Found, samples: Samples | None, reference: Reference) -> None:
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    sets = [one for one in (samples, reference) if one is not None and one is not NO_REFERENCE]
    print(", against ".join(one.name + ("" if one.num is None else f", {one.num:,} images") for one in sets))
    for name, value in result["metrics"].items():
        low, high = result["intervals"].get(name, (None, None))
        print(
            f"{name:36} {value:.6g}"
            + ("" if low is None else f"   (95 %, without the bias of so few samples: {low:.6g} to {high:.6g})")
        )


def _finite(value: float) -> float | None:
    """JSON has no infinity, which the PSNR of a set with a pair of equal images is."""
    return value if math.isfinite(value) else None


def _in_features(
    names: list[str],
    samples: Samples,
    reference: Reference,
    real: Real,
    pictures: Pictures,
    bootstrap: int,
    neighbours: int,
) -> Callable[[], Found]:
    """Sets of images against each other."""
    classes = None if reference.source is None else reference.source.num_classes
    asked = features_name(real, samples.shape, reference.source, reference.features)
    plan = evaluation.planned(asked, samples.shape, classes)
    rows = evaluation.chosen(names, plan)
    size = evaluation.subset_size(samples.num, reference.num)
    options = evaluation.Options(seed=pictures.seed, subset_size=size, neighbours=neighbours)
    evaluation.check(rows, plan, samples.num, reference.num, options)
    if bootstrap and "frechet" not in rows:
        raise InputError("--bootstrap: is of the Frechet distance, which --metrics leaves out")
    if bootstrap:
        evaluation.check_bootstrap(plan, samples.num)
    if "accuracy" in rows:
        if samples.labels is None:
            raise InputError(
                f"--metrics accuracy: {samples.name} has no labels that its images should show; give them as `labels` "
                "of a .npz, in names such as 000000_3.png, or as directories, one for each class"
            )
        most, known = int(samples.labels.max()), plan.dimensions["logits"]
        if most >= known:
            raise InputError(f"--metrics accuracy: {samples.name} has the label {most}, the classifier {known} classes")

    def work() -> Found:
        space = features_of(real, asked, samples.shape, reference.source, reference.name)
        moments_of = sorted({output for row in rows.values() for output in row.moments})
        keep = sorted({output for row in rows.values() for output in row.arrays} | ({"pool"} if bootstrap else set()))
        against = sorted({output for row in rows.values() for output in row.against})
        theirs = reference.gathered(space, moments_of, against, pictures.batch)
        evaluation.check_reference(rows, theirs)
        extract = evaluation.extractor(space, {*moments_of, *keep}, batch=pictures.batch)
        with bar(samples.num, "samples") as progress:
            ours = evaluation.gather(
                samples.draw(), extract, name=samples.name, moments_of=moments_of, keep=keep, labels=samples.labels,
                progress=progress,
            )  # fmt: skip
        with bar(len(rows), "metrics", "metric") as progress:
            values = evaluation.measure(rows, space, ours, theirs, options, progress)
        found: Found = {
            "metrics": values,
            "warnings": evaluation.warnings(rows, space, ours.count, theirs.count),
            "features": {"name": space.name, **space.description},
            "samples": {"name": samples.name, "count": ours.count, "sha256": ours.sha256, **samples.about()},
            "options": dataclasses.asdict(options) | {"bootstrap": bootstrap},
        }
        if reference is not NO_REFERENCE:
            about = {"name": reference.name, "count": theirs.count, "sha256": theirs.sha256, **reference.about}
            found["reference"] = about
        if bootstrap:
            name = evaluation.name_of("frechet", rows["frechet"], space)
            with bar(bootstrap + 1, "bootstrap", "draw") as progress:
                interval = evaluation.frechet_interval(
                    ours, theirs, num=bootstrap, seed=pictures.seed, progress=progress
                )
            found["intervals"] = {name: interval}
        return found

    return work


def _paired(
    names: list[str],
    samples: Samples,
    reference: Reference,
    real: Real,
    num: int | None,
    weights: tuple[Path, Path] | None,
    batch: int,
) -> Callable[[], Found]:
    """Image by image."""
    if num is not None or real.reference_num is not None:
        raise InputError(f"--metrics {names[0]}: is of all pairs; leave --num and --reference-num out")
    if reference.source is None or reference.num != samples.num:
        there = "only statistics" if reference.source is None else f"{len(reference.source):,}"
        raise InputError(
            f"--metrics {names[0]}: compares image i with image i, and needs as many of both; {samples.name} has "
            f"{samples.num:,}, {reference.name} {there}"
        )
    perceptual, about = None, {}
    if weights is not None:
        distance = features.lpips(*weights, trunk="vgg" if "vgg" in weights[1].name else "alex")
        perceptual, about = (distance.name, distance), {"lpips": distance.description}
    plain, digests = [name for name in names if name != "lpips"], (hashlib.sha256(), hashlib.sha256())
    evaluation.check_pairs(plain, samples.shape, None if perceptual is None else perceptual[1])

    def work() -> Found:
        with bar(samples.num, "pairs") as progress:
            ours, theirs = (
                evaluation.hashed(images, digest)
                for images, digest in zip((samples.draw(), reference.images(batch)), digests, strict=True)
            )
            means = evaluation.paired(plain, zip(ours, theirs, strict=True), perceptual=perceptual, progress=progress)
        sets = {
            "samples": {"name": samples.name, "count": samples.num, "sha256": digests[0].hexdigest()},
            "reference": {
                "name": reference.name, "count": reference.num, "sha256": digests[1].hexdigest(), **reference.about
            },
        }  # fmt: skip
        return {"metrics": means, **sets, **about}

    return work


def _bits(name: str, reference: Reference, pictures: Pictures) -> Callable[[], Found]:
    """Of a run's network on the real images: the mean, and its standard error over them."""
    if reference.source is None:
        raise InputError(f"--metrics {name}: is of images; {reference.name} holds their statistics only")
    if name == "bits_per_dim_ode" and importlib.util.find_spec("diffrax") is None:
        raise InputError(f"--metrics {name} needs diffrax: pip install 'jaxdiff[ode]'")
    made = prepare(pictures, 1, of_images=True)
    source: Source = Subset(reference.source, reference.numbers)
    if made.spec.num_classes is None:
        source = Unlabelled(source)
    if (source.image_shape, source.num_classes) != (made.spec.image_shape, made.spec.num_classes):
        raise InputError(
            f"--metrics {name}: the network knows images {size_of(made.spec.image_shape)} of "
            f"{made.spec.num_classes or 'no'} classes; {reference.name} has {size_of(source.image_shape)} of "
            f"{source.num_classes or 'no'}"
        )
    devices = jax.local_device_count()
    size = -(-min(pictures.batch, len(source)) // devices) * devices

    def work() -> Found:
        program = losses.pmapped(build.bits_per_dim(made.config, made.spec, BITS[name]))
        (said, params), digest = made.load(), hashlib.sha256()
        with bar(len(source), name) as progress:

            def told() -> Iterator[tuple[Any, Any]]:
                batches, again = tee(in_order(source, batch_size=size))
                images = evaluation.hashed((batch["image"][index >= 0] for index, batch in again), digest)
                for (index, batch), real in zip(batches, images, strict=True):
                    yield index, batch
                    progress(len(real))

            found = losses.evaluate(params, told(), jax.random.key(pictures.seed), program)
        if not math.isfinite(found[name]):
            raise InputError(f"--metrics {name}: is {found[name]}: this network's outputs are not finite")
        bound = build.bound_settings(made.config) if name == "bits_per_dim_vlb" else {}
        # Of an enlarging network it is of an image given its smaller one.
        sections = ["diffusion", "model", *(["condition"] if made.config.condition.factor else [])]
        variance = max(found.pop(f"{name}_square") - found[name] ** 2, 0)
        about = {
            "name": pictures.run, "weights": said, "item": pictures.weights, "weights_sha256": sha256_of(params),
            "seed": pictures.seed, "images": len(source), "of": reference.name, "sha256": digest.hexdigest(),
            **reference.about, "batch": size, **bound,
            **{section: to_dict(made.config)[section] for section in sections},
        }  # fmt: skip
        return {
            "metrics": {name: found[name], f"{name}_error": (variance / len(source)) ** 0.5},
            "likelihood": {name: about},
        }

    return work

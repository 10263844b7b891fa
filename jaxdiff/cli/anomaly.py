"""`jaxdiff anomaly`: which images are unlike those that a network was trained on, and where."""

import dataclasses
import json
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxdiff import build, evaluation
from jaxdiff.cli.anomaly_images import Images, Some, classes_of, normal_of, some_of
from jaxdiff.cli.compared import bar, check_files, refuse_others, sha256_of
from jaxdiff.cli.out import check_file, check_numbers, made_by, save, writing
from jaxdiff.cli.pictures import Pictures, Prepared, prepare
from jaxdiff.config import to_dict
from jaxdiff.files import write_atomically
from jaxdiff.metrics import Normal, auroc
from jaxdiff.pixels import to_uint8
from jaxdiff.report import figures
from jaxdiff.train.evaluate import Program, every_term, pmapped
from jaxdiff.train.step import LossFn
from jaxdiff.typing import Array, InputError, PyTree

Score = Literal["profile", "reconstruction", "likelihood"]
Standard = Literal["z", "mahalanobis", "no"]
NETWORK = ("run", "pretrained", "pretrained_options", "step", "weights", "batch", "dtype", "seed")
USED: dict[Score, tuple[str, ...]] = {
    "profile": NETWORK,
    "reconstruction": (*NETWORK, "sampler", "steps", "eta", "variance", "spacing", "temperature"),
    "likelihood": (*NETWORK, "steps", "variance"),
}
"""The options of sample.py that a score has."""
STEPS = {"profile": None, "reconstruction": 1, "likelihood": 100}
DRAWS, SHOWN_LEVELS = 8, 4


def anomaly(
    pictures: Annotated[Pictures, tyro.conf.arg(name="")],
    images: Annotated[Images, tyro.conf.arg(name="")],
    *,
    out: Path,
    score: Score = "profile",
    levels: tuple[float, ...] = (),
    draws: int = DRAWS,
    standard: Standard | None = None,
    heat_map: Path | None = None,
    shown: int = 8,
) -> None:
    """Score images by how unlike those they are that a network was trained on: the larger, the less normal.

    The score of image i depends on the seed and i alone. A network of classes is asked without one.

    Args:
        pictures: With which network; of reconstruction also by which sampler, in how many --steps from each level down
            (default 1, the network's own guess); of likelihood in how many --steps of the bound (default 100).
        images: Which images.
        out: NAME.json: the scores, by the names of the files or the images' numbers. NAME.npz: `scores`, `index` (the
            numbers) and, of files, `names`; also the values at the levels, and the heat maps of reconstruction.
        score: profile: the loss at several noise levels. reconstruction: noised to several levels, denoised again, and
            compared with itself; says where, too. likelihood: an upper bound of bits/dim; poor, as simple images are
            likely, normal or not.
        levels: Times, in (0, 1]; default 8, evenly spaced in log-SNR from -4 to 4.
        draws: Of the noise, at each level.
        standard: What the score is of the errors at the levels. z: by how many standard deviations their logarithms lie
            above those of normal images, on average. mahalanobis: how far from these, whichever way. no: the mean of
            the errors, or bits/dim. Default z, of likelihood no.
        heat_map: A .png file: the images of the highest scores, what the network makes of them, and where they differ.
        shown: How many.
    """
    started = time.perf_counter()
    standard = standard or ("no" if score == "likelihood" else "z")
    _check_options(pictures, images, score, levels, draws, standard)
    _check_outputs(out, score, heat_map, shown)
    steps = STEPS[score] if pictures.steps is None else pictures.steps
    made = prepare(dataclasses.replace(pictures, steps=steps), 1)
    _check_network(made)
    some = some_of(images.images, images.split, "images", images, made.spec, num=images.num)
    classes = classes_of(images, some)
    normal = None if standard == "no" else normal_of(pictures.run, images, made.spec)
    at = build.anomaly.noise_levels(made.config)
    if levels:
        at = build.anomaly.known_levels(made.config, np.array(sorted(levels, reverse=True)))
    if normal is not None and len(normal.numbers) <= len(at):
        said = f"{len(normal.numbers)} images say little of what is usual at {len(at)} levels"
        raise InputError(f"--normal {normal.name}: {said}; give {len(at) + 1} at least")

    def loss(**how: Any) -> LossFn:
        if score == "reconstruction":
            return build.anomaly.reconstruction(made.config, made.spec, at, draws=draws, **how)
        if score == "profile":
            return build.anomaly.profile(made.config, made.spec, at, draws=draws)
        return build.anomaly.bits(made.config, made.spec, steps=made.config.sample.steps)

    loss()  # refuses levels that do not suit the steps
    for flag, one in (("--images", some), ("--normal", normal)):
        if one is not None:
            read = partial(evaluation.images_of, one.source, one.numbers, batch=pictures.batch)
            check_files(flag, one.name, len(one.numbers), read)
    said, params = made.load()
    program, (key, other) = pmapped(loss()), jax.random.split(jax.random.key(pictures.seed))
    inputs, usual = (params, jnp.full(len(at), 1 / len(at))) if score == "reconstruction" else params, None
    if normal is not None:
        errors = _terms(program, inputs, normal, other, pictures.batch, "normal images")["curve"]
        usual = Normal.of(_curves(errors, score))
        if score == "reconstruction":
            inputs = params, jnp.asarray(1 / (len(at) * errors.mean(axis=0)), jnp.float32)
    found = _terms(program, inputs, some, key, pictures.batch, "images")
    scores = found["curve"].mean(axis=1)
    if usual is not None:
        scores = (usual.z if standard == "z" else usual.mahalanobis)(_curves(found["curve"], score))
    area = None if classes is None else auroc(*(x[classes.counted] for x in (scores, classes.anomalous)))
    highest = np.argsort(-scores, kind="stable")[:shown]
    figure = None
    if heat_map is not None:
        top = some._replace(numbers=some.numbers[highest])
        again = _terms(pmapped(loss(pictures=True)), inputs, top, key, len(highest), "heat maps")
        few = np.unique(np.rint(np.linspace(0, len(at) - 1, min(SHOWN_LEVELS, len(at)))).astype(int))
        figure = figures.heat_maps(
            some.source.gather(top.numbers)["image"], to_uint8(again["x0"][:, few]), again["heat"], levels=at[few],
            scores=scores[highest], title=f"{Path(some.name).name}: the highest scores",
            unit="squared error" + (" over that of normal images" if usual else ""),
        )  # fmt: skip
    of_levels = {} if score == "likelihood" else {"levels": at.tolist(), "draws": draws}
    about = {
        "score": score, "standard": standard, **of_levels, "auroc": area,
        "images": {"name": some.name, "count": len(scores), "num": images.num},
        "normal": None if normal is None else {"name": normal.name, "count": len(normal.numbers)},
        "labels": {"normal": images.labels_normal, "anomalous": images.labels_anomalous},
        "network": {
            "name": pictures.run or str(pictures.pretrained), "weights": said, "item": pictures.weights,
            "weights_sha256": sha256_of(params), "seed": pictures.seed,
            **{section: to_dict(made.config)[section] for section in ("diffusion", "model", "sample")},
        },
        "made_by": made_by(time.perf_counter() - started),
    }  # fmt: skip
    _write(out, some, scores, found, about)
    middle, low, high = (f"{x:.4g}" for x in (np.median(scores), scores.min(), scores.max()))
    print(f"{some.name}, {len(scores):,} images by their {score}")
    print(f"scores: median {middle}, from {low} to {high}; higher is less normal. The highest:")
    called = some.called()
    for i in highest:
        print(f"{called[i]:>20} {scores[i]:.4g}")
    if figure is not None and heat_map is not None:
        save(figure, heat_map)
        print(f"where: {heat_map}")
    if classes is not None:
        which = f"{classes.anomalous.sum():,} anomalies among {classes.counted.sum():,} images"
        print(f"AUROC of {which}: {area:.4f}")
    print(f"all scores: {out}")


def _check_options(
    pictures: Pictures, images: Images, score: Score, levels: tuple[float, ...], draws: int, standard: Standard
) -> None:
    check_numbers(batch=pictures.batch, num=images.num, draws=draws)
    check_numbers(least=0, seed=pictures.seed)
    check_numbers(**{"normal-num": images.normal_num})
    refuse_others(pictures, *USED[score], why=f"--score {score}: makes no pictures that these options would be of")
    if score == "likelihood" and (levels or draws != DRAWS):
        raise InputError("--levels and --draws: are not of --score likelihood, which has --steps; leave them out")
    for name in ("normal", "normal_split", "normal_num"):
        value = getattr(images, name)
        flag = f"--{name.replace('_', '-')} {value}"
        if standard == "no" and value != getattr(Images, name):
            raise InputError(f"{flag}: nothing is compared with it; leave it out, or give --standard z")
        if name == "normal_split" and value is not None and images.normal is None:
            raise InputError(f"{flag}: is of --normal, which is not given; leave it out")
    if images.dir is not None and not any((name or "").startswith("tfds:") for name in (images.images, images.normal)):
        raise InputError(f"--dir {images.dir}: prepared TFDS sets are there, and none is asked for; leave it out")


def _check_outputs(out: Path, score: Score, heat_map: Path | None, shown: int) -> None:
    check_file(out, ".json", ".npz")
    check_numbers(shown=shown)
    if heat_map is None:
        return
    if score != "reconstruction":
        raise InputError(f"--heat-map {heat_map}: is of --score reconstruction")
    try:
        check_file(heat_map, ".png")
    except InputError as error:
        raise InputError(str(error).replace("--out", "--heat-map")) from None


def _check_network(made: Prepared) -> None:
    if made.latents:
        raise InputError("this network makes latents for an autoencoder: it knows no images")
    if made.spec.num_classes is not None and not build.knows_none(made.config):
        raise InputError(
            "this network was never trained without a label, and the images' are not known; train with "
            "--train.label-dropout 0.1, or without labels (--data.no-labels)"
        )


def _terms(program: Program, inputs: PyTree, some: Some, key: Array, batch: int, what: str) -> dict[str, np.ndarray]:
    """All terms of the images, with a progress bar."""
    devices = jax.local_device_count()
    size = -(-min(batch, len(some.numbers)) // devices) * devices
    with bar(len(some.numbers), what) as progress:
        found = every_term(inputs, some.numbered(size), key, program, progress=progress)
    if not np.isfinite(found["curve"]).all():
        raise InputError("the network's outputs are not finite; compute in float32, or give another checkpoint")
    return found


def _curves(errors: np.ndarray, score: Score) -> np.ndarray:
    """What is compared: of errors the logarithms, which spread alike at all levels."""
    return errors if score == "likelihood" else np.log(np.maximum(errors, np.finfo(np.float32).tiny))


def _write(out: Path, some: Some, scores: np.ndarray, found: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    if out.suffix.lower() == ".npz":
        arrays: dict[str, Any] = {
            "scores": scores,
            "index": some.numbers,
            **found,
            "about": np.array(json.dumps(about)),
        }
        if some.names is not None:
            arrays["names"] = np.array(some.names)
        with writing(out):
            write_atomically(out, lambda file: np.savez_compressed(file, **arrays))
        return
    of_each = dict(zip(some.called(), scores.tolist(), strict=True))
    with writing(out):
        write_atomically(out, (json.dumps(about | {"scores": of_each}, indent=1) + "\n").encode())

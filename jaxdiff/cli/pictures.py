"""Which pictures a command makes: the options of sample.py that say so, and what makes them."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import build, cascades, runs, sampling
from jaxdiff import config as configs
from jaxdiff.cli.common import Words, load_classifier, load_pretrained, read_run, warn_of_signal
from jaxdiff.config import Config
from jaxdiff.pretrained import GuidedClassifier
from jaxdiff.train.parallel import replicate
from jaxdiff.typing import InputError, PyTree, Schedule
from jaxdiff.weights import SUFFIX


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pictures:
    """With which network, and how."""

    run: str | None = None
    """The folder that train.py wrote, or its gs://BUCKET/RUN, s3://BUCKET/RUN."""
    pretrained: Path | None = None
    """In place of a run: a folder that diffusers' save_pretrained wrote, or a file of weights of guided-diffusion,
    lucidrains, score_sde, EDM or DiT."""
    pretrained_options: Words = ()
    """What a .pt file does not say, as NAME VALUE pairs: image_size 64 num_head_channels 64, ... (the arguments of
    jaxdiff.pretrained.load_guided_diffusion, load_lucidrains, load_score_sde, load_edm and load_dit)."""
    classifier: Path | None = None
    """A classifier of noisy pictures that guides the network towards the labels: a .pt file of guided-diffusion's."""
    classifier_scale: float | None = None
    """How strongly it guides; default 1."""
    classifier_options: Words = ()
    """What its file does not say, as NAME VALUE pairs (the arguments of jaxdiff.pretrained.load_guided_classifier)."""
    step: int | None = None
    """The checkpoint; default the latest."""
    weights: str = "ema"
    """The moving average `ema`, one of --train.ema-lengths, such as `ema_0.05`, or the parameters as the optimiser left
    them, `params`; or a file that `jaxdiff ema` wrote, NAME.safetensors."""
    batch: int = 256
    """At a time. Picture i is the same whatever the batch."""
    labels: tuple[int, ...] = ()
    """What the pictures show, in turn. Default: every class in turn; where they are compared with real images, as often
    as these show it."""
    guidance: float | None = None
    """Classifier-free guidance scale: 1 none, more for clearer and less varied pictures."""
    sampler: str | None = None
    """ddpm, ddim, heun, dpm_solver++, unipc, ...: docs/samplers.md says which."""
    steps: int | None = None
    """Steps of the grid."""
    eta: float | None = None
    """How much noise a sampler injects, if it has a choice: ddim from 0 (deterministic) to 1 (ancestral)."""
    variance: str | None = None
    """Of ddpm: fixed_small, fixed_large, or learned_range."""
    spacing: str | None = None
    """Which times: uniform, quadratic, trailing, leading, linspace, karras, log_snr or exponential."""
    temperature: float | None = None
    """Scales the noise that the sampler injects."""
    truncation: float | None = None
    """Cut off the starting noise beyond so many standard deviations: less, such as 1.5, for better and less varied
    pictures."""
    start_scale: float | None = None
    """Scales the starting noise: the temperature of a sampler that injects none."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of the computation."""
    seed: int = 0
    """Picture i is a function of the seed and i."""

    @property
    def guide_scale(self) -> float:
        """How strongly a classifier guides."""
        return 1.0 if self.classifier_scale is None else self.classifier_scale


class Prepared(NamedTuple):
    """Pictures that can be made: all of it was checked.

    Attributes:
      config: with the settings of this time.
      spec: of the pictures.
      labels: of each, or None.
      latents: they are none, but an autoencoder's latents.
      classifier: the one that guides, or None.
      generate: `sampling.generator`, or `cascades.super_resolver`.
      guide: the params and the scale of a classifier, if there is one.
      load: the weights' name and they.
      draw: params -> batches of uint8 `[<= batch, H, W, C]`, or float32 latents; not of super-resolution.
      path: params -> `sampling.paths` of all of them; likewise.
    """

    config: Config
    spec: build.Spec
    labels: np.ndarray | None
    latents: bool
    classifier: GuidedClassifier | None
    generate: sampling.Generate
    guide: Callable[[], tuple[PyTree, Any] | None]
    load: Callable[[], tuple[str, PyTree]]
    draw: Callable[[PyTree], Iterator[np.ndarray]]
    path: Callable[[PyTree], tuple[np.ndarray, np.ndarray]]


def prepare(
    pictures: Pictures,
    num: int,
    *,
    by_class: Callable[[int], np.ndarray | None] = lambda classes: None,
    of_images: bool = False,
    labels_flag: str = "--labels",
) -> Prepared:
    """Check all of it, before anything is compiled.

    Args:
      pictures: which, and how.
      num: how many.
      by_class: of a network of so many classes the label of each, `[num]`; None for what `pictures.labels` says.
      of_images: a network of super-resolution will do, for there are images to make what it is given of.
      labels_flag: the option that gave `pictures.labels`.

    Raises:
      InputError: a network of super-resolution unless `of_images`; options that do not fit each other, the network or
        the sampler.
    """
    for name, value in (("num", num), ("batch", pictures.batch)):
        if value < 1:
            raise InputError(f"--{name} {value}: expected at least 1")
    if not 0 <= pictures.seed < 2**32:
        raise InputError(f"--seed {pictures.seed}: expected 0 <= seed < 2^32")
    config, spec, load, latents = _network(pictures)
    enlarges = config.condition.factor is not None
    if enlarges and not of_images:
        raise InputError(
            f"--run {pictures.run}: makes no pictures from noise alone, but enlarges small ones: use jaxdiff "
            "super-resolution, whose --out evaluate takes as --samples; or sample.py --run BASE --cascade RUN"
        )
    if enlarges and pictures.classifier is not None:
        raise InputError("--classifier: guides no super-resolution; leave it out")
    given = {
        field.name: getattr(pictures, field.name)
        for field in dataclasses.fields(configs.Sample)
        if getattr(pictures, field.name, None) is not None
    }
    if pictures.dtype is not None:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=pictures.dtype))
    config = build.with_sample(config, given)
    schedule = build.schedule(config.diffusion)
    warn_of_signal(schedule)
    guide = _classifier(pictures, config, spec, schedule)
    chosen = None if spec.num_classes is None else by_class(spec.num_classes)
    labels = _labels(pictures, spec, given, guide, num, labels_flag) if chosen is None else chosen
    classify, key = None if guide is None else guide.log_prob, jax.random.key(pictures.seed)

    def strength() -> tuple[PyTree, Any] | None:
        return None if guide is None else replicate((guide.params, np.float32(pictures.guide_scale)))

    generate = (
        cascades.super_resolver(config, spec) if enlarges else sampling.generator(config, spec, classify=classify)
    )

    def draw(params: PyTree) -> Iterator[np.ndarray]:
        return sampling.in_batches(
            sampling.pmapped(generate), config, params, key, labels, num=num, batch=pictures.batch, latents=latents,
            guide=strength(),
        )  # fmt: skip

    def path(params: PyTree) -> tuple[np.ndarray, np.ndarray]:
        program = sampling.pmapped(sampling.generator(config, spec, classify=classify, path=True))
        return sampling.paths(program, config, params, key, labels, num=num, guide=strength())

    return Prepared(config, spec, labels, latents, guide, generate, strength, load, draw, path)


def _network(pictures: Pictures) -> tuple[Config, build.Spec, Callable[[], tuple[str, PyTree]], bool]:
    """A run's or an imported network: config, spec, what loads the weights, with their name, and whether it makes
    latents."""
    path = pictures.pretrained
    if pictures.run is not None and path is None:
        if pictures.pretrained_options:
            raise InputError("--pretrained-options without --pretrained")
        run = read_run(pictures.run)
        config, spec = runs.load_run(run)
        file = Path(pictures.weights)
        if file.suffix == SUFFIX:
            if pictures.step is not None:
                raise InputError(f"--step chooses a checkpoint, and --weights {file} is in none; leave one out")
            runs.check_weights_file(file, config)
            return config, spec, lambda: (file.name, runs.read_weights(file, config, spec)), False
        runs.check_weights(run, config, item=pictures.weights, step=pictures.step)

        def weights() -> tuple[str, PyTree]:
            step, params = runs.load_weights(run, config, spec, item=pictures.weights, step=pictures.step)
            return f"step {step}", params

        return config, spec, weights, False
    if pictures.run is None and path is not None:
        if pictures.step is not None or pictures.weights != "ema":
            raise InputError("--step and --weights choose a checkpoint of a --run; --pretrained has one")
        loaded = load_pretrained(path, pictures.pretrained_options)
        return loaded.config, loaded.spec, lambda: (path.name, replicate(loaded.params)), loaded.latents
    raise InputError("give either --run FOLDER, of train.py, or --pretrained PATH, of another library")


def _classifier(pictures: Pictures, config: Config, spec: build.Spec, schedule: Schedule) -> GuidedClassifier | None:
    """The one that guides, if it fits the network."""
    if pictures.classifier is None:
        if pictures.classifier_scale is not None or pictures.classifier_options:
            raise InputError("--classifier-scale and --classifier-options without --classifier")
        return None
    if not math.isfinite(pictures.guide_scale):
        raise InputError(f"--classifier-scale {pictures.classifier_scale}: expected a number")
    guide = load_classifier(pictures.classifier, pictures.classifier_options)
    guide.check(spec, schedule, step_scale=config.diffusion.step_scale)
    return guide.computing_in(jnp.dtype(config.model.dtype))


def _labels(
    pictures: Pictures, spec: build.Spec, given: dict[str, Any], guide: GuidedClassifier | None, num: int, flag: str
) -> np.ndarray | None:
    if spec.num_classes is None and "guidance" in given:
        raise InputError("this model was trained without labels: leave --guidance out")
    classes = spec.num_classes if guide is None else guide.num_classes
    if classes is None:
        if pictures.labels:
            raise InputError(f"this model was trained without labels: leave {flag} out, or give a --classifier of them")
        return None
    for label in pictures.labels:
        if not 0 <= label < classes:
            raise InputError(f"{flag} {label}: expected labels from 0 to {classes - 1}")
    return sampling.cycle(pictures.labels or range(classes), num)

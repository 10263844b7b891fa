"""Typed settings of a run. A config file is a Python file that sets `config = Config(...)` with what differs.

Every field can be overridden on the command line, as `--section.field VALUE`.
"""

import dataclasses
import difflib
import json
import math
import re
import runpy
from pathlib import Path
from typing import Any, Literal

import dacite

from jaxdiff.typing import InputError


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from."""

    name: str = "digits"
    """digits (inside scikit-learn), tfds:NAME (TensorFlow Datasets), or a .npz/.npy file of uint8 images."""
    split: str = "train"
    """Of a TFDS set: train, test, train[:10%], ..."""
    dir: str | None = None
    """Where prepared TFDS sets are; default TFDS_DATA_DIR or ~/tensorflow_datasets."""
    labels: bool = True
    """Use the labels, if there are any: a class-conditional model."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2."""


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The process and what the network predicts of it."""

    schedule: str = "cosine"
    """A table of `steps` betas: constant, linear, quadratic, cosine, sigmoid, tanh, geometric, linear_zero_snr,
    quadratic_zero_snr; or the continuous vp, sub_vp, ve, edm, flow, cosine_log_snr, cosine_log_snr_interpolated."""
    schedule_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Arguments of the schedule's function in jaxdiff.schedules, as NAME VALUE pairs, such as beta_end 0.02."""
    steps: int = 1000
    """T, the length of a schedule's table; continuous schedules have none."""
    kind: str = "eps"
    """What the network predicts: eps, x0, v, score, velocity, or F (EDM's)."""
    preconditioning: str | None = None
    """How the network is fed, its input's scale and what it is told of the time: edm, vp, ve or iddpm (see
    jaxdiff.preconditioning). Default: x_t as it is, with the step's number or 1000 t."""
    times: str = "uniform"
    """Which times training sees: uniform, log_normal (EDM's levels) or logit_normal; of a table the nearest steps."""
    weight: str | None = None
    """How much each time counts: min_snr, truncated_snr, p2, edm, elbo or sigmoid (see jaxdiff.weighting). Default: the
    error in what the network predicts, at all times alike."""
    weight_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Arguments of the weight's function, as NAME VALUE pairs, such as gamma 5."""
    learned_variance: bool = False
    """Learn the variance of the reverse steps too, with the hybrid loss of improved DDPM. Needs a table."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The U-Net; see jaxdiff.models.UNet."""

    channels: int = 128
    """Channels of the first level."""
    embedding_channels: int | None = None
    """Channels of the embedding of time; default `channels`."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Channels of each level, in units of `channels`; each level halves the image."""
    blocks: int = 2
    """Residual blocks per level."""
    attention_resolutions: tuple[int, ...] = (16,)
    """Sizes of feature maps that get self-attention (the smallest always does)."""
    attention_levels: tuple[int, ...] | None = None
    """Levels that get self-attention, from 0, in place of `attention_resolutions`."""
    middle_attention: bool = True
    """Self-attention at the smallest feature map."""
    heads: int = 1
    """Attention heads."""
    head_channels: int | None = None
    """Channels per head, instead of the number of heads."""
    scale_shift: bool = True
    """Embeddings scale and shift the normalisation (ADM) instead of being added (DDPM)."""
    resample_in_block: bool = True
    """Resample inside residual blocks (ADM) instead of by separate convolutions (DDPM)."""
    resample_conv: bool = True
    """Without resample_in_block: False resamples by means and nearest neighbours alone."""
    downsample_padding: tuple[int, int] = (0, 1)
    """Of the strided convolution, before and after the image."""
    dropout: float = 0.0
    """Dropout rate in training."""
    groups: int = 32
    """Groups of the normalisations."""
    least_group: int = 2
    """The fewest channels of a group."""
    norm_eps: float = 1e-5
    """Added to the variance in the normalisations."""
    freq_shift: float = 1.0
    """Of the sinusoidal embedding: 1 in DDPM, 0 in guided diffusion."""
    cos_first: bool = False
    """Cosines before sines in the embedding, as in guided diffusion."""
    null_label: bool = True
    """A label more, of hidden ones; without it nothing can be guided, and --train.label-dropout must be 0."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, normalisation and output are float32."""
    remat: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


@dataclasses.dataclass(frozen=True)
class Optim:
    """The optimiser, through optax."""

    name: Literal["adam", "adamw"] = "adam"
    """adamw decays weights by `weight_decay`."""
    learning_rate: float = 2e-4
    """At its peak."""
    warmup: int = 1000
    """Steps of linear warm-up from 0."""
    decay: Literal["constant", "cosine"] = "constant"
    """After the warm-up: constant, or a half cosine down to 0 at the last step."""
    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Of adamw."""
    clip: float = 1.0
    """Bound on the global norm of the gradient; 0 for none."""


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and how."""

    steps: int = 100_000
    """Updates."""
    batch_size: int = 128
    """Images per update, over all devices together."""
    steps_per_call: int | None = None
    """Updates per compiled call; default 1 on CPU, else the largest divisor up to 10 of all the step counts."""
    ema_decay: float = 0.9999
    """Of the parameters' moving average, after a warm-up."""
    label_dropout: float = 0.1
    """Share of labels hidden in training, for classifier-free guidance."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """How pictures are made, in training and by default in sample.py."""

    sampler: str = "ddim"
    """ddpm, ddim, euler, euler_ancestral, heun, edm, dpm2, dpm2_ancestral, dpm_solver, dpm_solver++, unipc, lms, pndm,
    euler_maruyama, ...: the rows of jaxdiff.samplers.SAMPLERS. docs/samplers.md says which."""
    steps: int = 50
    """Steps of the grid; the samplers that call the network more than once a step are in docs/samplers.md."""
    spacing: str = "trailing"
    """Which times: uniform, quadratic, karras, log_snr, exponential, or of a table's steps trailing, leading, linspace,
    ddim (see jaxdiff.timesteps)."""
    eta: float | None = None
    """How much noise a sampler injects, if it has a choice: ddim from 0 (its default) to 1 (ancestral)."""
    variance: str | None = None
    """Of ddpm: fixed_small (default) or fixed_large; learned_range (default) for a network that learns it."""
    guidance: float = 1.0
    """Classifier-free guidance scale: 1 none, more for clearer and less varied pictures. Needs labels."""
    temperature: float = 1.0
    """Scales the noise that the sampler injects."""
    clip: bool = True
    """Clip predicted images to the valid range at every step."""


@dataclasses.dataclass(frozen=True)
class Log:
    """What is written, and when (in steps)."""

    every: int = 100
    """Scalars, as means over that many steps."""
    samples_every: int = 5000
    """A grid of samples; the last step has one anyway."""
    samples: int = 64
    """Pictures in it."""
    checkpoint_every: int = 5000
    """Checkpoints; the last step has one anyway."""
    keep: int = 2
    """Checkpoints to keep."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    seed: int = 0
    """Of everything random."""
    data: Data = Data()
    diffusion: Diffusion = Diffusion()
    model: Model = Model()
    optim: Optim = Optim()
    train: Train = Train()
    sample: Sample = Sample()
    log: Log = Log()


FREE_ON_RESUME = ("train.steps", "train.steps_per_call", "data.dir", "sample", "log")
"""What a resumed run may change: how long, and what is written. Everything else is the experiment."""


def check(config: Config) -> None:
    """Raise `InputError` for a value that no run can have, naming its field."""
    rules = {
        "seed": (0 <= config.seed < 2**32, "0 <= seed < 2^32"),
        "diffusion.steps": (1 <= config.diffusion.steps <= 10**6, "1 to 1,000,000"),
        "model.channels": (config.model.channels >= 4 and config.model.channels % 4 == 0, "a positive multiple of 4"),
        "model.multipliers": (min(config.model.multipliers, default=0) >= 1, "one or more positive numbers"),
        "model.blocks": (config.model.blocks >= 1, "at least 1"),
        "model.groups": (config.model.groups >= 1, "at least 1"),
        "model.heads": (config.model.heads >= 1, "at least 1"),
        "model.dropout": (0 <= config.model.dropout < 1, "0 <= rate < 1"),
        "optim.learning_rate": (0 < config.optim.learning_rate < math.inf, "a positive number"),
        "optim.b1": (0 <= config.optim.b1 < 1, "0 <= b1 < 1"),
        "optim.b2": (0 <= config.optim.b2 < 1, "0 <= b2 < 1"),
        "optim.eps": (0 < config.optim.eps < math.inf, "a positive number"),
        "optim.weight_decay": (
            0 <= config.optim.weight_decay < math.inf
            and (config.optim.name == "adamw" or not config.optim.weight_decay),
            "0 or more; with --optim.name adam 0, only adamw decays weights",
        ),
        "optim.warmup": (config.optim.warmup >= 0, "0 or more"),
        "optim.clip": (0 <= config.optim.clip < math.inf, "0 (none) or more"),
        "train.steps": (1 <= config.train.steps < 2**31, "at least 1, below 2^31"),
        "train.batch_size": (config.train.batch_size >= 1, "at least 1"),
        "train.steps_per_call": (config.train.steps_per_call is None or config.train.steps_per_call >= 1, "at least 1"),
        "train.ema_decay": (0 <= config.train.ema_decay < 1, "0 <= decay < 1"),
        "train.label_dropout": (0 <= config.train.label_dropout <= 1, "0 <= share <= 1"),
        "sample.steps": (config.sample.steps >= 1, "at least 1"),
        "sample.eta": (config.sample.eta is None or 0 <= config.sample.eta < math.inf, "0 or more"),
        "sample.temperature": (0 <= config.sample.temperature < math.inf, "0 or more"),
        "sample.guidance": (math.isfinite(config.sample.guidance), "a number"),
        "log.every": (config.log.every >= 1, "at least 1"),
        "log.samples": (config.log.samples >= 1, "at least 1"),
        "log.samples_every": (config.log.samples_every >= 1, "at least 1"),
        "log.checkpoint_every": (config.log.checkpoint_every >= 1, "at least 1"),
        "log.keep": (config.log.keep >= 1, "at least 1"),
    }
    for name, (ok, expected) in rules.items():
        if not ok:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            raise InputError(f"--{name} {value}: expected {expected}")
    if not config.model.null_label and config.sample.guidance != 1:
        raise InputError(
            f"guidance {config.sample.guidance} needs a null label, which this network has not (model.null_label); use "
            "--sample.guidance 1 (--guidance 1 in sample.py)"
        )
    if config.data.labels and config.train.label_dropout == 0 and config.sample.guidance != 1:
        raise InputError(
            f"guidance {config.sample.guidance} needs a model that was trained with hidden labels too, but "
            "train.label_dropout is 0; use --sample.guidance 1 (--guidance 1 in sample.py), or train with label dropout"
        )


def load(path: Path) -> Config:
    """Run a config file and take its `config`.

    Raises:
      InputError: no such file, it does not run, or it does not set `config` to a `Config`.
    """
    if not path.is_file():
        near = difflib.get_close_matches(str(path), map(str, sorted(Path("configs").glob("*.py"))), n=1, cutoff=0.3)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"--config {path}: no such file.{hint}")
    try:
        names = runpy.run_path(str(path))
    except Exception as error:  # whatever the user's file raises
        gist = f"{type(error).__name__}: {error}"
        raise InputError(f"--config {path}: the file does not run: {gist}{_nearest_field(str(error))}") from error
    config = names.get("config")
    if not isinstance(config, Config):
        found = "sets no such name" if config is None else f"sets it to a {type(config).__name__}"
        raise InputError(f"--config {path}: expected the file to set `config = Config(...)`; it {found}")
    try:
        _from_dict(dataclasses.asdict(config))
    except dacite.DaciteError as error:
        raise InputError(f"--config {path}: {error}") from error
    return config


def _nearest_field(message: str) -> str:
    """A hint where a config file gives an argument that no section has."""
    wrong = re.search(r"unexpected keyword argument '(\w+)'", message)
    fields = [f.name for f in dataclasses.fields(Config)]
    for section in (Data, Diffusion, Model, Optim, Train, Sample, Log):
        fields += [f.name for f in dataclasses.fields(section)]
    near = difflib.get_close_matches(wrong[1], fields, n=1) if wrong else []
    return f". Did you mean {near[0]}?" if near else ""


def to_dict(config: Config) -> dict[str, Any]:
    """As plain JSON values."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def from_dict(values: dict[str, Any]) -> Config:
    """The inverse of `to_dict`.

    >>> from_dict(to_dict(Config(seed=3))) == Config(seed=3)
    True
    """
    try:
        return _from_dict(values)
    except dacite.DaciteError as error:
        raise InputError(f"the run's config is of another version of jaxdiff: {error}") from error


def _from_dict(values: dict[str, Any]) -> Config:
    return dacite.from_dict(Config, values, dacite.Config(cast=[tuple], type_hooks={float: _as_float}, strict=True))


def _as_float(value: Any) -> Any:
    return float(value) if type(value) is int else value


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names.

    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        nested = isinstance(value, dict) and not name.endswith("_options")
        flat |= flatten(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which a run cannot be resumed as it was started: `{name: (old, new)}`.

    >>> differences(Config(), Config(seed=1, train=Train(steps=7)))
    {'seed': (0, 1)}
    """
    a, b = flatten(to_dict(old)), flatten(to_dict(new))
    free = [name for name in a if any(name == f or name.startswith(f + ".") for f in FREE_ON_RESUME)]
    return {name: (a[name], b[name]) for name in a if a[name] != b[name] and name not in free}

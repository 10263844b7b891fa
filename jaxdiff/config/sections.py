"""The settings, section by section."""

import dataclasses
from typing import Literal

from jaxdiff.config.networks import Network, UNet


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the images come from."""

    name: str = "digits"
    """digits (inside scikit-learn), tfds:NAME (TensorFlow Datasets), hf:NAME (Hugging Face), a .npz/.npy file of uint8
    images, an IDX file (...-idx3-ubyte), a folder of images, or one that jaxdiff data prepare wrote."""
    split: str = "train"
    """Of a TFDS or Hugging Face set: train, test, train[:10%], ..."""
    dir: str | None = None
    """Where prepared TFDS sets are; default TFDS_DATA_DIR or ~/tensorflow_datasets."""
    size: int | None = None
    """Resize the middle square of each image to that side; default: as the images are."""
    channels: Literal[1, 3, 4] | None = None
    """1 grey, 3 RGB, 4 RGBA; default: as the images are, files of a folder as the first, transparency on white."""
    skip_corrupt: bool = False
    """In place of an image of a folder that cannot be read take the next that can; default: stop and name it."""
    labels: bool = True
    """Use the labels, if there are any: a class-conditional model."""
    holdout: int = 0
    """Keep that many images, chosen by the seed, out of training, and evaluate on them; see log.evaluate_every."""
    eval_split: str | None = None
    """In place of it, of a TFDS set: the split to evaluate on, such as test."""
    flip: bool = False
    """Mirror each image left to right with probability 1/2."""
    workers: int = 0
    """Processes that read and decode images; 0: threads of this one. They pay where decoding takes longer than sending
    an image to another process: large JPEGs."""


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
    step_scale: float = 1.0
    """What the network is told is this times the step's number, 0 to T - 1, of a table, or 1000 t of a continuous
    schedule (without preconditioning)."""
    kind: str = "eps"
    """What the network predicts: eps, x0, v, score, velocity, or F (EDM's)."""
    preconditioning: str | None = None
    """How the network is fed, its input's scale and what it is told of the time: edm, vp, ve or iddpm (see
    jaxdiff.preconditioning). Default: x_t as it is, with the step's number or 1000 t; see step_scale."""
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
class Condition:
    """Super-resolution: what the network is given of the picture that it makes (see jaxdiff.condition)."""

    factor: int | None = None
    """The picture with so many times fewer pixels a side, as further channels; default: nothing is given."""
    reduction: Literal["mean", "lanczos"] = "mean"
    """How it is reduced in training: to means over squares, or by the filter of data.size, for a cascade from a run
    that was trained with that."""
    enlargement: Literal["bicubic", "bilinear", "nearest"] = "bicubic"
    """How it is brought back to the size of x_t."""
    augmentation: float = 0.5
    """Noise it with a level drawn uniformly from 0 to this, of which 1 leaves nothing, and tell the network the level:
    what a cascade needs. 0: as it is."""
    level: float = 0.0
    """Of the noise in sampling, where no other is given."""


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
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are: beginnings of their names, such as conv_in down_0 (see --dry-run)."""
    clip: float = 1.0
    """Bound on the global norm of the gradient; 0 for none."""
    forced_weight_norm: bool | None = None
    """Keep the norms of kernels through training, as EDM2 does; default: where the network does not depend on them
    (edm2), and only there."""


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and how."""

    steps: int = 100_000
    """Updates."""
    batch_size: int = 128
    """Images per update, over all devices together."""
    accumulate: int = 1
    """In how many parts, one after the other, a device computes the gradient of its share: less memory, more time."""
    steps_per_call: int | None = None
    """Updates per compiled call; default 1 on CPU, else the largest divisor up to 10 of all the step counts."""
    ema_decay: float = 0.9999
    """Of the parameters' moving average, after a warm-up."""
    skip_limit: int = 10
    """Updates in a row that may be skipped because they are not finite; one more ends the training."""
    ema_lengths: tuple[float, ...] = ()
    """More averages, of EDM2's power functions, such as 0.05 0.1: their standard deviations as shares of training. With
    log.snapshot_every any other can be made of them afterwards, by `jaxdiff ema`."""
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
    truncation: float | None = None
    """Cut off the starting noise beyond this, in standard deviations: less, such as 1.5, for better and less varied
    pictures. Default: not at all."""
    start_scale: float = 1.0
    """Scales the starting noise: the temperature of a sampler that injects none."""
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
    """Pictures in it; 0: no grid, at the last step neither."""
    checkpoint_every: int = 5000
    """Checkpoints; the last step has one anyway."""
    evaluate_every: int | None = None
    """The loss of the images held out (data.holdout, data.eval_split); default: with every checkpoint."""
    time_buckets: int = 4
    """Show the loss in so many parts of the time, too; 0: do not."""
    wandb: str | None = None
    """A project of Weights & Biases to write to as well; WANDB_MODE=offline needs no network."""
    keep: int = 2
    """Latest checkpoints to keep."""
    keep_best: int = 0
    """Best checkpoints to keep too, by log.best_by."""
    best_by: Literal["eval_loss", "frechet"] = "eval_loss"
    """The lowest loss of held-out images (data.holdout, data.eval_split), or Frechet distance (evaluate.every)."""
    snapshot_every: int | None = None
    """Save the averages of train.ema_lengths, and keep them all; the last step is saved anyway. Default: not at all."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Samples against the images trained on, while training: a Frechet distance in features that are named with it."""

    every: int | None = None
    """Steps; default: not at all."""
    samples: int = 2500
    """How many, made as `sample` says by the moving average; more than the features have dimensions."""
    reference: int | None = None
    """With so many of the images; default all."""
    features: str | None = None
    """pixels, classifier (trained on the images with their labels, and kept) or classifier:FILE, efficientnet_lite0,
    inception:FILE. Default: classifier for grey images with labels, efficientnet_lite0 for colours, else pixels."""
    batch: int = 256
    """Images at a time."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    seed: int = 0
    """Of everything random."""
    data: Data = Data()
    diffusion: Diffusion = Diffusion()
    model: Network = dataclasses.field(default_factory=UNet)
    condition: Condition = Condition()
    optim: Optim = Optim()
    train: Train = Train()
    sample: Sample = Sample()
    log: Log = Log()
    evaluate: Evaluate = Evaluate()

"""Values that no run can have."""

import math
from typing import Any

from jaxdiff.config.sections import Config
from jaxdiff.typing import InputError

LONGEST = 12**-0.5
"""Of `train.ema_lengths`: that of the average in which all steps count alike (see train/ema.py)."""


def check(config: Config) -> None:
    """Raise `InputError` for a value that no run can have, naming its field."""
    lengths, every = config.train.ema_lengths, config.log.snapshot_every
    held_out, compared = bool(config.data.holdout or config.data.eval_split), config.evaluate.every is not None
    rules: dict[str, tuple[bool, str]] = {
        "seed": (0 <= config.seed < 2**32, "0 <= seed < 2^32"),
        "data.size": (config.data.size is None or config.data.size >= 1, "at least 1"),
        "data.channels": (config.data.channels in (None, 1, 3, 4), "1 (grey), 3 (RGB) or 4 (RGBA)"),
        "data.workers": (config.data.workers >= 0, "0 (none) or more"),
        "diffusion.steps": (1 <= config.diffusion.steps <= 10**6, "1 to 1,000,000"),
        "diffusion.step_scale": (0 < config.diffusion.step_scale < math.inf, "a positive number"),
        "condition.factor": (
            config.condition.factor is None or config.condition.factor >= 2,
            "a whole number, 2 or more; or none",
        ),
        "condition.augmentation": (0 <= config.condition.augmentation <= 1, "0 (none) to 1"),
        "condition.level": (
            0 <= config.condition.level <= config.condition.augmentation,
            f"0 to condition.augmentation {config.condition.augmentation}, the levels of training",
        ),
        "data.holdout": (config.data.holdout >= 0, "0 (none) or more"),
        "data.eval_split": (
            config.data.eval_split is None or not config.data.holdout,
            "none with --data.holdout: give one of the two",
        ),
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
        "optim.forced_weight_norm": (
            config.model.forced_weight_norm or not config.optim.forced_weight_norm,
            f"False with --model.network {config.model.network}, which depends on the norms of its kernels",
        ),
        "train.steps": (1 <= config.train.steps < 2**31, "at least 1, below 2^31"),
        "train.batch_size": (config.train.batch_size >= 1, "at least 1"),
        "train.accumulate": (config.train.accumulate >= 1, "at least 1"),
        "train.skip_limit": (config.train.skip_limit >= 0, "0 (none) or more"),
        "train.steps_per_call": (config.train.steps_per_call is None or config.train.steps_per_call >= 1, "at least 1"),
        "train.ema_decay": (0 <= config.train.ema_decay < 1, "0 <= decay < 1"),
        "train.ema_lengths": (
            all(0 < length < LONGEST for length in lengths)
            and len({f"{length:g}" for length in lengths}) == len(lengths),
            f"different lengths with 0 < length < {LONGEST:.4f}, shares of training",
        ),
        "train.label_dropout": (0 <= config.train.label_dropout <= 1, "0 <= share <= 1"),
        "sample.steps": (config.sample.steps >= 1, "at least 1"),
        "sample.eta": (config.sample.eta is None or 0 <= config.sample.eta < math.inf, "0 or more"),
        "sample.temperature": (0 <= config.sample.temperature < math.inf, "0 or more"),
        "sample.truncation": (
            config.sample.truncation is None or 0 < config.sample.truncation < math.inf,
            "a positive number of standard deviations",
        ),
        "sample.start_scale": (0 <= config.sample.start_scale < math.inf, "0 or more"),
        "sample.guidance": (math.isfinite(config.sample.guidance), "a number"),
        "log.every": (config.log.every >= 1, "at least 1"),
        "log.samples": (config.log.samples >= 0, "0 (no pictures) or more"),
        "log.samples_every": (config.log.samples_every >= 1, "at least 1"),
        "log.checkpoint_every": (config.log.checkpoint_every >= 1, "at least 1"),
        "log.evaluate_every": (
            config.log.evaluate_every is None
            or (config.log.evaluate_every >= 1 and (config.data.holdout > 0 or config.data.eval_split is not None)),
            "at least 1, with --data.holdout or --data.eval-split",
        ),
        "log.time_buckets": (config.log.time_buckets >= 0, "0 (none) or more"),
        "log.wandb": (config.log.wandb is None or config.log.wandb.strip() != "", "the name of a project"),
        "log.keep": (config.log.keep >= 1, "at least 1"),
        "log.keep_best": (
            config.log.keep_best == 0
            or (config.log.keep_best > 0 and (held_out if config.log.best_by == "eval_loss" else compared)),
            "0 (none); or more, with something to know them by: --data.holdout or --data.eval-split, or with "
            "--log.best-by frechet an --evaluate.every",
        ),
        "evaluate.every": (
            config.evaluate.every is None or (config.evaluate.every >= 1 and config.condition.factor is None),
            "at least 1; none with --condition.factor, whose pictures jaxdiff super-resolution and evaluate compare",
        ),
        "evaluate.samples": (config.evaluate.samples >= 2, "at least 2"),
        "evaluate.reference": (config.evaluate.reference is None or config.evaluate.reference >= 2, "at least 2"),
        "evaluate.batch": (config.evaluate.batch >= 1, "at least 1"),
    }
    rules["log.snapshot_every"] = (
        every is None or (every >= 1 and bool(lengths)),
        "at least 1, with --train.ema-lengths: what is saved are those averages",
    )
    rules |= {f"model.{name}": rule for name, rule in config.model.rules().items()}
    for name, (ok, expected) in rules.items():
        if not ok:
            value: Any = config
            for part in name.split("."):
                value = getattr(value, part)
            raise InputError(f"--{name} {value}: expected {expected}")
    if config.log.keep_best and config.log.best_by == "frechet":
        found, saved = config.evaluate.every or 1, config.log.checkpoint_every
        if found % saved:
            raise InputError(
                f"--evaluate.every {found}: expected a multiple of --log.checkpoint-every {saved}, or the best would "
                "not be among the checkpoints that --log.best-by frechet keeps"
            )
    if config.diffusion.preconditioning is not None and config.diffusion.step_scale != 1:
        raise InputError(
            f"--diffusion.step-scale {config.diffusion.step_scale}: --diffusion.preconditioning "
            f"{config.diffusion.preconditioning} says what the network is told of time; leave one of them out"
        )
    told = config.diffusion.preconditioning in ("edm", "ve")
    if config.model.told_logarithms and not told:
        raise InputError(
            f"--model.network {config.model.network}, as it is set, is told the logarithm of a noise level, and "
            "--diffusion.preconditioning "
            f"{config.diffusion.preconditioning or '(none)'} tells it the number of a step; use edm or ve"
        )
    if config.model.lora_rank and config.optim.frozen:
        raise InputError("--model.lora-rank and --optim.frozen: give one; an adaptation freezes everything else anyway")
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

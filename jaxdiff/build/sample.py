"""Samplers and their time grids."""

import dataclasses
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff import samplers, schedules, timesteps
from jaxdiff.build import diffusion
from jaxdiff.build.names import named
from jaxdiff.config import Config, Sample, check
from jaxdiff.typing import InputError, Schedule

SPACINGS: dict[str, Callable[..., np.ndarray]] = {
    "uniform": timesteps.uniform,
    "quadratic": timesteps.quadratic,
    "trailing": timesteps.trailing,
    "leading": timesteps.leading,
    "linspace": timesteps.linspace,
    "ddim": timesteps.ddim_respacing,
    "karras": timesteps.karras,
    "log_snr": timesteps.log_snr_uniform,
    "exponential": timesteps.exponential,
}


def check_unused(sample: Sample, given: Sequence[str]) -> None:
    """Raise `InputError` for a setting that the sampler does not have: it would be ignored.

    Args:
      sample: of which `sampler` is read.
      given: the names of the settings.
    """
    own = inspect.signature(named(samplers.SAMPLERS, sample.sampler, "sampler")).parameters
    for name in given:
        if name not in own:
            raise InputError(f"--{name}: the sampler {sample.sampler} has no {name}")


def with_sample(config: Config, given: Mapping[str, Any]) -> Config:
    """The config with other settings of sampling, checked as `sampler` and `times` will take them.

    Args:
      config: of a run, or of an imported network.
      given: those of `config.sample` that differ, by name.

    Raises:
      InputError: a setting that none can be, or that the sampler does not have: it would be ignored.

    >>> with_sample(Config(), {"steps": 20}).sample.steps
    20
    """
    config = dataclasses.replace(config, sample=dataclasses.replace(config.sample, **given))
    schedule = diffusion.schedule(config.diffusion)
    try:
        check(config)
        check_unused(config.sample, [name for name in ("eta", "variance") if name in given])
        made = sampler(config, schedule) if given else None
    except InputError as error:
        raise InputError(str(error).replace("--sample.", "--")) from None
    if "temperature" in given and not samplers.draws_noise(made):
        raise InputError(
            f"--temperature: {config.sample.sampler}, as it is set, draws no noise; use --sampler ddpm, or ddim --eta "
            "1, or --start-scale, which is of the noise it starts from"
        )
    times(config.sample, schedule)
    return config


def sampler(config: Config, alphas: Schedule) -> Any:
    """The sampler by its row in `samplers.SAMPLERS`, with those of the sample settings that it has.

    Args:
      config: of which `sample`, and of `diffusion` the learned variance, are read.
      alphas: the schedule that it steps along.

    Raises:
      InputError: an unknown sampler, a variance that the network does not have, a library that is not installed.
    """
    sample, learned = config.sample, config.diffusion.learned_variance
    if (sample.variance or "").startswith("learned") and not (learned and sample.variance == "learned_range"):
        found = "learns its place in a range; use learned_range" if learned else "learns no variance; use fixed_small"
        raise InputError(f"--sample.variance {sample.variance}: this network {found}")
    make = named(samplers.SAMPLERS, sample.sampler, "sampler")
    given = vars(sample) | ({"variance": sample.variance or "learned_range"} if learned else {})
    if isinstance(alphas, schedules.Discrete):
        given |= {"end": 1 / alphas.T}  # the earliest time that its network knows
    if sample.sampler == "ode" and importlib.util.find_spec("diffrax") is None:
        raise InputError("--sample.sampler ode needs diffrax: pip install 'jaxdiff[ode]'")
    options = [name for name in inspect.signature(make).parameters if given.get(name) is not None]
    return make(alphas, **{name: given[name] for name in options})


def times(sample: Sample, alphas: Schedule) -> np.ndarray:
    """The time grid. Of a table only its own times, for which uniform is trailing; on a continuous schedule trailing,
    leading, linspace and ddim are uniform."""
    make = named(SPACINGS, sample.spacing, "spacing")
    if sample.sampler == "ode":  # it takes its own steps
        return np.array([1.0, 0.0])
    if "schedule" in inspect.signature(make).parameters:
        grid = make(sample.steps, schedule=alphas)
        if not isinstance(alphas, schedules.Discrete):
            return grid
        return timesteps.nearest_steps(grid, T=alphas.T, spread=True)
    if isinstance(alphas, schedules.Discrete):
        make = timesteps.trailing if make is timesteps.uniform else make
        return np.asarray(make(sample.steps, T=alphas.T))
    make = timesteps.quadratic if make is timesteps.quadratic else timesteps.uniform
    return np.asarray(make(sample.steps))

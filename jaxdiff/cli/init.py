"""Training that starts from an imported network."""

import dataclasses

from jaxdiff import build
from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.pretrained import Pretrained
from jaxdiff.typing import InputError

OF_TRAINING = {"model": ("dropout", "dtype", "remat", "lora_rank"), "diffusion": ("times", "weight", "weight_options")}
"""Settings that are not what a network is, but how it is trained."""


def with_network(config: Config, loaded: Pretrained) -> Config:
    """The config with another's network: of `OF_TRAINING` its own settings, of all else the other's."""
    sections = {}
    for name, own in OF_TRAINING.items():
        ours, theirs = getattr(config, name), getattr(loaded.config, name)
        sections[name] = dataclasses.replace(theirs, **{field: getattr(ours, field) for field in own})
    config = dataclasses.replace(config, **sections)
    if config.model.null_label:
        return config
    # It cannot be guided, nor learn to: what the file says of that is for another network.
    return dataclasses.replace(
        config,
        sample=dataclasses.replace(config.sample, guidance=1.0),
        train=dataclasses.replace(config.train, label_dropout=0.0),
    )


def check_init(loaded: Pretrained, config: Config, spec: build.Spec) -> None:
    """The imported network must be the one that the data and the settings ask for."""
    if loaded.latents:
        raise InputError("--init: that network makes an autoencoder's latents; train.py trains on pictures alone")
    if (spec.image_shape[-1], spec.num_classes) != (loaded.spec.image_shape[-1], loaded.spec.num_classes):
        only_labels = spec.image_shape[-1] == loaded.spec.image_shape[-1] and loaded.spec.num_classes is None
        hint = "; --data.labels False leaves the labels out" if only_labels else ""
        raise InputError(
            f"--init: that network is for images of {loaded.spec.image_shape[-1]} channels with "
            f"{loaded.spec.num_classes or 'no'} classes, {config.data.name} has {spec.image_shape[-1]} and "
            f"{spec.num_classes or 'none'}{hint}"
        )
    different = configs.differences(
        dataclasses.replace(with_network(config, loaded), train=config.train, sample=config.sample), config
    )
    if different:
        lines = ", ".join(f"{name} {there!r}, not {asked!r}" for name, (there, asked) in different.items())
        raise InputError(f"--init: that network has {lines}; leave these settings out")

"""Training that starts from an imported network."""

import dataclasses

from jaxdiff import build
from jaxdiff import config as configs
from jaxdiff.config import Config
from jaxdiff.pretrained import Pretrained
from jaxdiff.typing import InputError

OF_TRAINING = {"model": ("dropout", "dtype", "remat", "lora_rank"), "diffusion": ("times", "weight", "weight_options")}
"""Settings that are not what a network is, but how it is trained."""


def with_network(config: Config, other: Config) -> Config:
    """The config with another's network: of `OF_TRAINING` its own settings, of all else the other's."""
    sections = {}
    for name, own in OF_TRAINING.items():
        ours, theirs = getattr(config, name), getattr(other, name)
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
    if config.condition.factor is not None:
        raise InputError(
            f"--condition.factor {config.condition.factor}: the network of --init is not given a smaller picture; "
            "leave one of the two out"
        )
    if loaded.latents:
        raise InputError("--init: that network makes an autoencoder's latents; train.py trains on pictures alone")
    channels, classes = loaded.spec.image_shape[-1], loaded.spec.num_classes
    if (spec.image_shape[-1], spec.num_classes) != (channels, classes):
        hint = ""
        if spec.image_shape[-1] == channels and classes is None:
            hint = "; --data.labels False leaves the labels out"
        elif classes is not None and spec.num_classes == classes - 1 and not loaded.config.model.null_label:
            hint = "; if the last of its classes stands for no label, give --init-options null_label true"
        raise InputError(
            f"--init: that network is for images of {channels} channels with {classes or 'no'} classes, "
            f"{config.data.name} has {spec.image_shape[-1]} and {spec.num_classes or 'none'}{hint}"
        )
    different = configs.differences(
        dataclasses.replace(with_network(config, loaded.config), train=config.train, sample=config.sample), config
    )
    if different:
        lines = ", ".join(f"{name} {there!r}, not {asked!r}" for name, (there, asked) in different.items())
        raise InputError(f"--init: that network has {lines}; leave these settings out")

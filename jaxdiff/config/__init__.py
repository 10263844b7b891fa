"""Typed settings of a run. A config file is a Python file that sets `config = Config(...)` with what differs.

Every field can be overridden on the command line, as `--section.field VALUE`.
"""

from jaxdiff.config.check import check
from jaxdiff.config.files import FREE_ON_RESUME, differences, flatten, from_dict, load, to_dict
from jaxdiff.config.networks import NETWORKS, DiT, EDM2UNet, LucidrainsUNet, Model, NCSNpp, Network, UNet, UViT
from jaxdiff.config.sections import Condition, Config, Data, Diffusion, Evaluate, Log, Optim, Sample, Train

__all__ = [
    "FREE_ON_RESUME", "NETWORKS", "Condition", "Config", "Data", "DiT", "Diffusion", "EDM2UNet", "Evaluate", "Log",
    "LucidrainsUNet", "Model", "NCSNpp", "Network", "Optim", "Sample", "Train", "UNet", "UViT", "check", "differences",
    "flatten", "from_dict", "load", "to_dict",
]  # fmt: skip

"""What the settings of every network have."""

import dataclasses
from typing import ClassVar, Literal

Name = Literal["unet", "lucidrains", "ncsnpp", "dit", "uvit", "edm2"]
"""Of a network; `NETWORKS` has their settings."""

Rules = dict[str, tuple[bool, str]]
"""By field: whether its value will do, and what is expected."""


@dataclasses.dataclass(frozen=True)
class Model:
    """What every network has."""

    forced_weight_norm: ClassVar[bool] = False
    """Its kernels have no say in their norm, which training should keep; see jaxdiff.train.normalized."""

    network: Name
    """Which one it is; what follows are its own settings."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; parameters, normalisation and output are float32."""
    dropout: float = 0.0
    """Dropout rate in training."""
    remat: Literal["none", "blocks", "products"] = "none"
    """Compute activations again in the backward pass, for less memory. blocks: whole ones, a forward pass more;
    products: only what lies between their convolutions and dense layers."""
    null_label: bool = True
    """A label more, of hidden ones; without it nothing can be guided, and --train.label-dropout must be 0."""
    lora_rank: int = 0
    """Train a low-rank adaptation of the attention alone, of this rank; 0: train everything (but optim.frozen)."""

    @property
    def told_logarithms(self) -> bool:
        """It is told the logarithm of a noise level, not a step's number: it needs a preconditioning that does so."""
        return False

    def rules(self) -> Rules:
        """What the fields of this network may be."""
        own = next(field.default for field in dataclasses.fields(self) if field.name == "network")
        return {
            "network": (self.network == own, f"{own}, which is the name of {type(self).__name__}"),
            "dropout": (0 <= self.dropout < 1, "0 <= rate < 1"),
            "lora_rank": (self.lora_rank >= 0, "0 or more"),
        }

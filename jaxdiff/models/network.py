"""What all networks have."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Network(nn.Module, kw_only=True):
    """A network `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that `dtype`).

    Attributes:
      num_classes: None, or the number of labels, which are added to the embedding of c_noise.
      out_channels: None for those of x; twice as many for a learned variance.
      dropout: rate, on where a `key` is given.
      dtype: of the computation; parameters, statistics of norms and the output are float32 whatever it is (but for
        float64, which is for comparisons: then all but the parameters is).
      remat: what of its blocks the backward pass computes again; see `layers.rematerialised`.
      null_label: label `num_classes` is the null label of unconditional prediction; else there is none.
    """

    num_classes: int | None = None
    out_channels: int | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: str = "none"
    null_label: bool = True

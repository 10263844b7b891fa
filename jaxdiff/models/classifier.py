"""The classifier of noisy images that guides ADM (guided diffusion): the first half of a U-Net, and a head."""

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.attention import attend
from jaxdiff.models.layers import Dtype, init_default, init_zero, wide
from jaxdiff.models.levels import check_size, heads_of
from jaxdiff.models.unet import UNet, embed_time, encode, norm
from jaxdiff.typing import Array, InputError

POOLS = ("attention", "adaptive", "spatial", "spatial_v2")
"""How a classifier makes one vector of all positions."""


class AttentionPool(nn.Module):
    """Attention of the mean to itself and all positions: with `z = [mean(x), x_1, ..., x_N] + positions`, the first row
    of `W softmax(q k^T / sqrt(d)) v`.

    x `[B, ..., C]` is of the size that it had when the parameters were made; the result is `[B, channels]`.

    Attributes:
      channels: of the output.
      heads: the number of heads; must divide C.

    Source: Radford et al. 2021 (arXiv 2103.00020), section 2.4; Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4.
    """

    channels: int
    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, *_, width = x.shape
        x = x.reshape(batch, -1, width)
        z = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        name, init = "positional_embedding", nn.initializers.normal(width**-0.5)
        if self.has_variable("params", name) and self.get_variable("params", name).shape != z.shape[1:]:
            made = self.get_variable("params", name).shape[0] - 1
            raise InputError(
                f"Classifier: its attention pool is made for {made} positions, got {z.shape[1] - 1}; give images of "
                "the size that it was made for"
            )
        positions = self.param(name, init, z.shape[1:], jnp.float32)
        z = (z + positions.astype(z.dtype)[None]).astype(self.dtype)
        qkv = nn.Dense(3 * width, dtype=self.dtype, kernel_init=init_default, name="qkv")(z)
        q, k, v = jnp.split(qkv.reshape(batch, -1, 3 * self.heads, width // self.heads), 3, axis=2)
        h = attend(q[:, :1], k, v).reshape(batch, width)
        return jnp.asarray(nn.Dense(self.channels, dtype=self.dtype, kernel_init=init_default, name="out")(h))


class Classifier(nn.Module):
    """A classifier of noisy images `(x [B, ..., C], c_noise [B]) -> logits [B, num_classes]`, float32 (float64 of that
    dtype).

    Attributes:
      unet: what the first half is of: its `dtype` is that of the computation, its `dropout` and `remat` hold here too.
      num_classes: the number of labels.
      pool: "attention" of the mean to all positions (ADM's); "adaptive", the mean; "spatial", a perceptron of the means
        of all feature maps on the way down and of the last; "spatial_v2", the same with a normalisation.
      pool_head_channels: the size of a head of the attention pool.

    Raises:
      InputError: a U-Net that takes labels, an unknown pool, a size that cannot be halved, channels that make no heads.

    Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4 and appendix H.
    """

    unet: UNet
    num_classes: int
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"
    pool_head_channels: int = 64

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, *, key: Array | None = None) -> Array:
        """Apply the network.

        Args:
          x: `[B, ..., C]`.
          c_noise: `[B]`, what says how noisy x is: a step number.
          key: keys `[B]`, one per example, or one that stands for them: dropout is on. None: off.
        """
        if self.pool not in POOLS:
            raise InputError(f"Classifier: unknown pool {self.pool!r}; there are {', '.join(POOLS)}")
        if self.unet.num_classes is not None:
            raise InputError("Classifier: a U-Net that takes labels; give one whose num_classes is None")
        check_size(x.shape[1:-1], levels=len(self.unet.multipliers), network="Classifier")
        h, skips = encode(self.unet, x, embed_time(self.unet, c_noise), key)

        precision = wide(self.unet.dtype)
        if self.pool.startswith("spatial"):
            h = jnp.concatenate([_mean(m, precision) for m in (*skips, h)], axis=-1)
            h = _dense(2048, precision, "hidden")(h)
            h = nn.relu(h) if self.pool == "spatial" else nn.silu(norm(self.unet)(name="norm_out")(h))
            return jnp.asarray(_dense(self.num_classes, precision, "out")(h))
        h = nn.silu(norm(self.unet)(name="norm_out")(h.astype(precision)))
        if self.pool == "adaptive":
            return jnp.asarray(_dense(self.num_classes, precision, "out", kernel_init=init_zero)(_mean(h, precision)))
        heads = heads_of(h.shape[-1], self.pool_head_channels, network="Classifier", name="pool_attention")
        return jnp.asarray(AttentionPool(self.num_classes, heads, precision, name="pool_attention")(h))


def _mean(h: Array, dtype: Dtype) -> Array:
    """Over all positions."""
    return h.astype(dtype).mean(range(1, h.ndim - 1))


def _dense(channels: int, dtype: Dtype, name: str, kernel_init: Any = init_default) -> nn.Dense:
    return nn.Dense(channels, dtype=dtype, kernel_init=kernel_init, name=name)

"""DiT: a transformer on patches, modulated by time and label."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from jaxdiff.models.embed import sinusoidal, time_mlp
from jaxdiff.models.layers import init_default, init_zero, wide
from jaxdiff.models.network import Network
from jaxdiff.models.resampling import patches, unpatches
from jaxdiff.models.transformer import modulated, transformer
from jaxdiff.typing import Array

DIT_SIZES: dict[str, dict[str, int]] = {
    "S": {"width": 384, "depth": 12, "heads": 6},
    "B": {"width": 768, "depth": 12, "heads": 12},
    "L": {"width": 1024, "depth": 24, "heads": 16},
    "XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""The paper's (table 1): `DiT(**DIT_SIZES["XL"], patch=2)` is DiT-XL/2."""

TIME_CHANNELS = 256  # of the sinusoidal embedding


class DiT(Network):
    """A diffusion transformer `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of
    that `dtype`).

    Patches of x, with their positions added, go through blocks whose normalisations are scaled and shifted by the
    embedding of c_noise and label, and whose residuals are gated by it. x is a batch of sequences `[B, L, C]`, images
    `[B, H, W, C]` or videos `[B, T, H, W, C]`, whose sizes must be divisible by the patch.

    Attributes, beside those of `Network`:
      width: channels of a patch.
      depth: blocks.
      heads: of attention.
      patch: points of a patch in each dimension of space.
      mlp_ratio: the MLP's width in units of `width`.
      mlp: "gelu", or "swiglu" with as many parameters.
      norm: "layer" or "rms".
      qk_norm: normalise queries and keys; see `attention.self_attention`.
      rotary: turn queries and keys by their positions, along each axis of space for itself, instead of adding fixed
        positions to the patches.
      scan: one block with stacked parameters, in a loop: compiles in a time that does not grow with the depth.
      norm_eps: of the normalisations.
      mlp_norm_eps: of those before the MLPs; None: the same.
      freq_shift: of the embedding of time; see `embed.sinusoidal`.

    Raises:
      InputError: a size that makes no patches, missing or unexpected labels or other conditions, channels that cannot
        be split into heads.

    Source: Peebles & Xie 2022 (arXiv 2212.09748), section 3.2. `norm`, `mlp` and `qk_norm`: see
    `transformer.TransformerBlock`; `rotary`: Su et al. 2021 (arXiv 2104.09864), by axis as in Heo et al. 2024 (arXiv
    2403.13298), section 3.
    """

    width: int = 384
    depth: int = 12
    heads: int = 6
    patch: int = 2
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    norm: str = "layer"
    qk_norm: bool = False
    rotary: bool = False
    scan: bool = False
    norm_eps: float = 1e-6
    mlp_norm_eps: float | None = None
    freq_shift: float = 0.0

    @nn.compact
    def __call__(
        self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None = None, *, key: Array | None = None
    ) -> Array:
        """Apply the network, as `UNet.__call__`."""
        out_channels = self.out_channels or x.shape[-1]
        x, labels = self.conditions(x, c_noise, cond)
        precision = wide(self.dtype)

        small = nn.initializers.normal(0.02)
        emb = sinusoidal(c_noise, channels=TIME_CHANNELS, freq_shift=self.freq_shift, cos_first=True)
        emb = time_mlp(emb, width=self.width, dtype=self.dtype, init=small)
        emb = self.with_label(emb, labels, init=small)

        dense = nn.Dense(self.width, dtype=self.dtype, kernel_init=init_default, name="patch")
        h = dense(patches(x.astype(self.dtype), self.patch))
        h = transformer(
            h, emb, key, depth=self.depth, heads=self.heads, rotary=self.rotary, remat=self.remat, scan=self.scan,
            mlp_ratio=self.mlp_ratio, mlp=self.mlp, norm=self.norm, qk_norm=self.qk_norm, dropout=self.dropout,
            norm_eps=self.norm_eps, mlp_norm_eps=self.mlp_norm_eps, dtype=self.dtype,
        )  # fmt: skip

        modulation = nn.Dense(2 * self.width, dtype=self.dtype, kernel_init=init_zero, name="modulation_out")
        shift, scale = jnp.split(modulation(nn.silu(emb)), 2, axis=-1)
        h = modulated(h.astype(precision), shift, scale, norm=self.norm, eps=self.norm_eps)
        outputs = self.patch ** (x.ndim - 2) * out_channels
        return unpatches(nn.Dense(outputs, dtype=precision, kernel_init=init_zero, name="out")(h), self.patch)

"""Attention: what is made of queries, keys and values, and the layers that make these. Channels last.

Like the other layers they take sequences `[B, L, C]`, images `[B, H, W, C]` and videos `[B, T, H, W, C]` alike.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models.layers import Dtype, GroupNorm, RMSNorm, init_default, init_zero, scaled, wide
from jaxdiff.typing import Array, InputError

Attend = Callable[[Array, Array, Array], Array]


def attend(q: Array, k: Array, v: Array) -> Array:
    """`softmax(q k^T / sqrt(d)) v`, each `[B, positions, heads, d]`; of keys and values there may be more or fewer.

    >>> one = jnp.ones((1, 3, 2, 4))
    >>> attend(one, one, one).shape
    (1, 3, 2, 4)

    Source: Vaswani et al. 2017 (arXiv 1706.03762), eq. 1.
    """
    if q.dtype == jnp.float64:  # JAX's own has its logits in float32, whatever comes in
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), v)
    implementation: Literal["cudnn", "xla"] = "cudnn" if cudnn_takes(q) else "xla"
    with jax.numpy_dtype_promotion("standard"):  # of bfloat16, it mixes dtypes itself, which strict mode refuses
        return jnp.asarray(jax.nn.dot_product_attention(q, k, v, implementation=implementation))


def cudnn_takes(q: Array) -> bool:
    """Whether cuDNN's attention, which never stores the logits, takes queries `[B, positions, heads, d]`: those of half
    precision, d a multiple of 8 up to 128, on GPUs of NVIDIA's from Ampere on.

    It has no forward-mode derivative, and a program for the CPU of a machine with such a GPU cannot have it.
    JAXDIFF_ATTENTION=xla in the environment, when the program is traced, leaves it out.

    Raises:
      InputError: JAXDIFF_ATTENTION is another word than cudnn or xla.

    >>> cudnn_takes(jnp.ones((1, 3, 2, 4)))  # float32
    False
    """
    wanted = os.environ.get("JAXDIFF_ATTENTION", "cudnn")
    if wanted not in ("cudnn", "xla"):
        raise InputError(f"the environment's JAXDIFF_ATTENTION {wanted}: expected cudnn (where it fits) or xla")
    if q.dtype not in (jnp.bfloat16, jnp.float16) or q.shape[-1] % 8 or q.shape[-1] > 128:
        return False
    if jax.default_backend() != "gpu" or wanted == "xla":
        return False
    device = jax.local_devices()[0]
    return "nvidia" in device.device_kind.lower() and float(device.compute_capability) >= 8


def linear_attend(q: Array, k: Array, v: Array) -> Array:
    """`softmax(q) (softmax(k)^T v) / sqrt(d)`, whose cost is linear in the positions; shapes as of `attend`.

    The softmax of a query is over its d channels, that of the keys over the positions: each channel makes one mean of
    all values, and a position takes its own mixture of these d.

    >>> one = jnp.ones((1, 3, 2, 4))
    >>> linear_attend(one, one, one)[0, 0, 0].tolist()
    [0.5, 0.5, 0.5, 0.5]

    Source: Shen et al. 2018 (arXiv 1812.01243), with lucidrains' scale.
    """
    precision = wide(q.dtype)
    q = jax.nn.softmax(q.astype(precision), axis=-1) / q.shape[-1] ** 0.5
    k = jax.nn.softmax(k.astype(precision), axis=1)
    means = jnp.einsum("bkhd,bkhe->bhde", k.astype(v.dtype), v)
    return jnp.einsum("bqhd,bhde->bqhe", q.astype(v.dtype), means)


def rotate(x: Array, angles: Array) -> Array:
    """Rotary positions: turn the pairs of channels `(x_i, x_{i + d/2})`, position n by `angles[n, i]`.

    Angles that are linear in the position make `q . k` a function of the difference of positions alone.

    Args:
      x: queries or keys `[B, positions, heads, d]`, d even.
      angles: `[positions, d / 2]`, in radians.

    >>> quarter = jnp.full((1, 1), jnp.pi / 2)
    >>> rotate(jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2), quarter).round(3).ravel().tolist()
    [-0.0, 1.0]

    Source: Su et al. 2021 (arXiv 2104.09864), section 3.2.2; which channels make a pair is of no consequence.
    """
    precision = wide(x.dtype)
    cos, sin = (f(jnp.asarray(angles, precision))[None, :, None] for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x.astype(precision), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def self_attention(
    h: Array,
    *,
    heads: int,
    dtype: Dtype,
    head_channels: int | None = None,
    bias: bool = True,
    memories: Array | None = None,
    attend: Attend = attend,
    qk_norm: bool = False,
    angles: Array | None = None,
    zero: bool = False,
) -> Array:
    """`W attend(q, k, v)` of all positions of `h [B, ..., C]`, within the module that calls it, whose layers are
    "qkv" and "out", and "q_norm" and "k_norm".

    Args:
      h: `[B, ..., C]`.
      heads: the number of heads; without `head_channels` it must divide the channels.
      dtype: of the computation.
      head_channels: the size d of a head; None for channels / heads.
      bias: of queries, keys and values.
      memories: keys and values that all positions see, before those of the positions: `[2, memories, heads, d]`.
      attend: what is made of queries, keys and values: `attend` or `linear_attend`.
      qk_norm: the queries and the keys of each head are divided by their root mean square, and scaled, so that logits
        cannot grow without bound.
      angles: of rotary positions, `[positions, d / 2]`; see `rotate`.
      zero: W starts at 0.

    Raises:
      InputError: channels that do not make heads.

    Source of `qk_norm`: Henry et al. 2020 (arXiv 2010.04245); Dehghani et al. 2023 (arXiv 2302.05442), section 2.
    """
    batch, *space, channels = h.shape
    if heads < 1 or (head_channels is None and channels % heads):
        raise InputError(f"attention: {channels} channels cannot be split into {heads} heads")
    head = head_channels or channels // heads
    dense = partial(nn.Dense, dtype=dtype)
    h = h.reshape(batch, -1, channels)
    qkv = dense(3 * heads * head, use_bias=bias, kernel_init=init_default, name="qkv")(h)
    q, k, v = jnp.split(qkv.reshape(batch, -1, 3 * heads, head), 3, axis=2)
    if qk_norm:
        q, k = RMSNorm(name="q_norm")(q), RMSNorm(name="k_norm")(k)
    if angles is not None:
        q, k = rotate(q, angles), rotate(k, angles)
    if memories is not None:
        learned = jnp.broadcast_to(memories.astype(k.dtype)[:, None], (2, batch, *memories.shape[1:]))
        k, v = (jnp.concatenate([m, y], axis=1) for m, y in zip(learned, (k, v)))
    h = attend(q, k, v).reshape(batch, *space, heads * head)
    return jnp.asarray(dense(channels, kernel_init=init_zero if zero else init_default, name="out")(h))


class SelfAttention(nn.Module):
    """`self_attention` as a module, for a block that has its own norm and residual."""

    heads: int
    qk_norm: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, angles: Array | None = None) -> Array:
        return self_attention(x, heads=self.heads, dtype=self.dtype, qk_norm=self.qk_norm, angles=angles)


class AttentionBlock(nn.Module):
    """Self-attention of what a norm makes of x, with a residual: `x + W softmax(q k^T / sqrt(d)) v`, starting as `x`.

    Attributes:
      heads: the number of heads; without `head_channels` it must divide the channels.
      norm: makes the normalisation.
      head_channels: the size d of a head; None for channels / heads.
      bias: of queries, keys and values.
      memories: how many learned keys and values all positions see.
      attend: what is made of queries, keys and values: `attend` or `linear_attend`.
      norm_out: makes a normalisation of what is added to x, which then does not start at 0; None for none.
      factor: of the sum; 1/sqrt(2) keeps the variance (score_sde's skip_rescale).
    """

    heads: int = 1
    norm: Callable[..., nn.Module] = GroupNorm
    dtype: Dtype = jnp.float32
    head_channels: int | None = None
    bias: bool = True
    memories: int = 0
    attend: Attend = attend
    norm_out: Callable[..., nn.Module] | None = None
    factor: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        memories = None
        if self.memories:
            shape = (2, self.memories, self.heads, self.head_channels or x.shape[-1] // self.heads)
            memories = self.param("mem_kv", nn.initializers.normal(1.0), shape, jnp.float32)
        h = self_attention(
            self.norm(name="norm")(x), heads=self.heads, dtype=self.dtype, head_channels=self.head_channels,
            bias=self.bias, memories=memories, attend=self.attend, zero=self.norm_out is None,
        )  # fmt: skip
        h = h if self.norm_out is None else self.norm_out(name="norm_out")(h)
        return scaled(x + h, self.factor)

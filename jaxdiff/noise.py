"""Keys that belong to examples, and the noise they give: an example's draws do not depend on its batch or device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, InputError, concrete

LARGEST = 5.4
"""Standard normal numbers in float32 end here. Further out Phi is 1, and its inverse would put them at the limit."""


def example_keys(key: Array, index: Array) -> Array:
    """One key per example: `fold_in(key, index_i)`.

    Args:
      key: a typed key.
      index: int32 `[B]`, the examples' global numbers: image 17 is number 17 in any batch and on any device.

    Returns:
      keys `[B]`.

    >>> keys = example_keys(jax.random.key(0), jnp.arange(8))
    >>> bool((jax.random.key_data(keys[5:]) == jax.random.key_data(
    ...     example_keys(jax.random.key(0), jnp.arange(5, 8)))).all())
    True
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def fold_in(keys: Array, data: Array | int) -> Array:
    """`fold_in(key_n, data)` for each of the keys `[B]`: the examples' keys of a step, or of one of several streams.

    >>> fold_in(jax.random.split(jax.random.key(0), 3), 7).shape
    (3,)
    """
    return jax.vmap(jax.random.fold_in, (0, None))(keys, data)


def per_example(key: Array, batch: int) -> Array:
    """Keys `[B]` from keys `[B]` (unchanged) or from one key (folded with 0..B-1).

    Raises:
      InputError: another number of keys, or keys in the old form, bare numbers.
    """
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        raise InputError(
            f"key: expected a typed key, jax.random.key(seed), got {jnp.result_type(key)} of shape {jnp.shape(key)}; "
            "jax.random.wrap_key_data turns a PRNGKey into one"
        )
    if key.ndim == 0:
        return example_keys(key, jnp.arange(batch))
    if key.shape != (batch,):
        raise InputError(f"expected one key or {batch} keys, one per example; got keys of shape {key.shape}")
    return key


def white_noise(key: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, float32 of the given shape `[B, ...]`, each example from its own key.

    Args:
      key: one typed key, or keys `[B]`.
      shape: `(B, ...)`.

    Raises:
      InputError: another number of keys than B.

    >>> white_noise(jax.random.key(0), (2, 3)).shape
    (2, 3)
    """
    keys = per_example(key, shape[0])
    return jax.vmap(lambda k: jax.random.normal(k, shape[1:], jnp.float32))(keys)


@dataclasses.dataclass(frozen=True)
class OffsetNoise:
    """White noise plus a constant per example and channel: `eps + strength z`, z standard normal `[B, 1, 1, C]`.

    Trained with it, a network learns to change the mean of an image, which white noise leaves all but visible. It is a
    `Noise` of variance 1 + strength^2: draw the starting noise of sampling with it too.

    Attributes:
      strength: usually 0.1.

    >>> eps = OffsetNoise(10.0)(jax.random.key(0), (2, 8, 8, 3))
    >>> bool((eps.mean((1, 2)).std() > 3) & (eps.std((1, 2)).max() < 2))
    True

    Source: N. Guttenberg 2023, Diffusion with offset noise (crosslabs.org).
    """

    strength: float

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        keys = per_example(key, shape[0])
        flat = (shape[0], *(1,) * (len(shape) - 2), shape[-1])
        return white_noise(keys, shape) + self.strength * white_noise(fold_in(keys, 1), flat)


def slerp(a: Array, b: Array, share: Array) -> Array:
    """From a to b along the great circle, so that what lies between is as long as they are, as latents must be:

        (sin((1 - w) theta) a + sin(w theta) b) / sin(theta),        cos(theta) = a b / (|a| |b|)

    Of a and b on one line, where sin(theta) = 0, it is the straight line between them.

    Args:
      a: `[B, ...]`.
      b: the shape of a.
      share: w of b, `[B]` or a number.

    >>> x = slerp(jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 2.0]]), jnp.array([0.5]))
    >>> bool(abs(x - 2**0.5).max() < 1e-6)
    True

    Source: Shoemake 1985 (SIGGRAPH), eq. in section 3.3; of latents White 2016 (arXiv 1609.04468).
    """

    def dot(x: Array, y: Array) -> Array:
        return jnp.sum(x.astype(jnp.float32) * y.astype(jnp.float32), axis=tuple(range(1, x.ndim)))

    length = jnp.sqrt(dot(a, a) * dot(b, b))
    theta = jnp.arccos(jnp.clip(dot(a, b) / jnp.where(length > 0, length, 1), -1, 1))
    w, size = jnp.asarray(share, jnp.float32), jnp.sin(theta)
    curved = size > 1e-4
    safe = jnp.where(curved, size, 1)
    first = jnp.where(curved, jnp.sin((1 - w) * theta) / safe, 1 - w)
    second = jnp.where(curved, jnp.sin(w * theta) / safe, w)
    wide = (-1, *(1,) * (a.ndim - 1))
    return (first.reshape(wide).astype(a.dtype) * a + second.reshape(wide).astype(a.dtype) * b).astype(a.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TruncatedNoise:
    """`scale z`, z standard normal given |z| <= limit, each element on its own: its density cut off, and no value moved
    to the limit. To start sampling from: less of it are pictures nearer to the mode, better and less varied.

    Its variance is that of what is left, scale^2 (1 - 2 l phi(l) / (2 Phi(l) - 1)), and not 1: of so many numbers as a
    picture has the network sees little but their variance, and brought back to 1 they would do next to nothing. With
    the scale 1 and the same keys each value is a monotone function of white noise's, which it is from a limit of 5.4.

    The numbers are leaves: another limit or scale never recompiles.

    Attributes:
      limit: positive; inf cuts nothing off.
      scale: 0 or more; of a flow, such as a deterministic sampler is, the temperature: of N(mu, S) it makes
        N(mu, scale^2 S).

    Raises:
      InputError: another limit or scale, where it is concrete.

    >>> z = TruncatedNoise(1.5)(jax.random.key(0), (2, 10_000))
    >>> bool(jnp.abs(z).max() <= 1.5), round(float(z.std()), 1)
    (True, 0.7)

    Source: the truncation trick of Brock et al. 2018 (arXiv 1809.11096), section 3.1, which does not rescale either;
    reduced temperature: Kingma & Dhariwal 2018 (arXiv 1807.03039), section 6.
    """

    limit: Array | float
    scale: Array | float = 1.0

    def __post_init__(self) -> None:
        limit, scale = concrete(self.limit), concrete(self.scale)
        if isinstance(self.limit, str) or (limit is not None and not np.all(limit > 0)):
            raise InputError(f"limit: expected a positive number of standard deviations, got {self.limit!r}")
        if isinstance(self.scale, str) or (scale is not None and not np.all((scale >= 0) & (scale < np.inf))):
            raise InputError(f"scale: expected 0 or more, finite, got {self.scale!r}")

    def __call__(self, key: Array, shape: tuple[int, ...]) -> Array:
        keys = per_example(key, shape[0])
        limit = jnp.minimum(jnp.asarray(self.limit, jnp.float32), LARGEST)

        def draw(k: Array) -> Array:
            return jax.random.truncated_normal(k, -limit, limit, shape[1:], jnp.float32)

        return jnp.asarray(self.scale, jnp.float32) * jax.vmap(draw)(keys)

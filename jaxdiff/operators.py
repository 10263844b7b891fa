"""Linear measurements `y = A x` of pictures: what was masked, made smaller, blurred, or lost its colours.

An operator is a function of `x [B, H, W, C]`, each example from its own, and linear; that is all `guidance.dps`,
`guidance.posterior` and `guidance.moment_matched` ask (a lambda will do: the transpose comes from autodiff). Those here
know their pseudo-inverse as well, `pinv`, which `guidance.null_space` asks for:

    A A^+ A = A,        A^+ A the orthogonal projection on what is measured
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.schedules import check_whole, require
from jaxdiff.typing import Array, InputError, concrete


class Operator(Protocol):
    """`A` and its pseudo-inverse `A^+`."""

    def __call__(self, x: Array) -> Array: ...

    def pinv(self, y: Array) -> Array: ...


def check_mask(mask: Array) -> None:
    """Raise `InputError` for a mask of other values than 0 and 1; what is being traced passes.

    >>> check_mask(jnp.array([0.0, 0.5]))
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: mask: expected 1 where it is known, else 0, got 0.5
    """
    values = concrete(mask)
    if values is not None and (wrong := values[(values != 0) & (values != 1)]).size:
        raise InputError(f"mask: expected 1 where it is known, else 0, got {wrong[0]:g}")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """Some pixels are known: `y = m x`, 0 where nothing is.

    Attributes:
      mask: 1 where it is known, else 0; `[H, W, 1]`, `[B, H, W, 1]` or any shape that broadcasts against x.

    Raises:
      InputError: another value, where it is concrete.

    >>> Mask(jnp.array([1.0, 0.0]))(jnp.array([[3.0, 4.0]])).tolist()
    [[3.0, 0.0]]
    """

    mask: Array

    def __post_init__(self) -> None:
        check_mask(self.mask)

    def __call__(self, x: Array) -> Array:
        m = jnp.asarray(self.mask, x.dtype)
        return jnp.broadcast_to(jnp.reshape(m, (1,) * (x.ndim - m.ndim) + m.shape), x.shape) * x

    def pinv(self, y: Array) -> Array:
        return self(y)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Downsample:
    """A smaller picture, each pixel the mean of `factor x factor`: `[B, H, W, C] -> [B, H / f, W / f, C]`.

    The pseudo-inverse repeats each pixel.

    Attributes:
      factor: f, a whole number, a divisor of H and W.

    Raises:
      InputError: another factor; pictures that it does not divide, when called.

    >>> Downsample(2)(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
    [[[[1.5]]]]
    """

    factor: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        check_whole("factor", self.factor)

    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        f = self.factor
        require(h % f == 0 and w % f == 0, f"pictures {h}x{w} cannot be made {f} times smaller: {f} must divide both")
        return jnp.mean(x.reshape(b, h // f, f, w // f, f, c), axis=(2, 4))

    def pinv(self, y: Array) -> Array:
        return jnp.repeat(jnp.repeat(y, self.factor, axis=1), self.factor, axis=2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blur:
    """A convolution in H and W, the same in every channel; what leaves at one edge comes in at the other.

        y = F^-1 (k F x),        k the kernel's discrete Fourier transform

    Frequencies that the kernel takes away, |k| <= `lost` max |k|, count as not measured: the pseudo-inverse has none of
    them. A small kernel keeps all, but some so weakly that measured noise would be multiplied by 1 / |k|.

    Attributes:
      kernel: `[h, w]`, centred at `[h // 2, w // 2]`; no larger than the pictures.
      lost: see above.

    Raises:
      InputError: a kernel without two dimensions; one larger than the pictures, when called.

    >>> shift = Blur(jnp.array([[0.0, 0.0, 1.0]]))  # by one to the right
    >>> shift(jnp.arange(3.0).reshape(1, 1, 3, 1)).ravel().round(4).tolist()
    [2.0, 0.0, 1.0]
    """

    kernel: Array
    lost: float = dataclasses.field(default=1e-3, metadata={"static": True})

    def __post_init__(self) -> None:
        shape = getattr(self.kernel, "shape", None)  # None: a leaf that JAX is taking apart
        require(shape is None or len(shape) == 2, f"kernel: expected [h, w], got {shape}")

    def _spectrum(self, x: Array) -> Array:
        (h, w), (height, width) = self.kernel.shape, x.shape[1:3]
        require(h <= height and w <= width, f"kernel {h}x{w} is larger than the pictures, {height}x{width}")
        k = jnp.zeros((height, width), x.dtype).at[:h, :w].set(jnp.asarray(self.kernel, x.dtype))
        k = jnp.fft.fft2(jnp.roll(k, (-(h // 2), -(w // 2)), (0, 1)))
        return jnp.reshape(k, (1, height, width, 1))

    def __call__(self, x: Array) -> Array:
        return _filtered(x, self._spectrum(x))

    def pinv(self, y: Array) -> Array:
        k = self._spectrum(y)
        size = jnp.square(jnp.abs(k))
        kept = size > (self.lost**2) * jnp.max(size)
        return _filtered(y, jnp.where(kept, jnp.conj(k) / jnp.where(kept, size, 1).astype(k.dtype), 0))


def _filtered(x: Array, spectrum: Array) -> Array:
    return jnp.real(jnp.fft.ifft2(jnp.fft.fft2(x, axes=(1, 2)) * spectrum, axes=(1, 2))).astype(x.dtype)


def gaussian_kernel(std: float) -> np.ndarray:
    """A Gaussian of that standard deviation in pixels, out to 3 of them, its sum 1: `[n, n]` float32, n odd.

    Raises:
      InputError: a standard deviation that is not positive.

    >>> gaussian_kernel(1.0).shape, round(float(gaussian_kernel(1.0).sum()), 6)
    ((7, 7), 1.0)
    """
    if not 0 < std < np.inf:
        raise InputError(f"std: expected a positive number of pixels, got {std}")
    at = np.arange(-int(np.ceil(3 * std)), int(np.ceil(3 * std)) + 1)
    line = np.exp(-0.5 * np.square(at / std))
    return np.asarray(np.outer(line, line) / line.sum() ** 2, np.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grey:
    """The colours are lost: `y = sum_c w_c x_c`, `[B, H, W, C] -> [B, H, W, 1]`.

    Attributes:
      weights: w, one per channel; those of BT.601's luma by default, for RGB.

    >>> Grey()(jnp.ones((1, 1, 1, 3))).round(5).tolist()
    [[[[1.0]]]]
    """

    weights: tuple[float, ...] = dataclasses.field(default=(0.299, 0.587, 0.114), metadata={"static": True})

    def __call__(self, x: Array) -> Array:
        n = len(self.weights)
        require(x.shape[-1] == n, f"Grey: {n} weights for pictures of {x.shape[-1]} channels")
        return jnp.sum(
            x * jnp.reshape(jnp.asarray(self.weights, x.dtype), (1,) * (x.ndim - 1) + (n,)), -1, keepdims=True
        )

    def pinv(self, y: Array) -> Array:
        w = jnp.asarray(self.weights, y.dtype)
        return y * jnp.reshape(w / jnp.sum(jnp.square(w)), (1,) * (y.ndim - 1) + (len(self.weights),))

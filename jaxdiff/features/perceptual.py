"""The learned perceptual distance, with weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from jaxdiff.files import sha256
from jaxdiff.pretrained import load_lpips
from jaxdiff.typing import Array, PyTree


@dataclasses.dataclass(frozen=True)
class PerceptualDistance:
    """A distance between images; call it.

    Attributes:
      name: "lpips_alex" or "lpips_vgg".
      description: what it takes to make the same again, plain values that JSON takes.
      params: `apply`'s, numpy arrays.
      apply: `(params, x, y) -> [B]`, pure, so that the caller compiles it.
    """

    name: str
    description: dict[str, Any]
    params: PyTree = dataclasses.field(repr=False)
    apply: Callable[[PyTree, Array, Array], Array] = dataclasses.field(repr=False)

    def __call__(self, x: Array, y: Array) -> Array:
        """Of images `[B, H, W, 3]` in [-1, 1], float32 `[B]`."""
        return self.apply(self.params, x, y)


def lpips(
    trunk_path: Path | str, linear_path: Path | str, *, trunk: Literal["alex", "vgg"] = "alex"
) -> PerceptualDistance:
    """LPIPS, version 0.1, of images `[B, H, W, 3]` in [-1, 1]: 0, to rounding, for
    the same image, larger for others.

        d(x, y) = sum_l mean_hw sum_c w_lc (u_lc(x) - u_lc(y))^2

    over five layers l of the trunk, with each position's vector of channels divided by its length.

    Args:
      trunk_path: the state dict of torchvision's `alexnet` or `vgg16`.
      linear_path: the linear layers w, as the lpips package ships them (weights/v0.1/alex.pth, vgg.pth).
      trunk: "alex", to report; or "vgg".

    Raises:
      InputError: files that `pretrained.load_lpips` refuses; of the call, images that are not RGB, are too small or
        differ in shape.

    Source: Zhang et al. 2018 (arXiv 1801.03924), eq. 1.
    """
    network, params = load_lpips(trunk_path, linear_path, trunk=trunk)

    def apply(params: PyTree, x: Array, y: Array) -> Array:
        return jnp.asarray(network.apply(params, *(jnp.asarray(a).astype(jnp.float32) for a in (x, y))))

    description = {
        "trunk": trunk,
        "trunk_sha256": sha256(Path(trunk_path)),
        "linear_sha256": sha256(Path(linear_path)),
        "input": "images in [-1, 1], in their own size",
    }
    return PerceptualDistance(f"lpips_{trunk}", description, params, apply)

"""The weights of LPIPS: a trunk as torchvision has it, and the linear layers of the lpips package."""

from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.models import LPIPS
from jaxdiff.models.trunks import TRUNKS
from jaxdiff.pretrained.matching import Place, from_theirs, shape_of
from jaxdiff.pretrained.read import read_weights
from jaxdiff.typing import InputError, PyTree


def load_lpips(
    trunk_path: Path | str, linear_path: Path | str, *, trunk: Literal["alex", "vgg"] = "alex"
) -> tuple[LPIPS, PyTree]:
    """The distance LPIPS and its parameters.

    Args:
      trunk_path: the state dict of torchvision's `alexnet` or `vgg16` (alexnet-owt-7be5be79.pth, vgg16-397923af.pth).
        Its classifier is not used.
      linear_path: the linear layers, as the lpips package ships them (weights/v0.1/alex.pth, vgg.pth).
      trunk: "alex" or "vgg".

    Returns:
      The network; its parameters `{"params": ...}`, float32 numpy arrays.

    Raises:
      InputError: an unknown trunk, no such file, a broken one, or the weights of another network.

    Source: Zhang et al. 2018 (arXiv 1801.03924).
    """
    if trunk not in TRUNKS:
        raise InputError(f"LPIPS: unknown trunk {trunk!r}; there are {', '.join(TRUNKS)}")
    network = LPIPS(trunk)
    image = jnp.zeros((1, 64, 64, 3), jnp.float32)
    like = jax.eval_shape(partial(network.init, jax.random.key(0)), image, image)["params"]
    convolutions = TRUNKS[trunk][0]

    path = Path(trunk_path)
    tensors = read_weights(path)
    expected = f"the state dict of torchvision's {'alexnet' if trunk == 'alex' else 'vgg16'}"
    shape_of(tensors, "features.0.weight", path, ndim=4, expected=expected)
    used = {name: tensor for name, tensor in tensors.items() if not str(name).startswith("classifier.")}
    places = {f"conv_{place}": Place((f"features.{place}",)) for place in convolutions}
    found = from_theirs(path, used, {"params": like["trunk"]}, places)

    path = Path(linear_path)
    tensors = read_weights(path)
    # The layer is the second of its module, after dropout, or, made without it, the first.
    at = 1 if isinstance(tensors.get("lin0.model.1.weight"), np.ndarray) else 0
    shape_of(tensors, f"lin0.model.{at}.weight", path, ndim=4, expected=f"the lpips package's weights/v0.1/{trunk}.pth")
    linear = {name: shapes for name, shapes in like.items() if name != "trunk"}
    places = {f"linear_{i}": Place((f"lin{i}.model.{at}",), ones=2) for i in range(len(linear))}
    params = from_theirs(path, tensors, {"params": linear}, places)["params"]
    return network, {"params": params | {"trunk": found["params"]}}

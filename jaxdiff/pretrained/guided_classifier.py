"""State dicts of guided-diffusion's classifiers of noisy images, such as 64x64_classifier.pt."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import build, models
from jaxdiff.denoise import at_steps
from jaxdiff.pretrained.guided_diffusion import count_inputs, encoder, places_of, shape_of
from jaxdiff.pretrained.matching import Place, from_theirs
from jaxdiff.pretrained.read import read_weights
from jaxdiff.schedules import Discrete, check_flags, check_whole, require
from jaxdiff.typing import Array, InputError, Model, PyTree, Schedule


@dataclasses.dataclass(frozen=True)
class GuidedClassifier:
    """A classifier of noisy images that knows how to be told the time.

    Attributes:
      network: the Flax module, `network.apply(params, x, c_noise)` -> logits `[B, num_classes]`.
      params: `{"params": ...}`, float32 numpy arrays.
      T: the length of the table that it was trained on.
      image_size: height and width of its images; None if they may be of several sizes.
    """

    network: Any
    params: PyTree = dataclasses.field(repr=False)
    T: int
    image_size: int | None

    @property
    def num_classes(self) -> int:
        """The number of labels."""
        return int(self.network.num_classes)

    def computing_in(self, dtype: Any) -> "GuidedClassifier":
        """The same with this dtype of the computation; what follows the pooling stays float32 or better."""
        return dataclasses.replace(self, network=self.network.clone(unet=self.network.unet.clone(dtype=dtype)))

    def check(self, spec: build.Spec, schedule: Schedule, *, step_scale: float = 1.0) -> None:
        """Raise `InputError` where it cannot guide a network of this schedule, for these images and labels."""
        height, width, channels = spec.image_shape
        first = self.params["params"]["conv_in"]["kernel"].shape[2]
        size = self.image_size or 2 ** (len(self.network.unet.multipliers) - 1)
        fits = (height, width) == (size, size) if self.image_size else not (height % size or width % size)
        if not fits or channels != first:
            kind = f"{size}x{size}" if self.image_size else f"of multiples of {size}"
            got = f"{height}x{width} with {channels}"
            raise InputError(f"the classifier is for images {kind} with {first} channels; the network's are {got}")
        if spec.num_classes not in (None, self.num_classes):
            raise InputError(f"the classifier knows {self.num_classes} classes, the network {spec.num_classes}")
        if not isinstance(schedule, Discrete) or schedule.T != self.T:
            found = f"{schedule.T} steps" if isinstance(schedule, Discrete) else "no steps"
            raise InputError(
                f"the classifier is told steps of a table of {self.T}, and the network's schedule has {found}; both "
                "must have been trained on the same table (the classifier's option diffusion_steps is its length)"
            )
        if step_scale != 1:
            raise InputError(
                f"the network is told the step's number times {step_scale:g} (rescale_timesteps), and the classifier "
                "is told the number itself: not supported"
            )

    def log_prob(self, labels: Array, params: PyTree | None = None) -> Model:
        """`(x_t [B, H, W, C], t scalar or [B]) -> log p(label | x_t)` `[B]`, of labels int32 `[B]`: what
        `guidance.classifier` takes.

        Args:
          labels: `[B]`, from 0.
          params: in place of its own, where these are an argument of a compiled program.
        """
        mine = self.params if params is None else params

        def logits(x: Array, c_noise: Array) -> Array:
            return jnp.asarray(self.network.apply(mine, x, c_noise))

        def log_prob(x: Array, t: Array) -> Array:
            log_p = jax.nn.log_softmax(at_steps(logits, T=self.T)(x, t))
            return jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]

        return log_prob


def load_guided_classifier(
    path: Path | str,
    *,
    num_head_channels: int = 64,
    use_new_attention_order: bool = False,
    diffusion_steps: int = 1000,
    classifier_depth: int | None = None,
) -> GuidedClassifier:
    """The classifier of a state dict, for `guidance.classifier` or sample.py --classifier.

    Its network is told the number of the step in the table of the network that it guides.

    Args:
      path: the file.
      num_head_channels: the size of a head of attention.
      use_new_attention_order: queries, keys and values lie one after the other for all heads, not for each (they do so
        in the pool, whatever this is).
      diffusion_steps: the length of the table.
      classifier_depth: residual blocks per level; to be given where the file leaves it open, which one does without
        attention, if it halves its feature maps in residual blocks.

    Raises:
      InputError: a broken file, one with more in it than tensors, or the weights of another network.

    Source: Dhariwal & Nichol 2021 (arXiv 2105.05233), section 4.
    """
    path = Path(path)
    numbers = {"num_head_channels": num_head_channels, "diffusion_steps": diffusion_steps}
    for name, value in (numbers | ({} if classifier_depth is None else {"classifier_depth": classifier_depth})).items():
        check_whole(name, value)
    check_flags(use_new_attention_order=use_new_attention_order)
    tensors = read_weights(path)
    if any(str(name).startswith("output_blocks.") for name in tensors):
        raise InputError(f"{path}: a network of guided-diffusion that makes images, not a classifier of them")
    levels, blocks, strided = _levels(tensors, path, classifier_depth)
    model = dataclasses.replace(
        encoder(tensors, path, levels=levels, blocks=blocks),
        resample_in_block=not strided,
        head_channels=num_head_channels,
    )
    pool, num_classes, head = _head(tensors, path)
    settings = {name: value for name, value in vars(model).items() if name not in ("network", "lora_rank", "dtype")}
    network = models.Classifier(models.UNet(**settings), num_classes, pool, num_head_channels)

    size, image_size = 2 ** (levels - 1), None
    if pool == "attention":
        _, positions = shape_of(tensors, f"{_POOL}.positional_embedding", path, ndim=2)
        side = math.isqrt(max(positions - 1, 0))
        if side < 1 or side**2 != positions - 1:
            raise InputError(f"{path}: an attention pool of {positions - 1} positions, which are no square")
        size = image_size = side * size
        tensors = {**tensors, f"{_POOL}.positional_embedding": tensors[f"{_POOL}.positional_embedding"].T}
    _, channels, *_ = shape_of(tensors, "input_blocks.0.0.weight", path, ndim=4)
    x = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    try:
        like = jax.eval_shape(network.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.float32))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    places = places_of(model, new_order=use_new_attention_order) | head
    return GuidedClassifier(network, from_theirs(path, tensors, like, places), diffusion_steps, image_size)


_POOL = "out.2"


def _head(tensors: Mapping[str, Any], path: Path) -> tuple[Any, int, dict[str, Place]]:
    """The pool, the number of classes, and where the parameters after the first half are."""

    def dimensions(name: str) -> int:
        return np.ndim(tensors[name]) if name in tensors else 0

    if f"{_POOL}.positional_embedding" in tensors:
        places = {
            "pool_attention": Place((_POOL,)),
            "pool_attention/qkv": Place((f"{_POOL}.qkv_proj",), ones=1),
            "pool_attention/out": Place((f"{_POOL}.c_proj",), ones=1),
        }
        return "attention", shape_of(tensors, f"{_POOL}.c_proj.weight", path, ndim=3)[0], places
    if dimensions("out.3.weight") == 4:
        return "adaptive", tensors["out.3.weight"].shape[0], {"out": Place(("out.3",), ones=2)}
    hidden = {"hidden": Place(("out.0",))}
    if dimensions("out.3.weight") == 2:
        norm = {"norm_out": Place(("out.1",)), "out": Place(("out.3",))}
        return "spatial_v2", tensors["out.3.weight"].shape[0], hidden | norm
    return "spatial", shape_of(tensors, "out.2.weight", path, ndim=2)[0], hidden | {"out": Place(("out.2",))}


def _levels(tensors: Mapping[str, Any], path: Path, depth: int | None) -> tuple[int, int, bool]:
    """How many levels there are, of how many blocks, and whether strided convolutions are between them.

    Residual blocks between the levels look like those within. But the blocks of a level have the same number of
    channels, all of them attention or none, and those between keep the channels and have no attention.
    """
    inputs = count_inputs(tensors)
    shape_of(tensors, "input_blocks.0.0.weight", path, ndim=4)
    strided = [i for i in range(inputs) if f"input_blocks.{i}.0.op.weight" in tensors]
    if strided:
        levels = 1 + len(strided)
        blocks = max(inputs // levels - 1, 1)
        require(depth in (None, blocks), f"{path}: levels of {blocks} residual blocks, not of classifier_depth {depth}")
        return levels, blocks, True
    widths = [shape_of(tensors, f"input_blocks.{i}.0.in_layers.2.weight", path, ndim=4)[0] for i in range(1, inputs)]
    attends = [f"input_blocks.{i}.1.qkv.weight" in tensors for i in range(1, inputs)]

    def fits(blocks: int) -> bool:
        if inputs % (blocks + 1):
            return False
        for first in range(0, inputs - 1, blocks + 1):
            within, between = slice(first, first + blocks), slice(first, first + blocks + 1)
            if len(set(attends[within])) > 1 or len(set(widths[between])) > 1 or any(attends[between][blocks:]):
                return False
        return True

    found = [blocks for blocks in range(1, inputs) if fits(blocks) and depth in (None, blocks)]
    if len(found) == 1:
        return inputs // (found[0] + 1), found[0], False
    if found:
        choice = f"may have {', '.join(map(str, found))} residual blocks per level: give classifier_depth"
        raise InputError(f"{path}: a classifier that {choice}")
    depths = "any number of" if depth is None else f"classifier_depth {depth}"
    raise InputError(f"{path}: {inputs} input blocks, which are no levels of {depths} residual blocks each")

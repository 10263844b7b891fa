"""A classifier trained on the set that is evaluated: the feature space of sets for which no network exists.

Its weights are kept in the user's cache directory, under a name that says of which images and settings they are. They
are a function of these and the machine: another kind of CPU or GPU rounds otherwise. Distances in its features compare
with each other where the weights' sha256 is the same, which every result names.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import weights
from jaxdiff.data import Source, batches, hold_out, in_order
from jaxdiff.features import Features, classifier
from jaxdiff.files import cache_folder
from jaxdiff.files import sha256 as file_sha256
from jaxdiff.models.convnet import ConvNet
from jaxdiff.pixels import from_uint8
from jaxdiff.train.state import init_state
from jaxdiff.train.step import train_step
from jaxdiff.typing import Array, Batch, InputError, PyTree

HELD_OUT = 0.1
"""The share of the images that its accuracy is measured on; at most 10,000."""
FORMAT = 2
"""Of the file: one of another is not found in the cache."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How the classifier is trained.

    Attributes:
      steps: updates.
      batch_size: images per update.
      learning_rate: at its peak, of AdamW, on one cycle of a cosine.
      weight_decay: of AdamW.
      seed: of everything random.
    """

    steps: int = 2000
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


def trained_classifier(
    source: Source, *, training: Training | None = None, progress: Any = iter, folder: Path | None = None
) -> Features:
    """The features of a classifier of a labelled set, from the cache or trained now.

    Args:
      source: the images with their labels.
      training: how.
      progress: what the list of steps is gone through by, such as tqdm.
      folder: the cache; default `features` in `files.cache_folder()`.

    Raises:
      InputError: images without labels, or fewer than two classes.
    """
    check_labels(source.num_classes)
    training = training or Training()
    identity = _identity(source, training)
    path = (folder or _kept()) / f"classifier-{identity}.safetensors"
    if not path.is_file():
        params, accuracy = fit(source, training, progress=progress)
        shape = {"image_shape": list(source.image_shape), "num_classes": source.num_classes}
        # No name or path of the images: the same ones give the same bytes, and so one sha256.
        about = {"identity": identity, "accuracy": accuracy, **dataclasses.asdict(training)}
        weights.write_weights(path, params, {"classifier": shape | about})
    return classifier(path)


def _kept() -> Path:
    return cache_folder() / "features"


def kept_classifier(sha256: str) -> Path | None:
    """The file in the cache whose weights those are; None if there is none."""
    return next(
        (path for path in sorted(_kept().glob("classifier-*.safetensors")) if file_sha256(path) == sha256), None
    )


def check_labels(num_classes: int | None) -> None:
    """Raise `InputError` where there are not two classes, which a classifier could be trained on."""
    if (num_classes or 0) < 2:
        raise InputError(
            "--features classifier: is trained on real images with labels of two classes at least, and here are none; "
            "give classifier:FILE, pixels, efficientnet_lite0 or inception:FILE"
        )


def fit(source: Source, training: Training, *, progress: Any = iter) -> tuple[PyTree, float]:
    """The parameters of `ConvNet`, and the share of the held-out images that it knows.

    Images are moved by up to a fourteenth of their side, so that few of them are not learnt by heart.
    """
    held = min(10_000, max(1, int(HELD_OUT * len(source))))
    rest, held_out = hold_out(source, held, seed=training.seed)
    network = ConvNet(num_classes=int(source.num_classes or 0))
    tx = optax.adamw(
        optax.cosine_onecycle_schedule(training.steps, training.learning_rate), weight_decay=training.weight_decay
    )
    loss_fn = partial(_loss, network=network, shift=round(min(source.image_shape[:2]) / 14))
    # On one device: it is small, the same whatever their number, and of many hosts none waits for another.
    step = jax.jit(partial(train_step, loss_fn=loss_fn, tx=tx, averages={}), donate_argnums=0)
    first, key = jax.random.split(jax.random.key(training.seed))
    state = init_state(network.init(first, jnp.zeros((1, *source.image_shape))), tx, ())
    feed = batches(rest, batch_size=training.batch_size, seed=training.seed, flip=False)
    for _ in progress(range(training.steps)):
        state, _ = step(state, next(feed), key)
    params = jax.device_get(state.params)
    right, known = 0, jax.jit(network.apply)
    for index, batch in in_order(held_out, batch_size=256):
        _, logits = known(params, from_uint8(batch["image"]))
        right += int((np.asarray(logits).argmax(-1) == batch["label"])[index >= 0].sum())
    return params, right / held


def _loss(params: PyTree, batch: Batch, keys: Array, *, network: ConvNet, shift: int) -> dict[str, Array]:
    x = from_uint8(batch["image"])

    def moved(key: Array, image: Array) -> Array:
        padded = jnp.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        down, right = jax.random.randint(key, (2,), 0, 2 * shift + 1)
        return jax.lax.dynamic_slice(padded, (down, right, 0), image.shape)

    _, logits = network.apply(params, jax.vmap(moved)(keys, x))
    return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])}


def _identity(source: Source, training: Training) -> str:
    """Of images, labels and settings: 16 hexadecimal digits."""
    digest = hashlib.sha256(
        json.dumps([FORMAT, source.image_shape, source.num_classes, len(source), dataclasses.asdict(training)]).encode()
    )
    for batch in _in_chunks(source):
        digest.update(batch["image"].tobytes())
        digest.update(batch["label"].tobytes())
    return digest.hexdigest()[:16]


def _in_chunks(source: Source, size: int = 4096) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, len(source), size):
        yield source.gather(np.arange(first, min(first + size, len(source))))

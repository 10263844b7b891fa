"""TensorFlow Datasets without TensorFlow: prepared once as ArrayRecord, read with random access."""

import dataclasses
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any
from unittest import mock

import numpy as np
from tqdm import tqdm

from jaxdiff.data.sources import ArraySource, Examples, Source, first_line
from jaxdiff.typing import InputError

IN_MEMORY_BYTES = 2 * 2**30  # decoding PNGs once beats decoding them every epoch, as long as they fit
DOWNLOAD_RETRIES = 3  # TFDS's ten, each twice as late as the one before, take 200 s to say that there is no network


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsSource:
    """A prepared TFDS split, decoded when asked for; `tfds_images` makes it."""

    data: Any
    image_shape: tuple[int, int, int]
    num_classes: int | None

    def __len__(self) -> int:
        return len(self.data)

    def gather(self, index: np.ndarray) -> Examples:
        examples = self.data.__getitems__([int(i) for i in index])
        batch = {"image": np.stack([e["image"] for e in examples])}
        if self.num_classes is not None:
            batch["label"] = np.array([e["label"] for e in examples], np.int32)
        return batch


def tfds_images(name: str, *, split: str = "train", data_dir: str | None = None) -> Source:
    """A split of any image set of TensorFlow Datasets, through `tfds.data_source`: TensorFlow is not needed.

    The set is downloaded and prepared once, as ArrayRecord, under `data_dir` (default: `TFDS_DATA_DIR` or
    ~/tensorflow_datasets). Sets of up to 2 GiB are decoded into memory.

    Args:
      name: for example "mnist", "cifar10", "my_set:1.0.0".
      split: "train", "test", "train[:10%]".
      data_dir: where prepared sets are.

    Raises:
      InputError: TFDS is not installed, no such set or split, it cannot be downloaded, it is damaged, it was prepared
        for TensorFlow, or its images vary in size.
    """
    if find_spec("tensorflow_datasets") is None:
        raise InputError(
            f"data set tfds:{name} needs tensorflow-datasets: pip install 'jaxdiff[tfds]' (in a clone '.[tfds]')"
        )
    import tensorflow_datasets as tfds

    where = data_dir or "the TFDS data folder (TFDS_DATA_DIR, default ~/tensorflow_datasets)"
    with _without_tensorflow():
        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except Exception as error:  # unknown names, versions, configs, options and namespaces all differ
            raise InputError(
                f"unknown data set tfds:{name}. It is not in the TFDS catalogue, nor prepared under {where}. "
                f"Your own images: data.name = a .npz file. ({type(error).__name__}: {first_line(error)})"
            ) from error
        features: dict[str, Any] = dict(builder.info.features.items())  # FeaturesDict itself has no get
        image: Any = features.get("image")
        shape = getattr(image, "shape", ())
        if len(shape) != 3 or None in shape or image.np_dtype != np.uint8:
            found = f"the features {', '.join(features)}" if image is None else repr(image)
            raise InputError(
                f"tfds:{name}: expected a feature 'image', uint8 and of one fixed size [H, W, C]; found {found}. "
                "Resize the images into a .npz file and train on that."
            )
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # TFDS, its downloader and the network raise many kinds
            raise InputError(
                f"tfds:{name}: could not be loaded. There is no prepared set in {builder.data_dir}, and it could not "
                f"be downloaded and prepared ({type(error).__name__}: {first_line(error)}).\n"
                f"Without a network: on a connected machine run\n"
                f"  python -c \"from jaxdiff.data import tfds_images; tfds_images('{name}', data_dir='tfds')\"\n"
                f"and bring the folder, then give --data.dir tfds."
            ) from error
    try:
        return _prepared(
            builder, split, tuple(shape), getattr(features.get("label"), "num_classes", None), f"tfds:{name}"
        )
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"tfds:{name}: the set in {builder.data_dir} is incomplete or damaged ({first_line(error)}). "
            "Delete that folder, or bring it once more."
        ) from error


def _prepared(
    builder: Any, split: str, image_shape: tuple[int, int, int], num_classes: int | None, name: str
) -> Source:
    try:
        data = builder.as_data_source(split=split)
        size = len(data)
    except NotImplementedError as error:
        raise InputError(
            f"{name}: the set in {builder.data_dir} was prepared as {builder.info.file_format.value}, which only "
            "TensorFlow reads. Give another --data.dir: there it is prepared once more, as array_record."
        ) from error
    except (ValueError, KeyError) as error:
        splits = ", ".join(f"{k} ({v.num_examples} images)" for k, v in sorted(builder.info.splits.items()))
        raise InputError(
            f"{name}: no such split, or an empty one: {split!r} ({first_line(error)}). It has {splits}; "
            "parts are written train[:10%]."
        ) from error
    source = TfdsSource(data, image_shape, num_classes)
    return source if size * int(np.prod(image_shape)) > IN_MEMORY_BYTES else _decoded(source, name=name)


def _decoded(source: TfdsSource, *, name: str) -> Source:
    chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 1000))
    parts = [source.gather(c) for c in tqdm(chunks, desc=f"decoding {name}", leave=False, disable=len(chunks) < 5)]
    whole = {key: np.concatenate([p[key] for p in parts]) for key in parts[0]}
    return _WithClasses(whole["image"], whole.get("label"), name, source.num_classes)


@dataclasses.dataclass(frozen=True, eq=False)
class _WithClasses(ArraySource):
    """Decoded arrays whose number of classes is the catalogue's, even if the split lacks the last one."""

    classes: int | None = None

    @property
    def num_classes(self) -> int | None:
        return self.classes


@contextmanager
def _without_tensorflow() -> Iterator[None]:
    """Let TFDS prepare sets whose images come as numpy arrays where TensorFlow is not installed, and fail in time.

    It encodes PIL images itself but hands arrays to TensorFlow's encoder; here they go the first way, JPEG at
    TensorFlow's quality.
    """
    from PIL import Image
    from tensorflow_datasets.core.download import downloader
    from tensorflow_datasets.core.features import image_feature

    def encode(self: Any, image: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture.save(buffer, format=self.encoding_format, quality=95)
        return buffer.getvalue()

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(downloader, "MAX_RETRIES", DOWNLOAD_RETRIES, create=True))
        if find_spec("tensorflow") is None:
            stack.enter_context(mock.patch.object(image_feature._ImageEncoder, "_encode_image", encode))
        yield

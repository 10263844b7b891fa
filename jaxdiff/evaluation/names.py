"""Feature spaces by their names on the command line and in a config."""

import math
from pathlib import Path
from typing import Any, NamedTuple

from jaxdiff import features as spaces
from jaxdiff.data import Source
from jaxdiff.evaluation.classifier import check_labels, trained_classifier
from jaxdiff.features import Features
from jaxdiff.models.convnet import ConvNet
from jaxdiff.pretrained import efficientnet_file
from jaxdiff.typing import InputError

NAMES = ("pixels", "classifier", "classifier:FILE", "efficientnet_lite0", "inception:FILE")


def default_features(image_shape: tuple[int, int, int], num_classes: int | None) -> str:
    """Of grey images with labels those of a classifier of them, of colours EfficientNet-Lite0's, else the pixels.

    >>> default_features((28, 28, 1), 10), default_features((32, 32, 3), None), default_features((8, 8, 1), None)
    ('classifier', 'efficientnet_lite0', 'pixels')
    """
    if image_shape[-1] == 3:
        return "efficientnet_lite0"
    return "pixels" if num_classes is None else "classifier"


def check_name(name: str, *, resize: str | None = None) -> None:
    """Raise `InputError` for a name that there is not, or a file or package that is not there.

    Args:
      name: of features, as `--features` has it.
      resize: as `--resize` has it; Inception's alone have a choice.
    """
    kind, _, file = name.partition(":")
    if kind not in {known.partition(":")[0] for known in NAMES} or (file and kind == "pixels"):
        raise InputError(f"--features {name}: no such features; there are {', '.join(NAMES)}")
    if kind == "inception" and not file:
        raise InputError(
            "--features inception: give its weights, inception:FILE; everybody uses pytorch-fid's "
            "pt_inception-2015-12-05-6726825d.pth (its README says where it is)"
        )
    if file and not Path(file).is_file():
        raise InputError(f"--features {name}: {file}: no such file")
    if name == "efficientnet_lite0":
        efficientnet_file()
    if resize is not None and kind != "inception":
        raise InputError(f"--resize {resize}: is of Inception's features, and --features is {name}")


class Planned(NamedTuple):
    """Features before they are loaded, or trained.

    Attributes:
      name: of the features.
      dimensions: of their outputs.
    """

    name: str
    dimensions: dict[str, int]


def planned(name: str, image_shape: tuple[int, int, int], num_classes: int | None) -> Planned:
    """What is known of the features of that name, one of `NAMES`, on such images; `InputError` for a classifier of
    images without labels or of a file that is none. Of such a file only what it says of itself is read.

    >>> planned("classifier", (28, 28, 1), 10)
    Planned(name='classifier', dimensions={'pool': 128, 'logits': 10})
    """
    kind = name.partition(":")[0]
    if name == "classifier":
        check_labels(num_classes)
    if kind in ("efficientnet_lite0", "inception") and image_shape[-1] not in (1, 3):
        raise InputError(f"--features {name}: images of 1 or 3 channels, got {image_shape[-1]}; give --channels 3")
    if kind == "classifier" and name != kind:
        num_classes = spaces.described(Path(name.partition(":")[2]))["num_classes"]
    known = {
        "pixels": {"pool": math.prod(image_shape)},
        "classifier": {"pool": ConvNet.features, "logits": num_classes or 0},
        **spaces.DIMENSIONS,
    }
    return Planned(kind, known[kind])


def features(
    name: str,
    image_shape: tuple[int, int, int],
    *,
    source: Source | None = None,
    resize: str | None = None,
    progress: Any = iter,
) -> Features:
    """The features of that name.

    Args:
      name: one of `NAMES`.
      image_shape: of the images.
      source: what a `classifier` without a file is trained on.
      resize: of `inception`: see `features.inception`.
      progress: see `trained_classifier`.

    Raises:
      InputError: see `check_name`; weights that cannot be read; a classifier without images to train on.
    """
    check_name(name, resize=resize)
    kind, _, file = name.partition(":")
    if kind == "pixels":
        return spaces.pixels(image_shape)
    if kind == "classifier":
        if file:
            return spaces.classifier(file)
        check_labels(None if source is None else source.num_classes)
        assert source is not None
        return trained_classifier(source, progress=progress)
    if kind == "efficientnet_lite0":
        return spaces.efficientnet_lite0(file or None)
    return spaces.inception(file, resize=resize or "tf1")  # type: ignore[arg-type]

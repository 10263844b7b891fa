"""The features that a comparison is made in: what --features says, or what fits."""

from functools import partial
from typing import Any

from tqdm import tqdm

from jaxdiff import evaluation
from jaxdiff.cli.compared import Real
from jaxdiff.data import Source
from jaxdiff.features import Features
from jaxdiff.typing import InputError


def check_features(real: Real) -> None:
    """Raise `InputError` for a name that there is not, before anything is read."""
    if real.features is not None:
        evaluation.check_name(real.features, resize=real.resize)
    elif real.resize is not None:
        raise InputError(f"--resize {real.resize}: is of Inception's features; give --features inception:FILE too")


def features_name(
    real: Real, shape: tuple[int, int, int], source: Source | None, stored: dict[str, Any] | None = None
) -> str:
    """What is asked for, what the statistics are in, or what fits the images."""
    stored = stored or {}
    name, asked = stored.get("name"), real.features
    foreign = name is None and source is None and real.reference is not None
    if foreign and (real.resize is None or not str(asked).startswith("inception:")):
        raise InputError(
            f"{real.reference}: does not say in which features it is; such files are taken for Inception's. Give "
            "--features inception:FILE, and --resize pytorch for statistics of pytorch-fid, clean for clean-fid's, tf1 "
            "for those of the TensorFlow graph (guided-diffusion, torch-fidelity); in other features make them by "
            "jaxdiff statistics"
        )
    if name is None:
        return asked or evaluation.default_features(shape, None if source is None else source.num_classes)
    if asked is not None and asked.partition(":")[0] != name:
        raise InputError(f"--features {asked}: {real.reference} is in the features {name}; leave the option out")
    if asked not in (None, name) or name not in ("classifier", "inception"):
        return asked or name
    weights = str(stored.get("sha256"))
    kept = evaluation.kept_classifier(weights) if name == "classifier" else None
    if kept is None:
        raise InputError(
            f"{real.reference}: is in the features {name}, of weights of the sha256 {weights[:12]}... that are not in "
            f"the cache; give --features {name}:FILE, those weights"
        )
    return f"classifier:{kept}"


def features_of(real: Real, asked: str, shape: tuple[int, int, int], source: Source | None, name: str) -> Features:
    """The features of that name; a classifier is trained now if there is none yet."""
    space = evaluation.features(
        asked, shape, source=source, resize=real.resize,
        progress=partial(tqdm, desc="classifier", unit="step"),
    )  # fmt: skip
    if asked == "classifier":
        print(f"classifier of {name}: {space.file}")
    return space

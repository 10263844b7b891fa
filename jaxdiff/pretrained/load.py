"""Whatever it is: from a path to a network."""

from pathlib import Path
from typing import Any

from jaxdiff.build import check_options
from jaxdiff.pretrained.base import Pretrained
from jaxdiff.pretrained.diffusers import load_diffusers
from jaxdiff.pretrained.guided_diffusion import load_guided_diffusion
from jaxdiff.pretrained.read import read_weights
from jaxdiff.typing import InputError


def load(path: Path | str, **options: Any) -> Pretrained:
    """A network that others trained: a folder of diffusers, or a state dict of guided-diffusion.

    Args:
      path: the folder or the file.
      options: the arguments of `load_diffusers` for a folder, of `load_guided_diffusion` for a file.

    Raises:
      InputError: nothing there, or nothing that can be read, or not the options that it takes.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if (path / "run.json").is_file():
        raise InputError(f"{path}: a run of train.py: sample it with --run, or train it further with the same command")
    if path.is_dir():
        check_options(f"{path}, a folder of diffusers,", load_diffusers, options, besides=("folder",))
        return load_diffusers(path, **options)
    check_options(f"{path}, read as weights of guided-diffusion,", load_guided_diffusion, options, besides=("path",))
    if "image_size" not in options:
        read_weights(path)  # what is no file of weights is refused as that
        raise InputError(
            f"{path}: a file of weights does not say how large its images are: give image_size, such as 64"
        )
    return load_guided_diffusion(path, **options)

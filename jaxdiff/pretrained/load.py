"""Whatever it is: from a path to a network."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxdiff.build import check_options
from jaxdiff.pretrained.base import Pretrained
from jaxdiff.pretrained.diffusers import load_diffusers
from jaxdiff.pretrained.dit import load_dit
from jaxdiff.pretrained.edm import load_edm
from jaxdiff.pretrained.guided_diffusion import load_guided_diffusion
from jaxdiff.pretrained.lucidrains import load_lucidrains
from jaxdiff.pretrained.read import read_weights
from jaxdiff.pretrained.score_sde import load_score_sde
from jaxdiff.typing import InputError

FILES: dict[str, tuple[str, Callable[..., Pretrained]]] = {
    "guided-diffusion": (r"input_blocks\.0\.0\.weight", load_guided_diffusion),
    "lucidrains": (r"downs\.0\.0\.block1\.proj\.weight", load_lucidrains),
    "score_sde": (r"all_modules\.\d+\.NIN_3\.W", load_score_sde),
    "edm": (r"enc\.\d+x\d+_conv\.weight", load_edm),
    "DiT": (r"final_layer\.adaLN_modulation\.1\.weight", load_dit),
}
"""Whose files of weights are known: by name, the end of a tensor's name that they alone have, and what loads them."""


def load(path: Path | str, **options: Any) -> Pretrained:
    """A network that others trained: a folder of diffusers, or a file of weights of one of `FILES`.

    Args:
      path: the folder or the file. Whose file it is, its tensors' names say.
      options: the arguments of `load_diffusers` for a folder, of its own loader for a file, such as
        `load_guided_diffusion`.

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
    names = list(_names(read_weights(path)))
    for owner, (mark, loader) in FILES.items():
        if any(re.search(rf"(^|\.){mark}$", name) for name in names):
            check_options(f"{path}, read as weights of {owner},", loader, options, besides=("path",))
            for name, option in inspect.signature(loader).parameters.items():
                if option.kind is option.KEYWORD_ONLY and option.default is option.empty and name not in options:
                    raise InputError(f"{path}: weights of {owner} do not say their {name}: give the option {name}")
            return loader(path, **options)
    known = ", ".join(FILES)
    raise InputError(
        f"{path}: whose weights these are is not known; expected those of a network of {known} (of a folder of "
        f"diffusers give the folder). It has {len(names)} tensors, such as {', '.join(sorted(names)[:3]) or 'none'}"
    )


def _names(tensors: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Of all that is in a file, dictionaries within dictionaries too."""
    for name, value in tensors.items():
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"

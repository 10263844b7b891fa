"""What an import yields."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxdiff import build
from jaxdiff.config import Config, check, from_dict, to_dict
from jaxdiff.schedules import check_whole
from jaxdiff.typing import Array, Denoiser, InputError, Model, PyTree, Schedule


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Somebody else's trained network, as one of ours: everything is said by a config, as for a network trained here.

    Attributes:
      config: of which `model` and `diffusion` describe the network and what it predicts; of `sample` clip and variance
        are its scheduler's, the sampler and its steps are ours.
      spec: the images' shape and the number of classes.
      params: `{"params": ...}`, float32 numpy arrays.
      latents: what it makes is no pictures but an autoencoder's latents, in the scale of its training.
    """

    config: Config
    spec: build.Spec
    params: PyTree = dataclasses.field(repr=False)
    latents: bool = False

    @property
    def network(self) -> Any:
        """The Flax module: `network.apply(params, x, c_noise, cond)`; with a low-rank adaptation of `lora.merged`."""
        return build.network(self.config, self.spec)

    @property
    def schedule(self) -> Schedule:
        """The schedule that it was trained on."""
        return build.schedule(self.config.diffusion)

    @property
    def kind(self) -> str:
        """What it predicts, a key of `parameterization.KINDS`."""
        return self.config.diffusion.kind

    def model(self, labels: Array | None = None) -> Model:
        """The network as a function of time, `(x_t, t) -> y`; its own scaling of time, parameters and labels bound."""
        return build.model(self.config, self.spec, self.params, labels)

    def denoiser(self, labels: Array | None = None) -> Denoiser:
        """`(x_t, t) -> Prediction`, with `log_var` if it learned the variance: what samplers, guidance and likelihood
        take."""
        return build.denoiser(self.config, self.spec, self.params, labels)


@contextmanager
def reading(path: Path, *, otherwise: str, said: str = "") -> Iterator[None]:
    """Whatever goes wrong with a file's contents as an `InputError` that names it: with what is `said` before our own
    messages, and what it is `otherwise`.

    >>> with reading(Path("m.pt"), otherwise="no network"):
    ...     {}["conv"]
    Traceback (most recent call last):
    ...
    jaxdiff.typing.InputError: m.pt: no network (KeyError: 'conv')
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {said}{error}") from error
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {otherwise} ({type(error).__name__}: {error})") from error


def parameter_shapes(path: Path, config: Config, spec: build.Spec) -> PyTree:
    """The shapes of the network's parameters.

    Raises:
      InputError: the description that was read from `path` makes no network: a value of another type, or out of range.
    """
    with reading(path, otherwise="describes no network", said="describes no network: "):
        check(from_dict(to_dict(config)))  # of which the first looks at types, and the second at values
        for number in (*spec.image_shape, *(() if spec.num_classes is None else (spec.num_classes,))):
            check_whole("sample_size, in_channels or num_class_embeds", number)
        return jax.eval_shape(partial(build.init_params, config, spec), jax.random.key(0))

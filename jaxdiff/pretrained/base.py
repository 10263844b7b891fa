"""What an import yields."""

import dataclasses
from typing import Any

from jaxdiff import build
from jaxdiff.config import Config
from jaxdiff.typing import Array, Denoiser, Model, PyTree, Schedule


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Somebody else's trained network, as one of ours: everything is said by a config, as for a network trained here.

    Attributes:
      config: of which `model`, `diffusion` and `sample` describe the network, what it predicts and how it was sampled.
      spec: the images' shape and the number of classes.
      params: `{"params": ...}`, float32 numpy arrays.
    """

    config: Config
    spec: build.Spec
    params: PyTree

    @property
    def network(self) -> Any:
        """The Flax module: `network.apply(params, x, c_noise, cond)`."""
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

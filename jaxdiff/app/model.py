"""What the app does with a network: jobs, checked when they are made, and worked off step by step."""

import dataclasses
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jaxdiff import build, process, sampling, stepwise, tasks
from jaxdiff.app import images
from jaxdiff.app.limits import Limits
from jaxdiff.config import Config
from jaxdiff.noise import example_keys, fold_in, white_noise
from jaxdiff.pixels import from_uint8, to_uint8
from jaxdiff.samplers import RESAMPLINGS, Way, check_resampling, draws_noise, remembers, time_travel, usual_jump
from jaxdiff.typing import Array, Denoiser, InputError, Prediction, PyTree, Schedule

OFFERED = ("ddim", "ddpm", "dpm_solver++", "unipc", "heun", "euler_ancestral")
"""Samplers, beside the network's own: each is compiled when it is first used, and stays."""


LARGEST = 1000.0
"""Of guidance, noise and the like: beyond it float32 overflows somewhere."""
Number = Annotated[float | None, Field(ge=-LARGEST, le=LARGEST)]


class Settings(BaseModel):
    """How pictures are made; what is not given is as the network's config has it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    labels: Annotated[tuple[int, ...], BeforeValidator(lambda one: (one,) if isinstance(one, int) else one)] = Field(
        default=(), max_length=1000, description="One, or several in turn, -1 none; default all, of an image none."
    )
    guidance: Number = Field(default=None, description="Classifier-free guidance scale; 1 none.")
    sampler: str | None = Field(
        default=None, max_length=100, description="Its name, of those that GET /api/model names."
    )
    steps: int | None = Field(default=None, description="Steps of the grid.")
    eta: Number = Field(default=None, description="Of ddim: 0 deterministic, 1 ancestral.")
    temperature: Number = Field(default=None, description="Scales the noise that the sampler injects.")
    seed: int = Field(default=0, description="Picture i is a function of the seed and i.")
    num: int = Field(default=1, description="How many pictures.")


class Frame(NamedTuple):
    """What there is after `done` steps: x_t of all pictures, uint8 `[N, H, W, C]`, on the scale of `sampling.shown`.
    `note`: what is to be said with it."""

    done: int
    pictures: np.ndarray
    note: str = ""


Frames = Generator[Frame, None, None]


@dataclasses.dataclass(frozen=True)
class Job:
    """Work that was checked.

    Attributes:
      steps: how many there will be.
      labels: of the pictures, -1 where none is told; None without classes.
      frames: does it, and yields `steps + 1` frames, of which the last one is the pictures. It raises `InputError` for
        images that are none, too large or damaged, and for pictures that are not finite.
    """

    steps: int
    labels: np.ndarray | None
    frames: Callable[[], Frames]


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A network with its parameters, on one device.

    Attributes:
      name: that people see.
      config: of the run; of `sample` the defaults.
      spec: of the pictures.
      params: the network's.
      limits: of a request.
    """

    name: str
    config: Config
    spec: build.Spec
    params: PyTree
    limits: Limits

    @property
    def samplers(self) -> tuple[str, ...]:
        """Those that may be asked for."""
        return tuple(dict.fromkeys((*OFFERED, self.config.sample.sampler)))

    @property
    def schedule(self) -> Schedule:
        """The network's."""
        return build.schedule(self.config.diffusion)

    def sample(self, settings: Settings) -> Job:
        """Pictures from noise, those of sample.py by the same seed.

        Raises:
          InputError: settings that none can be, that do not fit the network, or that are beyond the limits.
        """
        config, labels = self._config(settings), self._labels(settings)
        sampler, times, scale, temperature, noise = sampling.settings(config)
        self._check_steps(len(times) - 1)

        def states(told: Array | None) -> Iterator[Any]:
            keys = self._keys(settings)
            start = fold_in(keys, 0)
            shape = (len(keys), *self.spec.image_shape)
            x = process.prior(start, shape, schedule=self.schedule, t=times[0], noise=noise or white_noise)
            return self._states(fold_in(keys, 1), told, scale, Way(sampler, times, x), temperature)

        return self._job(len(times) - 1, settings, labels, lambda told: self._watched(states(told), times))

    def inpaint(
        self,
        settings: Settings,
        image: bytes | np.ndarray,
        mask: bytes | np.ndarray,
        *,
        jump_length: int | None = None,
        resamplings: int | None = None,
    ) -> Job:
        """Where the mask is white, the image anew, by RePaint: `tasks.inpaint`.

        Args:
          settings: the sampler is by default ddpm.
          image: a file's bytes, or uint8 `[H, W, C]` of the network's size.
          mask: a file's bytes, or 1 where the image is known, else 0, `[H, W, 1]`.
          jump_length: as of `tasks.inpaint`; default 10, or all steps but one where there are no more.
          resamplings: the same; 1 is replacement alone, and the default where the sampler cannot go back up, or has but
            one step; else 10, or as many as the limit of steps lets.

        Raises:
          InputError: as `sample`; resampling that does not fit the sampler or the steps.
        """
        config, labels = self._config(settings, sampler="ddpm"), self._labels(settings, of_image=True)
        sampler, times, scale, temperature, _ = sampling.settings(config)
        steps = len(times) - 1
        most = 1 if steps == 1 or remembers(sampler) else max(1, min(RESAMPLINGS, self.limits.max_steps // steps))
        goes = {
            "jump_length": usual_jump(steps) if jump_length is None else jump_length,
            "resamplings": most if resamplings is None else resamplings,
        }
        self._check_steps(steps * max(goes["resamplings"], 1))
        check_resampling(sampler, goes["resamplings"])
        path = time_travel(steps, **goes)
        self._check_steps(len(path) - 1)

        def frames(told: Array | None) -> Frames:
            found, known = self._image(image), self._mask(mask, image)
            keys = fold_in(self._keys(settings), 0)
            wide = jnp.asarray(np.repeat(from_uint8(found)[None], len(keys), 0) * known)
            way = tasks.inpainting_way(
                fold_in(keys, 0), wide, jnp.asarray(known[None]), sampler=sampler, times=times, **goes
            )
            states = self._states(fold_in(keys, 1), told, scale, way, temperature)
            for frame in self._watched(states, way.times):
                if frame.done == len(path) - 1:
                    own, where = jnp.asarray(found[None]), jnp.asarray(known[None])
                    painted = tasks.with_known(jnp.asarray(frame.pictures), own, where)
                    yield frame._replace(pictures=np.asarray(painted))
                else:
                    yield frame

        return self._job(len(path) - 1, settings, labels, frames)

    def denoise(
        self, settings: Settings, image: bytes | np.ndarray, *, noise: float | None = None, mean: bool = False
    ) -> Job:
        """An image without its white noise: draws from the posterior of what it was, or its mean.

        Args:
          settings: the sampler is by default ddpm, and there is no guidance: what the network makes of x_t is to be
            the mean of what x_0 may be.
          image: a file's bytes, or uint8 `[H, W, C]` of the network's size.
          noise: its standard deviation in units of [-1, 1]; None estimates it, see `tasks.estimate_noise`.
          mean: the best guess in mean square, by one call of the network.

        Raises:
          InputError: as `sample`; a noise that is not positive; a sampler that draws none, for several draws.
        """
        if noise is not None and not 0 < noise <= LARGEST:
            raise InputError(f"noise {noise}: expected a positive number, {LARGEST:g} at most")
        no_guidance = {} if self.spec.num_classes is None else {"guidance": 1.0}
        config = self._config(settings, sampler="ddpm", **no_guidance)
        labels = self._labels(settings, of_image=True)
        sampler, _, scale, temperature, _ = sampling.settings(config)
        for name in ("sampler", "steps", "eta", "temperature"):
            if mean and getattr(settings, name) is not None:
                raise InputError(f"{name}: the mean is one call of the network; leave it out")
        steps = 1 if mean else config.sample.steps
        self._check_steps(steps)
        if settings.num > 1 and (mean or not draws_noise(sampler)):
            raise InputError(f"num {settings.num}: there is but one such picture; take draws by ddpm")

        def frames(told: Array | None) -> Frames:
            found = self._image(image)
            keys = fold_in(self._keys(settings), 0)
            y = jnp.asarray(np.repeat(from_uint8(found)[None], len(keys), 0))
            std = max(float(tasks.estimate_noise(y)[0]), 1e-3) if noise is None else noise
            note = f"; noise of {std:.3g}" + (", estimated" if noise is None else "")
            if mean:
                x = _posterior_mean(self._denoiser(told, scale), y, jnp.float32(std), schedule=self.schedule)
                yield Frame(0, found[None], note)
                yield Frame(1, to_uint8(_finite(np.asarray(x))), note)
                return
            way = tasks.posterior_way(y, std, sampler=sampler, steps=steps)
            for frame in self._watched(self._states(keys, told, scale, way, temperature), way.times):
                yield frame._replace(note=note)

        return self._job(steps, settings, labels, frames)

    def _config(self, settings: Settings, **otherwise: Any) -> Config:
        """The network's config with the settings; `otherwise` in place of its own where they say nothing."""
        limits = self.limits
        if settings.sampler is not None and settings.sampler not in self.samplers:
            raise InputError(f"sampler {settings.sampler!r}: expected one of {', '.join(self.samplers)}")
        if not 1 <= settings.num <= limits.max_pictures:
            raise InputError(f"num {settings.num}: expected 1 to {limits.max_pictures}")
        if not 0 <= settings.seed < 2**32:
            raise InputError(f"seed {settings.seed}: expected 0 <= seed < 2^32")
        if settings.steps is not None:
            self._check_steps(settings.steps)
        if self.spec.num_classes is None and settings.guidance is not None:
            raise InputError("guidance: this network was trained without labels; leave it out")
        names = ("guidance", "sampler", "steps", "eta", "temperature")
        given = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
        try:
            return build.with_sample(self.config, otherwise | given)
        except InputError as error:
            raise InputError(str(error).replace("--", "")) from None

    def _check_steps(self, steps: int) -> None:
        if not 1 <= steps <= self.limits.max_steps:
            raise InputError(f"steps: expected 1 to {self.limits.max_steps} in all, got {steps}")

    def _labels(self, settings: Settings, *, of_image: bool = False) -> np.ndarray | None:
        classes = self.spec.num_classes
        if classes is None:
            if settings.labels:
                raise InputError("labels: this network was trained without labels; leave them out")
            return None
        none = build.knows_none(self.config)
        for label in settings.labels:
            if not (0 <= label < classes or (label == -1 and none)):
                expected = f"labels from 0 to {classes - 1}" + (", or -1 for none" if none else "")
                raise InputError(f"labels {label}: expected {expected}")
        if of_image and not settings.labels and not none:
            raise InputError("labels: this network was never trained without one: say what the image shows")
        return sampling.cycle(settings.labels or ((-1,) if of_image else range(classes)), settings.num)

    def _size(self, settings: Settings) -> int:
        """One picture, or as many as there may be: two sizes are compiled, no more."""
        return 1 if settings.num == 1 else self.limits.max_pictures

    def _keys(self, settings: Settings) -> Array:
        return example_keys(jax.random.key(settings.seed), jnp.arange(self._size(settings), dtype=jnp.int32))

    def _job(
        self, steps: int, settings: Settings, labels: np.ndarray | None, frames: Callable[[Array | None], Frames]
    ) -> Job:
        def cut() -> Frames:
            told = None
            if labels is not None:
                known = np.where(labels < 0, self.spec.num_classes or 0, labels)
                told = jnp.asarray(np.resize(known, self._size(settings)), jnp.int32)
            for frame in frames(told):
                yield frame._replace(pictures=frame.pictures[: settings.num])

        return Job(steps, labels, cut)

    def _denoiser(self, labels: Array | None, scale: Array | None) -> Denoiser:
        denoise: Denoiser = Partial(_Guided(self.config, self.spec), self.params, labels, scale)
        return denoise

    def _states(
        self, keys: Array, labels: Array | None, scale: Array | None, way: Way, temperature: Array
    ) -> Iterator[Any]:
        return stepwise.states(keys, self._denoiser(labels, scale), way, temperature=temperature)

    def _watched(self, states: Iterator[Any], times: Array | np.ndarray) -> Frames:
        """Each state as pictures."""
        grid = np.asarray(times)
        for i, state in enumerate(states):
            x = _finite(np.asarray(state.x))
            last = i == len(grid) - 1
            yield Frame(i, to_uint8(x) if last else sampling.shown(x[None], grid[i : i + 1], config=self.config)[0])

    def _image(self, image: bytes | np.ndarray) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return image
        opened = images.opened(image, "image", max_pixels=self.limits.max_pixels)
        return images.as_pixels(opened, "image", self.spec.image_shape)

    def _mask(self, mask: bytes | np.ndarray, image: bytes | np.ndarray) -> np.ndarray:
        if isinstance(mask, np.ndarray):
            return mask
        opened = images.opened(mask, "mask", max_pixels=self.limits.max_pixels)
        height, width, _ = self.spec.image_shape
        size = (width, height)
        if isinstance(image, bytes):
            size = images.upright_size(images.opened(image, "image", max_pixels=self.limits.max_pixels))
        return images.mask_of(opened, size, self.spec.image_shape)


@dataclasses.dataclass(frozen=True)
class _Guided:
    """`sampling.guided` of a network: equal for the same one, so that JAX compiles a step of it once."""

    config: Config
    spec: build.Spec

    def __call__(self, params: PyTree, labels: Array | None, scale: Array | None, x_t: Array, t: Array) -> Prediction:
        return sampling.guided(self.config, self.spec, params, labels, scale)(x_t, t)


def _finite(x: np.ndarray) -> np.ndarray:
    if not np.isfinite(x).all():
        raise InputError("the pictures are not finite: lower the guidance or the temperature")
    return x


@partial(jax.jit, static_argnames="schedule")
def _posterior_mean(denoise: Denoiser, y: Array, std: Array, *, schedule: Schedule) -> Array:
    return tasks.posterior_mean(denoise, y, std, schedule=schedule)

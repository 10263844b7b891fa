"""State dicts of lucidrains' denoising-diffusion-pytorch: of a `Unet`, of the `GaussianDiffusion` round it, and the
checkpoints of its `Trainer`; `.pt` files without a description.

Shapes and names say the network, but for its embedding of time; a `GaussianDiffusion` says its table and its objective
too, by the buffers that it keeps beside the network.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jaxdiff import build
from jaxdiff.config import Config, Diffusion, LucidrainsUNet, Sample
from jaxdiff.pretrained.base import Pretrained, parameter_shapes
from jaxdiff.pretrained.matching import Place, block_places, from_theirs, shape_of
from jaxdiff.pretrained.read import read_weights
from jaxdiff.schedules import Discrete, check_choice, check_flags, check_whole, require
from jaxdiff.typing import InputError

_KINDS = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}
_TABLES = ("linear", "cosine", "sigmoid")
_RTOL = (
    2e-4  # of a number in a table: the owner's sigmoid has two of its own in float32, which move 1 - beta at the end
)
_TRAINER = {"step", "model", "opt", "ema", "scaler", "version"}


def load_lucidrains(
    path: Path | str,
    *,
    image_size: int,
    objective: Literal["pred_noise", "pred_x0", "pred_v"] | None = None,
    beta_schedule: Literal["linear", "cosine", "sigmoid"] | None = None,
    timesteps: int | None = None,
    sinusoidal_pos_emb_theta: float = 10_000.0,
    random_fourier_features: bool = False,
    use_ema: bool = True,
) -> Pretrained:
    """The network of a state dict of `Unet` or `GaussianDiffusion`, or of a `Trainer`'s checkpoint, such as model-1.pt.

    Args:
      path: the file.
      image_size: height and width of its pictures.
      objective: what it predicts. This, the table and its length are read off a file that has the buffers of a
        `GaussianDiffusion`, and are the owner's defaults, pred_v, sigmoid and 1000, for a bare `Unet`. With a learned
        variance it is pred_noise, as his `LearnedGaussianDiffusion` heeds no other.
      beta_schedule: the table.
      timesteps: its length.
      sinusoidal_pos_emb_theta: the longest period of the embedding of time, over 2 pi.
      random_fourier_features: Fourier features have frequencies that were not learned; it matters in training alone.
      use_ema: of a checkpoint the moving average, not the parameters as the optimiser left them.

    Raises:
      InputError: a broken file, one with more in it, buffers that are none of the three tables or that contradict what
        is given, or the weights of another network (those of versions before memory keys and values, for sequences,
        or with self-conditioning among them).
    """
    path = Path(path)
    check_whole("image_size", image_size)
    theta = sinusoidal_pos_emb_theta
    require(isinstance(theta, int | float), f"sinusoidal_pos_emb_theta: expected a number, got {theta!r}")
    check_flags(random_fourier_features=random_fourier_features, use_ema=use_ema)

    tensors, buffers = _parts(_chosen(read_weights(path), path, use_ema))
    model, channels, learned = _network(tensors, path, theta, random_fourier_features)
    config = Config(
        model=model,
        diffusion=_diffusion(buffers, path, objective, beta_schedule, timesteps, learned),
        sample=Sample(variance="learned_range" if learned else "fixed_small"),
    )
    spec = build.Spec((image_size, image_size, channels), None)
    like = parameter_shapes(path, config, spec)
    return Pretrained(config, spec, from_theirs(path, _as_ours(tensors), like, _places(model)))


def _chosen(tensors: Mapping[Any, Any], path: Path, use_ema: bool) -> Mapping[Any, Any]:
    """Of a checkpoint, or of a moving average's own state dict, the one network that is asked for."""
    if isinstance(tensors.get("model"), dict):
        left = sorted(map(str, set(tensors) - _TRAINER))
        require(not left, f"{path}: a Trainer's checkpoint with more than there should be: {', '.join(left)}")
        part = "ema" if use_ema else "model"
        inside = tensors.get(part)
        if not isinstance(inside, dict):
            raise InputError(f"{path}: a Trainer's checkpoint without {part}; see the option use_ema")
        tensors = inside
    prefix = "ema_model." if use_ema else "online_model."
    if any(str(name).startswith(prefix) for name in tensors):
        other = {"initted", "step"}
        left = [n for n in map(str, tensors) if not n.startswith(("ema_model.", "online_model.")) and n not in other]
        require(not left, f"{path}: a moving average with more than there should be: {', '.join(left[:8])}")
        tensors = {n.removeprefix(prefix): v for n, v in tensors.items() if str(n).startswith(prefix)}
    return tensors


def _parts(tensors: Mapping[Any, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The network's tensors, and the buffers of a `GaussianDiffusion` if that is what it is."""
    names = {str(name): value for name, value in tensors.items()}
    if not any(name.startswith("model.") for name in names):
        return names, None
    inside = {n.removeprefix("model."): v for n, v in names.items() if n.startswith("model.")}
    return inside, {n: v for n, v in names.items() if not n.startswith("model.")}


def _diffusion(
    buffers: Mapping[str, Any] | None,
    path: Path,
    objective: str | None,
    beta_schedule: str | None,
    timesteps: int | None,
    learned: bool,
) -> Diffusion:
    """What the buffers, and the options, say of the process."""
    for name, value, choices in (("objective", objective, _KINDS), ("beta_schedule", beta_schedule, _TABLES)):
        if value is not None:
            check_choice(name, value, choices)
    if timesteps is not None:
        check_whole("timesteps", timesteps)
    if buffers is None:
        table = _table(beta_schedule or "sigmoid", timesteps or 1000)
        predicted = "pred_noise" if learned else objective or "pred_v"
        fits = objective in (None, predicted)
        require(fits, f"{path}: a learned variance goes with the objective {predicted}, not {objective}")
    else:
        table = _table_of(buffers, path)
        fitting = _objectives(buffers, build.schedule(table), path)
        # With a learned variance it is the noise that training and sampling take it for, whatever the objective was.
        predicted = "pred_noise" if learned else objective if objective in fitting else fitting[0]
        said = {"objective": predicted, "beta_schedule": table.schedule, "timesteps": table.steps}
        options = {"objective": objective, "beta_schedule": beta_schedule, "timesteps": timesteps}
        for name, option in options.items():
            require(option in (None, said[name]), f"{path}: its buffers say {name} {said[name]}, not {option}")
    return Diffusion(
        schedule=table.schedule,
        schedule_options=table.schedule_options,
        steps=table.steps,
        kind=_KINDS[predicted],
        learned_variance=learned,
    )


def _table(name: str, T: int) -> Diffusion:
    ends = {"beta_start": 0.1 / T, "beta_end": 20 / T} if name == "linear" and T != 1000 else {}
    return Diffusion(schedule=name, schedule_options=ends, steps=T)


def _table_of(buffers: Mapping[str, Any], path: Path) -> Diffusion:
    """The table whose numbers all these are."""
    betas = buffers.get("betas")
    if not isinstance(betas, np.ndarray) or betas.ndim != 1 or not 0 < betas.size <= 10**6:
        raise InputError(f"{path}: a network within something that has no betas; expected a GaussianDiffusion")
    betas = betas.astype(np.float64)
    found = None
    for name in _TABLES:
        table = _table(name, betas.size)
        try:
            schedule = build.schedule(table)
        except InputError:  # a linear one of less than 21 steps
            continue
        if isinstance(schedule, Discrete) and np.allclose(betas, schedule.betas, rtol=_RTOL, atol=0):
            found, expected = table, _buffers(schedule)
            break
    if found is None:
        raise InputError(
            f"{path}: its {betas.size} betas, from {betas[0]:.6g} to {betas[-1]:.6g}, are not those of the tables "
            f"{', '.join(_TABLES)} with the owner's own settings, and no others are known here"
        )
    wrong = [n for n in expected if n not in buffers or not _close(buffers[n], expected[n])]
    left = sorted(set(buffers) - set(expected) - {"loss_weight"})
    if wrong or left:
        lines = [f"missing, or not what its betas make: {n}" for n in wrong] + [f"left over {n}" for n in left]
        raise InputError(f"{path}: not the buffers of a GaussianDiffusion:" + "".join(f"\n  {x}" for x in lines[:8]))
    return found


def _close(found: Any, expected: np.ndarray) -> bool:
    same_shape = isinstance(found, np.ndarray) and found.shape == expected.shape
    return same_shape and np.allclose(found.astype(np.float64), expected, rtol=_RTOL, atol=1e-7)


def _buffers(schedule: Discrete) -> dict[str, np.ndarray]:
    """What a `GaussianDiffusion` keeps of its table: beside betas and products the posterior q(x_{k-1} | x_k, x_0),
    DDPM's eq. 7."""
    betas, a = np.asarray(schedule.betas), schedule.alpha_bar
    before = np.concatenate([[1.0], a[:-1]])
    variance = betas * (1 - before) / (1 - a)
    return {
        "betas": betas,
        "alphas_cumprod": a,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(a),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - a),
        "log_one_minus_alphas_cumprod": np.log1p(-a),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / a),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / a - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - a),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - a),
    }


def _objectives(buffers: Mapping[str, Any], schedule: Any, path: Path) -> list[str]:
    """Whose loss weight it is: `min(snr, gamma)`, with or without a gamma, over `snr`, 1 or `snr + 1`."""
    weight = buffers.get("loss_weight")
    snr = schedule.alpha_bar / (1 - schedule.alpha_bar)
    over = {"pred_noise": snr, "pred_x0": np.ones_like(snr), "pred_v": snr + 1}
    fitting = []
    if isinstance(weight, np.ndarray) and weight.shape == snr.shape:
        for name, divisor in over.items():
            clipped = weight.astype(np.float64) * divisor
            if np.allclose(clipped, np.minimum(snr, clipped.max()), rtol=_RTOL, atol=0):
                fitting.append(name)
    require(bool(fitting), f"{path}: its loss_weight is missing, or that of none of the objectives {', '.join(over)}")
    return fitting


def _network(
    tensors: Mapping[str, Any], path: Path, theta: float, random_features: bool
) -> tuple[LucidrainsUNet, int, bool]:
    """The network, the number of channels of its pictures, and whether it learned the variance."""

    def shape(name: str, ndim: int) -> tuple[int, ...]:
        kind = "a Unet of denoising-diffusion-pytorch, its own for images, of a version with memory keys and values"
        return shape_of(tensors, name, path, ndim=ndim, expected=kind)

    first, channels = shape("init_conv.weight", 4)[:2]
    outputs = shape("final_conv.weight", 4)[0]
    if channels == 2 * outputs:
        raise InputError(f"{path}: {channels} channels in, {outputs} out: self_condition, which is not supported here")
    if outputs not in (channels, 2 * channels) or channels > 4:
        raise InputError(
            f"{path}: not a Unet that makes images from noise alone: {channels} channels in, {outputs} out (of 6 in, "
            "6 out, self_condition with a learned variance, which is not supported here)"
        )
    embedding = shape("time_mlp.1.weight", 2)[0]
    fourier = "time_mlp.0.weights" in tensors
    has = f"{path}: %s: its network has %s, and nothing that it could be of"
    require(fourier or not random_features, has % ("random_fourier_features", "sines of fixed frequencies"))
    set_theta = theta != LucidrainsUNet.max_period
    require(not (fourier and set_theta), has % ("sinusoidal_pos_emb_theta", "Fourier features"))
    levels = 1 + max((int(m[1]) for name in tensors if (m := re.match(r"downs\.(\d{1,3})\.", name))), default=0)
    unit = max(embedding // 4, 1)
    widths, memories, full = [], set(), []
    for level in range(levels):
        step = f"downs.{level}.3" + (".1" if level < levels - 1 else "")
        widths.append(shape(f"{step}.weight", 4)[0])
        linear = f"downs.{level}.2.to_out.0.weight" in tensors
        _, heads, *rest = shape(f"downs.{level}.2.mem_kv", 4)
        memories.add((heads, *(rest if linear else rest[::-1])))
        full += [] if linear else [level]
    if len(memories) > 1 or any(width % unit for width in widths):
        raise InputError(
            f"{path}: levels that differ in the heads of attention, or their size, or are no multiples of {unit} "
            f"channels: {sorted(memories)} heads, size and memories, {widths} channels"
        )
    ((heads, head_channels, kept),) = memories
    model = LucidrainsUNet(
        channels=unit,
        first_channels=first,
        multipliers=tuple(width // unit for width in widths),
        full_attention_levels=tuple(full),
        heads=heads,
        head_channels=head_channels,
        memories=kept,
        frequencies="fixed" if not fourier else "random" if random_features else "learned",
        fourier_channels=2 * shape("time_mlp.0.weights", 1)[0] if fourier else LucidrainsUNet.fourier_channels,
        max_period=float(theta),
        null_label=False,
    )
    return model, channels, outputs == 2 * channels


def _as_ours(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """With norms' gains as vectors, and memories as `[2, memories, heads, d]`."""
    found = {}
    for name, value in tensors.items():
        module, _, kind = name.rpartition(".")
        gain = kind == "g" and f"{module}.weight" not in tensors
        if gain and isinstance(value, np.ndarray) and value.shape == (1, value.size, 1, 1):
            found[f"{module}.weight"] = value.ravel()
        elif kind == "mem_kv" and isinstance(value, np.ndarray) and value.ndim == 4:
            linear = f"{module}.to_out.0.weight" in tensors
            found[name] = value.transpose((0, 3, 1, 2) if linear else (0, 2, 1, 3))
        else:
            found[name] = value
    return found


_BLOCK = {
    "conv1": "block1.proj",
    "norm1": "block1.norm",
    "conv2": "block2.proj",
    "norm2": "block2.norm",
    "emb": "mlp.1",
    "skip": "res_conv",
}


def _places(model: LucidrainsUNet) -> dict[str, Place]:
    """Where each module's parameters are."""
    last = len(model.multipliers) - 1
    names = {"time_0": "time_mlp.0", "time_1": "time_mlp.1", "time_2": "time_mlp.3", "conv_in": "init_conv"}
    places = {ours: Place((theirs,)) for ours, theirs in names.items()} | {"conv_out": Place(("final_conv",), ones=2)}
    residual = {"middle_0": "mid_block1", "middle_1": "mid_block2", "last": "final_res_block"}
    attentions = {"middle": ("mid_attn", True)}
    for level in range(last + 1):
        full = level in (model.full_attention_levels or ())
        for way, theirs in (("down", f"downs.{level}"), ("up", f"ups.{last - level}")):
            residual |= {f"{way}_{level}_{i}": f"{theirs}.{i}" for i in range(2)}
            attentions[f"{way}_{level}"] = (f"{theirs}.2", full)
            resampled = level < last if way == "down" else level > 0
            places[f"{way}_{level}"] = Place((f"{theirs}.3" + (".1" if resampled else ""),), ones=2)
    places |= block_places(residual, _BLOCK)
    for ours, (theirs, full) in attentions.items():
        out = f"{theirs}.to_out" + ("" if full else ".0")
        places[f"{ours}_attention"] = Place((theirs,))
        places[f"{ours}_attention/norm"] = Place((f"{theirs}.norm",))
        places[f"{ours}_attention/qkv"] = Place((f"{theirs}.to_qkv",), ones=2)
        places[f"{ours}_attention/out"] = Place((out,), ones=2)
        places[f"{ours}_attention/norm_out"] = Place((f"{theirs}.to_out.1",))
    return places

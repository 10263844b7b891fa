"""State dicts with EDM's names, made of the twin of DDPM++ and NCSN++: the arrays' order, labels, and what is predicted.

The names themselves are from memory, and proved by nothing here.
"""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_sde_twin import Twin
from trajectories import torch

from jaxdiff import pretrained

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
CASES = {
    "ddpm++": ({"blocks": 2}, "edm", 5),
    "ddpm++, vp": ({}, "vp", None),
    "ncsn++": ({"embedding": "fourier", "fir": True, "progressive_input": "residual"}, "edm", None),
    "ncsn++, skips": (
        {"embedding": "fourier", "fir": True, "progressive_input": "input_skip", "progressive": "output_skip"}, "ve", 3
    ),
}  # fmt: skip
PARTS = {"GroupNorm_0": "norm0", "Conv_0": "conv0", "Dense_0": "affine", "GroupNorm_1": "norm1", "Conv_1": "conv1"}


def blocks_of(s):
    """EDM's name of each module, in the order in which score_sde numbers them; attention is in its block."""
    last = len(s["multipliers"]) - 1
    at = [f"{s['size'] >> level}x{s['size'] >> level}" for level in range(last + 1)]
    attends = [s["size"] >> level in s["attention"] for level in range(last + 1)]
    if s["embedding"] == "fourier":
        yield "map_noise"
    yield from ("map_layer0", "map_layer1", f"enc.{at[0]}_conv")
    for level in range(last + 1):
        for i in range(s["blocks"]):
            yield from [f"enc.{at[level]}_block{i}"] * (1 + attends[level])
        if level < last:
            yield f"enc.{at[level + 1]}_down"
            if s["progressive_input"] == "input_skip":
                yield from (f"enc.{at[level + 1]}_aux_down", f"enc.{at[level + 1]}_aux_skip")
            elif s["progressive_input"] == "residual":
                yield f"enc.{at[level + 1]}_aux_residual"
    yield from [f"dec.{at[last]}_in0"] * 2 + [f"dec.{at[last]}_in1"]
    for level in reversed(range(last + 1)):
        yield from (f"dec.{at[level]}_block{i}" for i in range(s["blocks"] + 1))
        yield from [f"dec.{at[level]}_block{s['blocks']}"] * attends[level]
        if s["progressive"] == "output_skip" or level == 0:
            yield from [f"dec.{at[level]}_aux_up"] * (s["progressive"] != "none" and level < last)
            yield from (f"dec.{at[level]}_aux_norm", f"dec.{at[level]}_aux_conv")
        yield from [f"dec.{at[level - 1]}_up"] * (level > 0)


def renamed(twin):
    """The state dict with EDM's names: its attention by 1x1 convolutions, query, key and value of a channel together."""
    state = {}
    filtered = torch.ones(1, 1, 4, 4) / 16 if twin.s["fir"] else torch.ones(1, 1, 2, 2) / 4
    for module, name in zip(twin.all_modules, blocks_of(twin.s), strict=True):
        parts = dict(module.named_children())
        if name == "map_noise":
            state["map_noise.freqs"] = module.W
        elif "NIN_3" in parts:
            dense = [parts[f"NIN_{i}"] for i in range(4)]
            weights = torch.stack([d.W.T for d in dense[:3]], dim=1)  # [out, 3, in]
            state |= {f"{name}.norm2.{k}": v for k, v in parts["GroupNorm_0"].state_dict().items()}
            state[f"{name}.qkv.weight"] = weights.reshape(-1, weights.shape[2], 1, 1)
            state[f"{name}.qkv.bias"] = torch.stack([d.b for d in dense[:3]], dim=1).reshape(-1)
            state |= {f"{name}.proj.weight": dense[3].W.T[..., None, None], f"{name}.proj.bias": dense[3].b}
        elif "Dense_0" in parts:
            part_names = {**PARTS, "Conv_2": "skip"}
            for part, m in parts.items():
                state |= {f"{name}.{part_names[part]}.{k}": v for k, v in m.state_dict().items()}
            if name.endswith(("_up", "_down")):
                state |= {f"{name}.{part}.resample_filter": filtered for part in ("conv0", "skip")}
        else:
            only = parts.get("Conv_0") or parts.get("Conv2d_0") or module
            state |= {f"{name}.{k}": v for k, v in only.state_dict().items()}
            if name.endswith(("aux_up", "aux_down", "aux_residual")):
                state[f"{name}.resample_filter"] = filtered
    return {f"model.{name}": value.detach().clone() for name, value in state.items()}


@pytest.mark.parametrize("name", CASES)
def test_what_it_makes_of_a_noisy_picture(tmp_path, name):
    """D = c_skip x + c_out F by the formulas of the paper's table 1, with the twin for F, is our denoiser's x_0."""
    settings, precond, classes = CASES[name]
    twin = Twin(**settings)
    state = renamed(twin)
    rng = np.random.default_rng(0)
    labels, more = None, 0
    if classes:
        width = twin.all_modules[1 if settings.get("embedding") == "fourier" else 0].in_features
        matrix, bias = rng.standard_normal((width, classes)), rng.standard_normal(width)
        state |= {"model.map_label.weight": torch.tensor(matrix), "model.map_label.bias": torch.tensor(bias)}
        state["model.map_augment.weight"] = torch.randn(width, 9)
        labels = np.array([0, classes - 1, 1])
        more = torch.tensor(np.eye(classes)[labels] * classes**0.5 @ matrix.T + bias)
    torch.save(state, tmp_path / "net.pt")
    loaded = pretrained.load(tmp_path / "net.pt", precond=precond)
    assert loaded.spec == ((8, 8, 3), classes)

    sigma = np.array([0.03, 0.6, 12.0])
    c_noise = np.log(sigma) / 4
    root = np.hypot(sigma, 0.5)
    c_skip, c_out, c_in = 0.25 / root**2, 0.5 * sigma / root, 1 / root
    if precond == "vp":
        time = (np.sqrt(0.1**2 + 2 * 19.9 * np.log(sigma**2 + 1)) - 0.1) / 19.9
        c_skip, c_out, c_in, c_noise = 1 + 0 * sigma, -sigma, (sigma**2 + 1) ** -0.5, 999 * time
    elif precond == "ve":
        c_skip, c_out, c_in, c_noise = 1 + 0 * sigma, sigma, 1 + 0 * sigma, np.log(sigma / 2)
    x = rng.uniform(-1, 1, (3, 8, 8, 3)) + sigma[:, None, None, None] * rng.standard_normal((3, 8, 8, 3))
    c_skip, c_out, c_in = (c[:, None, None, None] for c in (c_skip, c_out, c_in))
    exact = copy.deepcopy(twin).double()
    with torch.no_grad():
        F = exact(torch.tensor(np.moveaxis(c_in * x, -1, 1)), torch.tensor(c_noise), more)
    F = np.moveaxis(F.numpy(), 1, -1)

    times = loaded.schedule.time_at_log_snr(jnp.asarray(-2 * np.log(sigma)))
    alpha = np.asarray(loaded.schedule.alpha(times))[:, None, None, None]
    denoise = jit(loaded.denoiser(None if labels is None else jnp.asarray(labels, jnp.int32)))
    x0 = np.asarray(denoise(jnp.asarray(alpha * x), times).x0)
    np.testing.assert_allclose((x0 - c_skip * x) / c_out, F, rtol=0, atol=1e-4 * np.abs(F).max())

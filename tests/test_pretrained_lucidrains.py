"""Import of lucidrains' networks without torch: his state dicts, what is round them, and what is refused."""

import dataclasses
from pathlib import Path

import chex
import numpy as np
import pytest
import torch_file
from test_pretrained import ours

from jaxdiff import InputError, build, pretrained, schedules
from jaxdiff.cli import sample_main
from jaxdiff.config import LucidrainsUNet
from jaxdiff.pretrained.lucidrains import _diffusion, _places
from jaxdiff.pretrained.matching import to_theirs

SMALL = LucidrainsUNet(
    channels=8, first_channels=8, multipliers=(1, 2), full_attention_levels=(1,), heads=2, head_channels=6,
    null_label=False,
)  # fmt: skip
SPEC = build.Spec((8, 8, 3), None)

# Of his own files, for a network of two levels, the second with full attention; (names, shapes).
NAMES = {
    "init_conv.weight": (8, 3, 7, 7), "time_mlp.1.weight": (32, 8), "time_mlp.3.bias": (32,),
    "downs.0.0.mlp.1.weight": (16, 32), "downs.0.0.block1.proj.weight": (8, 8, 3, 3),
    "downs.0.1.block2.norm.g": (1, 8, 1, 1), "downs.0.2.mem_kv": (2, 2, 6, 4), "downs.0.2.norm.g": (1, 8, 1, 1),
    "downs.0.2.to_qkv.weight": (36, 8, 1, 1), "downs.0.2.to_out.0.weight": (8, 12, 1, 1),
    "downs.0.2.to_out.1.g": (1, 8, 1, 1), "downs.0.3.1.weight": (8, 32, 1, 1), "downs.1.2.to_out.weight": (8, 12, 1, 1),
    "downs.1.3.weight": (16, 8, 3, 3), "ups.0.0.res_conv.weight": (16, 24, 1, 1), "ups.0.2.to_out.bias": (16,),
    "ups.0.3.1.weight": (8, 16, 3, 3), "ups.1.2.to_out.1.g": (1, 8, 1, 1), "ups.1.3.weight": (8, 8, 3, 3),
    "mid_block1.block1.proj.bias": (16,), "mid_attn.mem_kv": (2, 2, 4, 6), "mid_block2.block2.norm.g": (1, 16, 1, 1),
    "final_res_block.res_conv.weight": (8, 16, 1, 1), "final_conv.weight": (3, 8, 1, 1),
}  # fmt: skip


def theirs(there):
    """The state dict of his `Unet` with our network's parameters."""
    places = _places(there.config.model)
    gains = {f"{place.names[0]}.weight" for name, place in places.items() if "/norm" in name}
    tensors, found = to_theirs(there.params, places), {}
    for name, value in tensors.items():
        if name.endswith(".mem_kv"):  # his linear attention has channels before positions
            linear = f"{name.removesuffix('mem_kv')}to_out.0.weight" in tensors
            value = value.transpose((0, 2, 3, 1) if linear else (0, 2, 1, 3))
        if name in gains:
            name, value = name.removesuffix("weight") + "g", value.reshape(1, -1, 1, 1)
        found[name] = np.ascontiguousarray(value)
    return found


def buffers(betas, weigh=lambda snr: snr / (snr + 1)):
    """What his `GaussianDiffusion` registers, by its betas, from DDPM's eq. 4 and 7; pred_v's loss weight."""
    a = np.cumprod(1 - betas)
    before = np.append(1.0, a[:-1])
    variance = (1 - before) / (1 - a) * betas
    return {
        "betas": betas, "alphas_cumprod": a, "alphas_cumprod_prev": before, "sqrt_alphas_cumprod": a**0.5,
        "sqrt_one_minus_alphas_cumprod": (1 - a) ** 0.5, "log_one_minus_alphas_cumprod": np.log(1 - a),
        "sqrt_recip_alphas_cumprod": a**-0.5, "sqrt_recipm1_alphas_cumprod": (1 / a - 1) ** 0.5,
        "posterior_variance": variance, "posterior_log_variance_clipped": np.log(np.clip(variance, 1e-20, None)),
        "posterior_mean_coef1": before**0.5 * betas / (1 - a),
        "posterior_mean_coef2": (1 - betas) ** 0.5 * (1 - before) / (1 - a),
        "loss_weight": weigh(a / (1 - a)),
    }  # fmt: skip


def float32(tensors):
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def diffusion(net, betas=None, **options):
    """The state dict of a `GaussianDiffusion`; its table is the default, sigmoid."""
    betas = np.array(schedules.sigmoid().betas) if betas is None else betas
    return float32(buffers(betas, **options)) | {f"model.{name}": value for name, value in net.items()}


@pytest.fixture(scope="module")
def there():
    return ours(SMALL, SPEC)


@pytest.fixture(scope="module")
def net(there):
    return theirs(there)


@pytest.mark.parametrize(
    ("changes", "channels", "learned"),
    [
        ({}, 3, False),
        ({"first_channels": 6, "multipliers": (1, 2, 3), "full_attention_levels": (0, 2)}, 1, False),
        ({"full_attention_levels": (), "frequencies": "learned", "fourier_channels": 10, "memories": 3}, 3, True),
    ],
)
def test_a_state_dict_says_what_it_is(tmp_path, changes, channels, learned):
    model, spec = dataclasses.replace(SMALL, **changes), build.Spec((8, 8, channels), None)
    there = ours(model, spec, learned_variance=learned)
    tensors = theirs(there)
    if not changes:
        assert NAMES.items() <= {name: value.shape for name, value in tensors.items()}.items()
    torch_file.save(tmp_path / "m.pt", tensors)
    back = pretrained.load(tmp_path / "m.pt", image_size=8)
    assert back.config.model == model
    assert (back.spec, back.kind, back.schedule) == (spec, "eps" if learned else "v", schedules.sigmoid())
    assert back.config.sample.variance == ("learned_range" if learned else "fixed_small")
    chex.assert_trees_all_equal(back.params, there.params)


def test_what_a_bare_network_leaves_open_can_be_said(tmp_path, net):
    torch_file.save(tmp_path / "m.pt", net)
    back = pretrained.load(
        tmp_path / "m.pt", image_size=16, objective="pred_x0", beta_schedule="linear", timesteps=250,
        sinusoidal_pos_emb_theta=1000,
    )  # fmt: skip
    assert back.schedule == schedules.linear(250, beta_start=4e-4, beta_end=0.08)  # as much noise as of 1,000 steps
    assert (back.kind, back.config.model.max_period, back.spec.image_shape) == ("x0", 1000.0, (16, 16, 3))
    x = np.ones((1, 16, 16, 3), np.float32)
    told = back.network.apply(back.params, x, np.array([249], np.float32))  # k = 0..T - 1
    np.testing.assert_allclose(back.model()(x, np.float32(1)), told, rtol=1e-5, atol=1e-5)


TABLES = {
    "linear": np.linspace(1e-3, 0.2, 100),
    "cosine": np.array(schedules.cosine(1000).betas),
    "sigmoid": np.array(schedules.sigmoid(500).betas),
}
WEIGHTS = {
    "eps": lambda snr: np.minimum(snr, 5) / snr,
    "x0": lambda snr: np.minimum(snr, 5),
    "v": lambda snr: np.minimum(snr, 5) / (snr + 1),
}


@pytest.mark.parametrize("gamma", [False, True])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("name", TABLES)
def test_the_buffers_say_the_table_and_the_objective(name, kind, gamma):
    """With and without a bound (min_snr_loss_weight) on the loss's weight."""
    unbounded = {"eps": np.ones_like, "x0": lambda snr: snr, "v": lambda snr: snr / (snr + 1)}
    held = float32(buffers(TABLES[name], WEIGHTS[kind] if gamma else unbounded[kind]))
    found = _diffusion(held, Path("m.pt"), None, None, None, False)
    assert (found.schedule, found.steps, found.kind) == (name, len(TABLES[name]), kind)
    np.testing.assert_allclose(build.schedule(found).betas, TABLES[name], rtol=1e-6)


def test_a_diffusion_and_a_checkpoint_of_its_trainer(tmp_path, there, net):
    """Of a checkpoint the moving average is taken, unless it is asked for the other."""
    online = {name: value + 1 for name, value in net.items()}
    average = {"initted": np.array([1]), "step": np.array([700])}
    average |= {f"ema_model.{n}": v for n, v in diffusion(net).items()}
    average |= {f"online_model.{n}": v for n, v in diffusion(online).items()}
    optimiser = {"state": {0: {"step": np.array([3.0]), "exp_avg": np.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}
    checkpoint = {
        "step": 700, "model": diffusion(online), "opt": optimiser, "ema": average, "scaler": None, "version": "2.3.4",
    }  # fmt: skip
    for name, file in {"diffusion": diffusion(net), "average": average, "model-1": checkpoint}.items():
        torch_file.save(tmp_path / f"{name}.pt", file)
        back = pretrained.load(tmp_path / f"{name}.pt", image_size=8)
        assert (back.config.model, back.kind, back.schedule) == (SMALL, "v", schedules.sigmoid())
        chex.assert_trees_all_equal(back.params, there.params)
    back = pretrained.load(tmp_path / "model-1.pt", image_size=8, use_ema=False)
    np.testing.assert_array_equal(back.params["params"]["conv_in"]["bias"], online["init_conv.bias"])
    for file, message in [
        (checkpoint | {"more": 1}, "checkpoint with more than there should be: more"),
        ({n: v for n, v in checkpoint.items() if n != "ema"}, "checkpoint without ema; see the option use_ema"),
        (checkpoint | {"ema": average | {"more": 1}}, "moving average with more than there should be: more"),
    ]:
        torch_file.save(tmp_path / "m.pt", file)
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", image_size=8)


def test_buffers_that_are_not_known_are_refused(tmp_path, net):
    file = diffusion(net)
    for bad, message in [
        (diffusion(net, np.array(schedules.sigmoid(tau=0.7).betas)), "its 1000 betas, from .* are not those of the"),
        (diffusion(net, np.linspace(1e-4, 0.03, 1000)), "its 1000 betas, from 0.0001 to 0.03, are not those of the"),
        (diffusion(net, np.linspace(0.01, 0.9, 10)), "its 10 betas, from 0.01 to 0.9, are not those of the tables"),
        ({n: v for n, v in file.items() if n != "betas"}, "something that has no betas"),
        ({n: v for n, v in file.items() if n != "posterior_variance"}, "missing, or .*: posterior_variance"),
        (file | {"alphas_cumprod": file["alphas_cumprod"] * 1.01}, "not what its betas make: alphas_cumprod$"),
        (file | {"posterior_mean_coef1": np.zeros(7)}, "not what its betas make: posterior_mean_coef1$"),
        (file | {"p2_loss_weight": np.zeros(1000)}, "left over p2_loss_weight"),
        (file | {"betas": np.full(1000, np.nan)}, "its 1000 betas, from nan to nan, are not those"),
        (file | {"loss_weight": np.arange(1000.0)}, "loss_weight is missing, or that of none of the objectives"),
        ({n: v for n, v in file.items() if n != "loss_weight"}, "loss_weight is missing"),
    ]:
        torch_file.save(tmp_path / "m.pt", bad)
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", image_size=8)
    torch_file.save(tmp_path / "m.pt", file)
    for options, message in [
        ({"objective": "pred_noise"}, "its buffers say objective pred_v, not pred_noise"),
        ({"beta_schedule": "cosine"}, "its buffers say beta_schedule sigmoid, not cosine"),
        ({"timesteps": 500}, "its buffers say timesteps 1000, not 500"),
    ]:
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", image_size=8, **options)


def without(tensors, part):
    return {name: value for name, value in tensors.items() if part not in name}


def test_other_networks_are_refused(tmp_path, net):
    twice = np.zeros((2, 4, 4, 3), np.float32)
    for bad, message in [
        (net | {"init_conv.weight": np.zeros((8, 6, 7, 7))}, "6 channels in, 3 out: self_condition, which is not"),
        (
            net | {"init_conv.weight": np.zeros((8, 6, 7, 7)), "final_conv.weight": np.zeros((6, 8, 1, 1))},
            "6 channels in, 6 out .* self_condition with a learned variance",
        ),
        (net | {"init_conv.weight": np.zeros((8, 3, 7))}, r"init_conv.weight is \(8, 3, 7\), expected 4 dimensions"),
        (without(net, "mem_kv"), "no downs.0.2.mem_kv in it; expected .* a version with memory keys and values"),
        (net | {"downs.1.2.mem_kv": twice}, "levels that differ in the heads of attention"),
        (net | {"mid_attn.mem_kv": twice}, r"mid_attn.mem_kv is \(2, 4, 4, 3\), expected \(2, 4, 2, 6\)"),
        (net | {"init_conv.weight": np.zeros((8, 3, 3, 3))}, r"init_conv.weight is \(8, 3, 3, 3\), expected"),
        (net | {"classes_emb.weight": np.zeros((10, 8))}, "left over classes_emb.weight"),
        (net | {"mid_attn.norm.weight": np.zeros(16)}, "left over mid_attn.norm.g"),
        (without(net, "ups.1.1.block2.norm"), "missing ups.1.1.block2.norm.weight"),
        (net | {"downs.7.0.mlp.1.weight": np.zeros(1)}, "no downs.1.3.1.weight in it"),
        (net | {"init_conv.bias": np.full(8, np.inf, np.float32)}, "init_conv.bias has values that are not finite"),
        ({"net": net}, "no init_conv.weight in it"),
    ]:
        torch_file.save(tmp_path / "m.pt", bad)
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", image_size=8)
    torch_file.save(tmp_path / "m.pt", net)
    for options, message in [
        ({}, "weights of lucidrains.* do not say their image_size: give the option image_size"),
        ({"image_size": 9}, "describes no network: .* divisible by 2; got 9x9"),
        ({"image_size": 8, "objective": "noise"}, "unknown objective 'noise'; expected one of pred_noise, pred_x0"),
        ({"image_size": 8, "beta_schedule": "tanh"}, "unknown beta_schedule 'tanh'; expected one of linear, cosine"),
        ({"image_size": 8, "timesteps": 0}, "timesteps: expected a whole number, at least 1, got 0"),
        ({"image_size": 8, "sinusoidal_pos_emb_theta": "long"}, "sinusoidal_pos_emb_theta: expected a number"),
        ({"image_size": 8, "sinusoidal_pos_emb_theta": -1}, "--model.max_period -1.0: expected a positive number"),
        ({"image_size": 8, "use_ema": "no"}, "use_ema: expected true or false, got 'no'"),
        ({"image_size": 8, "random_fourier_features": True}, "random_fourier_features: its network has sines of fixed"),
    ]:
        with pytest.raises(InputError, match=message):
            pretrained.load(tmp_path / "m.pt", **options)


def test_options_that_a_file_contradicts_are_refused(tmp_path):
    """What would otherwise be ignored."""
    spec = build.Spec((8, 8, 3), None)
    torch_file.save(tmp_path / "f.pt", theirs(ours(dataclasses.replace(SMALL, frequencies="learned"), spec)))
    with pytest.raises(InputError, match="sinusoidal_pos_emb_theta: its network has Fourier features"):
        pretrained.load(tmp_path / "f.pt", image_size=8, sinusoidal_pos_emb_theta=500)
    torch_file.save(tmp_path / "v.pt", theirs(ours(SMALL, spec, learned_variance=True)))
    with pytest.raises(InputError, match="learned variance .* objective pred_noise, not pred_v"):
        pretrained.load(tmp_path / "v.pt", image_size=8, objective="pred_v")


def test_diffusers_has_no_such_network(tmp_path, there):
    with pytest.raises(InputError, match="kind lucidrains: only a unet can be exported"):
        pretrained.save_diffusers(tmp_path / "net", there)


@pytest.mark.usefixtures("standard_promotion")
def test_sample_py_samples_it_at_once(tmp_path, net):
    torch_file.save(tmp_path / "m.pt", diffusion(net))
    out = tmp_path / "p.npz"
    options = ["--pretrained-options", "image_size", "8", "--num", "2", "--steps", "2", "--out", str(out)]
    sample_main(["--pretrained", str(tmp_path / "m.pt"), *options])
    with np.load(out) as file:
        assert (file["images"].shape, file["images"].dtype) == ((2, 8, 8, 3), np.uint8)

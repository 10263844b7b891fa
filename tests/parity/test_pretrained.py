"""Networks imported from diffusers and torch against the originals, with random weights, norms and biases."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trajectories import diffusers, torch

from jaxdiff import InputError, pretrained, sample, samplers, timesteps
from jaxdiff.pretrained import guided_diffusion

NARROW = {"block_out_channels": (32, 64), "norm_num_groups": 16, "sample_size": 16, "layers_per_block": 1}
CONVOLUTIONS = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
BLOCKS = {
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
}
ADM = {
    **NARROW, **BLOCKS, "resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 16, "num_class_embeds": 5,
    "out_channels": 6, "attention_head_dim": 16, "flip_sin_to_cos": True, "freq_shift": 0,
}  # fmt: skip
NETWORKS = {
    "ddpm": {
        **NARROW, **CONVOLUTIONS, "attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1,
        "downsample_padding": 0, "norm_eps": 1e-6,
    },
    "defaults": {**NARROW, **CONVOLUTIONS},
    "rectangle": {**NARROW, **CONVOLUTIONS, "sample_size": (8, 12), "add_attention": False, "in_channels": 1, "out_channels": 1},
    "attention everywhere": {
        **NARROW, "block_out_channels": (32, 32, 96), "layers_per_block": 2, "attention_head_dim": 8,
        "down_block_types": ("AttnDownBlock2D",) * 3, "up_block_types": ("AttnUpBlock2D",) * 3,
    },
    "one channel a group": {**NARROW, **CONVOLUTIONS, "norm_num_groups": 32},
    "adm": ADM,
}  # fmt: skip


def original(arguments, seed=0):
    """A network of diffusers, none of whose parameters is special."""
    torch.manual_seed(seed)
    net = diffusers.UNet2DModel(**arguments)
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn_like(parameter) / fan**0.5 + (parameter.ndim == 1) * 0.5)
    return net.eval()


def inputs(net, batch=3):
    rng = np.random.default_rng(1)
    size = net.config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    x = rng.standard_normal((batch, height, width, net.config.in_channels))
    labels = np.array([0, 3, 4]) if net.config.num_class_embeds else None
    return x, np.array([0, 37, 999]), labels


def embedding(net):
    """diffusers' positional embedding in float64: its own is in float32, whatever the network is in."""

    def forward(k):
        half = net.time_proj.num_channels // 2
        frequencies = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - net.config.freq_shift))
        waves = [torch.sin(k[:, None] * frequencies), torch.cos(k[:, None] * frequencies)]
        return torch.cat(waves[::-1] if net.config.flip_sin_to_cos else waves, dim=1)

    return forward


def of_torch(net):
    """The output in float64, and the gradient in x of its product with a cotangent."""
    x, k, labels = inputs(net)
    net = copy.deepcopy(net).to(torch.float64)
    net.time_proj.forward = embedding(net)
    at = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    y = net(at, torch.tensor(k), None if labels is None else torch.tensor(labels)).sample
    y.mul(torch.tensor(np.moveaxis(cotangent(net), -1, 1))).sum().backward()
    return np.moveaxis(y.detach().numpy(), 1, -1), np.moveaxis(at.grad.numpy(), 1, -1)


def cotangent(net):
    x, _, _ = inputs(net)
    return np.random.default_rng(2).standard_normal((*x.shape[:-1], net.config.out_channels))


def of_jax(net, loaded, dtype):
    x, k, labels = inputs(net)
    cond = {} if labels is None else {"label": jnp.asarray(labels, jnp.int32)}
    network = loaded.network.clone(dtype=dtype)
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), loaded.params)

    def product(x):
        y = network.apply(params, x, jnp.asarray(k, dtype), cond)
        return jnp.sum(y * jnp.asarray(cotangent(net), dtype)), y

    gradient, y = jax.jit(jax.grad(product, has_aux=True))(jnp.asarray(x, dtype))
    return np.asarray(y), np.asarray(gradient)


def agree(net, loaded):
    exact = of_torch(net)
    compare(of_jax(net, loaded, jnp.float64), exact, 1e-10)
    compare(of_jax(net, loaded, jnp.float32), exact, 1e-5)


def compare(ours, theirs, tolerance):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_diffusers(tmp_path, name):
    net = original(NETWORKS[name])
    net.save_pretrained(tmp_path)
    agree(net, pretrained.load(tmp_path))


def test_weights_in_a_bin_file_of_torch(tmp_path):
    net = original(NETWORKS["ddpm"])
    net.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.glob("*.safetensors"))
    agree(net, pretrained.load(tmp_path))


def test_old_names_of_attention(tmp_path):
    """As google/ddpm-cifar10-32 has them: query, key, value, proj_attn."""
    net = original(NETWORKS["ddpm"])
    net.save_pretrained(tmp_path, safe_serialization=False)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name):
        for new, name_then in old.items():
            name = name.replace(f".{new}.", f".{name_then}.")
        return name

    weights = {renamed(name): tensor for name, tensor in net.state_dict().items()}
    assert "mid_block.attentions.0.proj_attn.bias" in weights
    torch.save(weights, tmp_path / "diffusion_pytorch_model.bin")
    agree(net, pretrained.load(tmp_path))


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back_is_bitwise(tmp_path, name):
    """diffusers -> jaxdiff -> diffusers: the same arguments, the same bits."""
    net = original(NETWORKS[name])
    net.save_pretrained(tmp_path / "there")
    pretrained.save_diffusers(tmp_path / "back", pretrained.load(tmp_path / "there"))
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "back").eval()
    assert again.state_dict().keys() == net.state_dict().keys()
    for parameter, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[parameter], value), parameter
    x, k, labels = inputs(net)
    at = (
        torch.tensor(np.moveaxis(x, -1, 1), dtype=torch.float32),
        torch.tensor(k),
        None if labels is None else torch.tensor(labels),
    )
    with torch.no_grad():
        assert torch.equal(again(*at).sample, net(*at).sample)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction", "clip_sample": False},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "sample"},
        {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "num_train_timesteps": 200},
        {"variance_type": "fixed_large"},
    ],
)
def test_schedulers(tmp_path, arguments):
    """The table is theirs, and goes back to it."""
    original(NETWORKS["ddpm"]).save_pretrained(tmp_path / "unet")
    scheduler = diffusers.DDPMScheduler(**arguments)
    scheduler.save_pretrained(tmp_path / "scheduler")
    loaded = pretrained.load(tmp_path)
    np.testing.assert_allclose(
        loaded.schedule.alpha_bar, scheduler.alphas_cumprod.double().numpy(), rtol=1e-4, atol=1e-8
    )
    assert loaded.kind == {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}[scheduler.config.prediction_type]
    assert loaded.config.sample.clip == scheduler.config.clip_sample
    assert loaded.config.sample.variance == scheduler.config.variance_type
    pretrained.save_diffusers(tmp_path / "back", loaded)
    again = diffusers.DDPMScheduler.from_pretrained(tmp_path / "back")
    assert {n: v for n, v in again.config.items() if n[0] != "_"} == {
        n: v for n, v in scheduler.config.items() if n[0] != "_"
    }


def test_ten_steps_of_ddim_are_those_of_diffusers(tmp_path):
    net = original({**NETWORKS["ddpm"], "sample_size": 8})
    net.save_pretrained(tmp_path)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    x = np.random.default_rng(3).standard_normal((2, 8, 8, 3)).astype(np.float32)
    at = torch.tensor(np.moveaxis(x, -1, 1))
    with torch.no_grad():
        for t in scheduler.timesteps:
            at = scheduler.step(net(at, t).sample, t, at).prev_sample
    loaded = pretrained.load(tmp_path)
    denoise = loaded.denoiser()
    ours = sample(
        jax.random.key(0), denoise, samplers.DDIM(loaded.schedule), timesteps.trailing(10, T=1000), jnp.asarray(x)
    )
    theirs = np.moveaxis(at.numpy(), 1, -1)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


# guided-diffusion's network is the same as diffusers' with these arguments, under other names. It has 32 groups.
ADM_32 = {**ADM, "norm_num_groups": 32, "attn_norm_num_groups": 32}
GUIDED = {
    "adm": (ADM_32, {"num_head_channels": 16}),
    "adm, new order": (ADM_32, {"num_head_channels": 16, "use_new_attention_order": True}),
    "three levels": (
        {**ADM_32, "block_out_channels": (32, 64, 64), "layers_per_block": 2, "num_class_embeds": None,
         "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
         "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")},
        {"num_head_channels": 16},
    ),
    "improved": (
        {**NARROW, **CONVOLUTIONS, "attention_head_dim": None, "norm_num_groups": 32},
        {"num_heads": 1, "noise_schedule": "cosine"},
    ),
}  # fmt: skip


def guided_names(net, *, new_order):
    """The state dict of guided-diffusion, walked as its constructor numbers its blocks."""
    theirs, made = net.state_dict(), {}
    block = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
             "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip

    def move(old, new):
        for kind in ("weight", "bias"):
            if f"{old}.{kind}" in theirs:
                made[f"{new}.{kind}"] = theirs[f"{old}.{kind}"]

    def resnet(old, new):
        for part, name in block.items():
            move(f"{old}.{part}", f"{new}.{name}")

    def attention(old, new):
        move(f"{old}.group_norm", f"{new}.norm")
        for kind in ("weight", "bias"):
            parts = [theirs[f"{old}.to_{part}.{kind}"] for part in "qkv"]
            if not new_order:  # each head has its q, k and v together
                heads = len(parts[0]) // net.config.attention_head_dim if net.config.attention_head_dim else 1
                parts = [piece for head in zip(*(part.chunk(heads) for part in parts)) for piece in head]
            joined = torch.cat(parts)
            made[f"{new}.qkv.{kind}"] = joined[..., None] if kind == "weight" else joined
        made[f"{new}.proj_out.weight"] = theirs[f"{old}.to_out.0.weight"][..., None]
        made[f"{new}.proj_out.bias"] = theirs[f"{old}.to_out.0.bias"]

    def resampler(old, new, conv):
        if f"{old}.norm1.weight" in theirs:
            resnet(old, new)
        else:
            move(f"{old}.conv", f"{new}.{conv}")

    move("time_embedding.linear_1", "time_embed.0")
    move("time_embedding.linear_2", "time_embed.2")
    move("class_embedding", "label_emb")
    move("conv_in", "input_blocks.0.0")
    n = 1
    for down in range(len(net.down_blocks)):
        for i in range(len(net.down_blocks[down].resnets)):
            resnet(f"down_blocks.{down}.resnets.{i}", f"input_blocks.{n}.0")
            if getattr(net.down_blocks[down], "attentions", None):
                attention(f"down_blocks.{down}.attentions.{i}", f"input_blocks.{n}.1")
            n += 1
        if down < len(net.down_blocks) - 1:
            resampler(f"down_blocks.{down}.downsamplers.0", f"input_blocks.{n}.0", "op")
            n += 1
    resnet("mid_block.resnets.0", "middle_block.0")
    attention("mid_block.attentions.0", "middle_block.1")
    resnet("mid_block.resnets.1", "middle_block.2")
    n = 0
    for up in range(len(net.up_blocks)):
        attends = bool(getattr(net.up_blocks[up], "attentions", None))
        for i in range(len(net.up_blocks[up].resnets)):
            resnet(f"up_blocks.{up}.resnets.{i}", f"output_blocks.{n}.0")
            if attends:
                attention(f"up_blocks.{up}.attentions.{i}", f"output_blocks.{n}.1")
            n += 1
        if up < len(net.up_blocks) - 1:
            resampler(f"up_blocks.{up}.upsamplers.0", f"output_blocks.{n - 1}.{1 + attends}", "conv")
    move("conv_norm_out", "out.0")
    move("conv_out", "out.2")
    assert sum(v.numel() for v in made.values()) == sum(v.numel() for v in theirs.values())
    return made


@pytest.mark.parametrize("name", GUIDED)
def test_a_state_dict_of_guided_diffusion(tmp_path, name):
    arguments, options = GUIDED[name]
    net = original(arguments)
    torch.save(guided_names(net, new_order=options.get("use_new_attention_order", False)), tmp_path / "m.pt")
    loaded = pretrained.load(tmp_path / "m.pt", image_size=16, **options)
    agree(net, loaded)
    assert loaded.config.diffusion.learned_variance == (net.config.out_channels == 6)


def test_levels_that_resample_without_parameters(tmp_path):
    """conv_resample=False: numbers are left out, and nothing else says that there are levels."""
    net = original(GUIDED["improved"][0])
    weights = {n: v for n, v in guided_names(net, new_order=False).items() if ".op." not in n and ".conv." not in n}
    torch.save(weights, tmp_path / "m.pt")
    found = guided_diffusion.load_guided_diffusion(tmp_path / "m.pt", image_size=16, num_heads=1).config.model
    assert (found.multipliers, found.blocks, found.resample_conv, found.resample_in_block) == ((1, 2), 1, False, False)


def test_torch_s_own_files_are_read_as_torch_reads_them(tmp_path):
    tensors = {
        "a": torch.randn(3, 4),
        "transposed": torch.randn(3, 4).T,
        "part": torch.randn(10)[2:7:2],
        "bf16": torch.randn(5).bfloat16(),
        "half": torch.randn(5).half(),
        "count": torch.arange(4),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "empty": torch.zeros(0, 3),
    }
    tensors["shared"] = tensors["a"][1]
    for form in ({"pickle_protocol": 2}, {"pickle_protocol": 4}, {"_use_new_zipfile_serialization": False}):
        torch.save({"model": tensors, "step": 7}, tmp_path / "m.pt", **form)
        found = pretrained.read_weights(tmp_path / "m.pt")
        assert found["step"] == 7
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found["model"][name].astype(np.float64), tensor.detach().double().numpy())
            assert found["model"][name].dtype.name == str(tensor.dtype).removeprefix("torch.")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({"a": np.zeros(2)}))
    with pytest.raises(InputError, match="a bare pickle"):
        pretrained.read_weights(tmp_path / "bare.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(InputError, match="it calls for torch.nn.modules.linear.Linear"):
        pretrained.read_weights(tmp_path / "module.pt")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    torch.save(net.state_dict(), tmp_path / "m.pt")  # with the versions of its modules
    found = pretrained.read_weights(tmp_path / "m.pt")
    assert found.keys() == net.state_dict().keys()

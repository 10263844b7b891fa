"""DiT imported from diffusers, and from the original's state dict, against diffusers' with random weights and biases."""

import copy
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_pretrained import compare
from trajectories import diffusers, torch

from jaxdiff import InputError, pretrained

SMALL = {
    "num_layers": 3,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_embeds_ada_norm": 5,
    "sample_size": 8,
}
NETWORKS = {
    "latents": {**SMALL, "in_channels": 4, "out_channels": 8},
    "pixels": {**SMALL, "in_channels": 3, "patch_size": 4, "attention_head_dim": 24, "norm_eps": 1e-4},
}


def original(arguments, *, like_the_papers=False):
    """A network of diffusers, none of whose parameters is special; or one with the frequencies and the eps of the paper's
    code."""
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(**arguments)
    first = net.transformer_blocks[0].norm1.emb
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn_like(parameter) / fan**0.5 + (parameter.ndim == 1) * 0.5)
        for block in net.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(first.state_dict())
    for block in net.transformer_blocks if like_the_papers else ():
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return net.eval()


def positions(side, width):
    """The fixed positions in float64; diffusers' own are in float32, whatever the network is in."""
    omega = 10_000.0 ** -(np.arange(width // 4) / (width // 4))
    row, column = np.divmod(np.arange(side * side), side)
    return np.concatenate([f(p[:, None] * omega) for p in (column, row) for f in (np.sin, np.cos)], axis=1)[None]


def embedding(shift):
    """diffusers' embedding of time in float64, likewise."""

    def forward(k):
        angles = k[:, None] * 10_000.0 ** (-torch.arange(128, dtype=torch.float64) / (128 - shift))
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)

    return forward


def inputs(net):
    rng = np.random.default_rng(1)
    c, size = net.config, net.config.sample_size
    cotangent = rng.standard_normal((3, size, size, c.out_channels or c.in_channels))
    return rng.standard_normal((3, size, size, c.in_channels)), np.array([0, 37, 999]), np.array([0, 3, 5]), cotangent


def agree(net, loaded):
    """Outputs, and the gradients in x of their products with a cotangent."""
    x, k, labels, cotangent = inputs(net)
    exact = copy.deepcopy(net).to(torch.float64)
    c = exact.config
    side, width = c.sample_size // c.patch_size, c.num_attention_heads * c.attention_head_dim
    np.testing.assert_allclose(exact.pos_embed.pos_embed, positions(side, width), atol=1e-7)
    exact.pos_embed.pos_embed = torch.tensor(positions(side, width))
    for block in exact.transformer_blocks:
        time = block.norm1.emb.time_proj
        time.forward = embedding(time.downscale_freq_shift)
    at = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    y = exact(at, torch.tensor(k), torch.tensor(labels)).sample
    y.mul(torch.tensor(np.moveaxis(cotangent, -1, 1))).sum().backward()
    theirs = [np.moveaxis(a.numpy(), 1, -1) for a in (y.detach(), at.grad)]

    def ours(dtype):
        network, params = (
            loaded.network.clone(dtype=dtype),
            jax.tree.map(lambda p: jnp.asarray(p, dtype), loaded.params),
        )

        def product(x):
            y = network.apply(params, x, jnp.asarray(k, dtype), {"label": jnp.asarray(labels, jnp.int32)})
            return jnp.sum(y * jnp.asarray(cotangent, dtype)), y

        gradient, y = jax.jit(jax.grad(product, has_aux=True))(jnp.asarray(x, dtype))
        return np.asarray(y), np.asarray(gradient)

    compare(ours(jnp.float64), theirs, 1e-10)
    compare(ours(jnp.float32), theirs, 1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_diffusers(tmp_path, name):
    net = original(NETWORKS[name])
    net.save_pretrained(tmp_path)
    loaded = pretrained.load(tmp_path)
    agree(net, loaded)
    assert loaded.latents == (name == "latents")
    assert loaded.config.diffusion.learned_variance == (name == "latents")


def test_a_pipeline_s_folder_with_the_older_name(tmp_path):
    """As facebook/DiT-XL-2-256 is: a transformer and a scheduler beside the autoencoder."""
    net = original(NETWORKS["latents"])
    net.save_pretrained(tmp_path / "transformer", safe_serialization=False)
    older = diffusers.Transformer2DModel(**NETWORKS["latents"], patch_size=2, norm_type="ada_norm_zero", attention_bias=True,
                                         activation_fn="gelu-approximate", norm_elementwise_affine=False)  # fmt: skip
    older.save_config(tmp_path / "transformer")
    assert json.loads((tmp_path / "transformer" / "config.json").read_text())["_class_name"] == "Transformer2DModel"
    (tmp_path / "vae").mkdir()
    diffusers.DDIMScheduler(clip_sample=False, num_train_timesteps=500).save_pretrained(tmp_path / "scheduler")
    for folder in (tmp_path, tmp_path / "transformer"):
        loaded = pretrained.load(folder)
        assert loaded.schedule.T == 500
        assert loaded.latents
    agree(net, loaded)


def test_blocks_with_embeddings_of_their_own_are_refused(tmp_path):
    net = original(NETWORKS["latents"])
    with torch.no_grad():
        net.transformer_blocks[2].norm1.emb.timestep_embedder.linear_2.bias[3] += 1e-6
    net.save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"blocks.2.norm1.emb.timestep_embedder.linear_2.bias differs from that of the"
    ):
        pretrained.load(tmp_path)


NAMES = {
    "pos_embed.proj": "x_embedder.proj",
    "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "transformer_blocks.0.norm1.emb.class_embedder.embedding_table": "y_embedder.embedding_table",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
BLOCK = {"norm1.linear": "adaLN_modulation.1", "attn1.to_out.0": "attn.proj", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2"}  # fmt: skip


def original_names(net):
    """The state dict of the paper's code."""
    theirs, names = net.state_dict(), dict(NAMES)
    made = {"pos_embed": net.pos_embed.pos_embed}
    for i in range(len(net.transformer_blocks)):
        names |= {f"transformer_blocks.{i}.{old}": f"blocks.{i}.{new}" for old, new in BLOCK.items()}
        for kind in ("weight", "bias"):
            parts = [theirs[f"transformer_blocks.{i}.attn1.to_{part}.{kind}"] for part in "qkv"]
            made[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    made |= {
        f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": v
        for n, v in theirs.items()
        if n.rpartition(".")[0] in names
    }
    copies = sum(v.numel() for n, v in theirs.items() if ".norm1.emb." in n and ".0.norm1" not in n)
    assert (
        sum(v.numel() for v in made.values())
        == sum(v.numel() for v in theirs.values()) - copies + made["pos_embed"].numel()
    )
    return made


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict_of_the_original(tmp_path, name):
    net = original(NETWORKS[name] | {"norm_eps": 1e-6}, like_the_papers=True)
    torch.save(original_names(net), tmp_path / "m.pt")
    loaded = pretrained.load(tmp_path / "m.pt", num_heads=2, num_classes=5)
    assert loaded.spec == ((8, 8, net.config.in_channels), 5)
    agree(net, loaded)

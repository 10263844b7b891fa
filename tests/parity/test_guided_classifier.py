"""Classifiers of guided-diffusion against a twin in torch, written from the architecture's description, whose modules
have the names of its state dicts."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trajectories import torch

from jaxdiff.pretrained import load_guided_classifier

nn, functional = torch.nn, torch.nn.functional


def normalisation(channels):
    return nn.GroupNorm(32, channels)


class Residual(nn.Module):
    """ADM's block: the embedding scales and shifts the second norm, or (DDPM) is added; halved inside, if it is."""

    def __init__(self, inputs, channels, embedding, *, scale_shift, half=False):
        super().__init__()
        self.scale_shift, self.half = scale_shift, half
        self.in_layers = nn.Sequential(normalisation(inputs), nn.SiLU(), nn.Conv2d(inputs, channels, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, (1 + scale_shift) * channels))
        self.out_layers = nn.Sequential(
            normalisation(channels), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(channels, channels, 3, padding=1)
        )
        if inputs != channels:
            self.skip_connection = nn.Conv2d(inputs, channels, 1)

    def forward(self, x, emb):
        norm, silu, conv = self.in_layers
        h = silu(norm(x))
        if self.half:
            h, x = (functional.avg_pool2d(y, 2) for y in (h, x))
        h, emb = conv(h), self.emb_layers(emb)[..., None, None]
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        for layer in rest:
            h = layer(h)
        return (self.skip_connection(x) if hasattr(self, "skip_connection") else x) + h


class Strided(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, emb):
        return self.op(x)


def attend(q, k, v):
    """Each `[B, heads, size, positions]`."""
    weights = torch.softmax(torch.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(q.shape[2]), dim=-1)
    return torch.einsum("bhqk,bhck->bhcq", weights, v).flatten(1, 2)


class SelfAttention(nn.Module):
    def __init__(self, channels, size, *, new_order):
        super().__init__()
        self.heads, self.new_order = channels // size, new_order
        self.norm, self.qkv = normalisation(channels), nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, emb):
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:  # first of all q, k or v, then of heads
            q, k, v = qkv.unflatten(1, (3, self.heads, -1)).unbind(1)
        else:
            q, k, v = qkv.unflatten(1, (self.heads, 3, -1)).unbind(2)
        return x + self.proj_out(attend(q, k, v)).reshape(x.shape)


class Pool(nn.Module):
    """The mean is a token beside the positions, and its output the pool's. Queries, keys, values: the new order."""

    def __init__(self, positions, channels, size, outputs):
        super().__init__()
        self.heads = channels // size
        self.positional_embedding = nn.Parameter(torch.zeros(channels, positions + 1))
        self.qkv_proj, self.c_proj = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, outputs, 1)

    def forward(self, x):
        x = x.flatten(2)
        x = torch.cat([x.mean(-1, keepdim=True), x], dim=-1) + self.positional_embedding
        q, k, v = self.qkv_proj(x).unflatten(1, (3, self.heads, -1)).unbind(1)
        return self.c_proj(attend(q, k, v))[..., 0]


class Twin(nn.Module):
    def __init__(
        self, *, pool, size=16, channels=32, multipliers=(1, 2), depth=1, attention=(8,), head=16, classes=5,
        updown=True, scale_shift=True, new_order=False,
    ):  # fmt: skip
        super().__init__()
        self.channels, self.pool, embedding = channels, pool, 4 * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(3, channels, 3, padding=1)])])
        width, features = channels, channels
        for level, multiplier in enumerate(multipliers):
            for _ in range(depth):
                layers = [Residual(width, multiplier * channels, embedding, scale_shift=scale_shift)]
                width = multiplier * channels
                if size in attention:
                    layers.append(SelfAttention(width, head, new_order=new_order))
                self.input_blocks.append(nn.ModuleList(layers))
                features += width
            if level < len(multipliers) - 1:
                half = (
                    Residual(width, width, embedding, scale_shift=scale_shift, half=True) if updown else Strided(width)
                )
                self.input_blocks.append(nn.ModuleList([half]))
                size, features = size // 2, features + width
        features += width
        around = (Residual(width, width, embedding, scale_shift=scale_shift) for _ in range(2))
        first, last = around
        self.middle_block = nn.ModuleList([first, SelfAttention(width, head, new_order=new_order), last])
        self.out = nn.Sequential(*{
            "attention": lambda: [normalisation(width), nn.SiLU(), Pool(size**2, width, head, classes)],
            "adaptive": lambda: [normalisation(width), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, classes, 1), nn.Flatten()],
            "spatial": lambda: [nn.Linear(features, 2048), nn.ReLU(), nn.Linear(2048, classes)],
            "spatial_v2": lambda: [nn.Linear(features, 2048), normalisation(2048), nn.SiLU(), nn.Linear(2048, classes)],
        }[pool]())  # fmt: skip

    def forward(self, x, k):
        half = self.channels // 2
        angles = k[:, None] * 10_000.0 ** (-torch.arange(half, dtype=k.dtype) / half)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        means, h = [], self.input_blocks[0][0](x)
        means.append(h.mean((2, 3)))
        for layers in self.input_blocks[1:]:
            for layer in layers:
                h = layer(h, emb)
            means.append(h.mean((2, 3)))
        for layer in self.middle_block:
            h = layer(h, emb)
        means.append(h.mean((2, 3)))
        return self.out(torch.cat(means, dim=1) if self.pool.startswith("spatial") else h)


CASES = {
    "attention": ({"pool": "attention"}, {}),
    "new order": ({"pool": "attention", "new_order": True}, {"use_new_attention_order": True}),
    "three levels": ({"pool": "attention", "multipliers": (1, 1, 2), "depth": 2, "attention": (8, 4)}, {}),
    "adaptive": ({"pool": "adaptive"}, {}),
    "spatial": ({"pool": "spatial", "attention": ()}, {"classifier_depth": 1}),
    "spatial_v2": ({"pool": "spatial_v2", "scale_shift": False}, {}),
    "strided": ({"pool": "attention", "updown": False, "attention": ()}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_logits_and_their_gradients(tmp_path, name):
    """Every bias and norm random; in float32 and float64."""
    arguments, options = CASES[name]
    torch.manual_seed(0)
    twin = Twin(**arguments)
    with torch.no_grad():
        for parameter in twin.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 4
            parameter.copy_(torch.randn_like(parameter) / fan**0.5 + (parameter.ndim == 1) * 0.5)
    torch.save(twin.state_dict(), tmp_path / "c.pt")
    loaded = load_guided_classifier(tmp_path / "c.pt", num_head_channels=16, **options)
    assert loaded.image_size == (16 if arguments["pool"] == "attention" else None)

    rng = np.random.default_rng(0)
    x, k, cotangent = rng.standard_normal((3, 16, 16, 3)), np.array([0.0, 37, 999]), rng.standard_normal((3, 5))
    at = torch.tensor(np.moveaxis(x, -1, 1), requires_grad=True)
    y = twin.double()(at, torch.tensor(k))
    y.mul(torch.tensor(cotangent)).sum().backward()
    exact = y.detach().numpy(), np.moveaxis(at.grad.numpy(), 1, -1)

    for dtype, tolerance in ((jnp.float64, 1e-10), (jnp.float32, 1e-5)):
        for ours, theirs in zip(of_jax(loaded, dtype, x, k, cotangent), exact, strict=True):
            assert ours.dtype == dtype
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def of_jax(loaded, dtype, *args):
    """The logits, and the gradient in x of their product with a cotangent."""
    network = loaded.network.clone(unet=loaded.network.unet.clone(dtype=dtype))
    params, x, k, cotangent = jax.tree.map(lambda a: jnp.asarray(a, dtype), (loaded.params, *args))

    def product(x):
        y = network.apply(params, x, k)
        return jnp.sum(y * cotangent), y

    gradient, y = jax.jit(jax.grad(product, has_aux=True))(x)
    return np.asarray(y), np.asarray(gradient)

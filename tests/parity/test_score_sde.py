"""DDPM++ and NCSN++ of score_sde, imported from checkpoints, against a twin in torch with random parameters."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from score_sde_twin import Twin
from trajectories import torch

from jaxdiff import pretrained

jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)  # in less than half of the time

CIFAR = {"embedding": "fourier", "fir": True, "progressive_input": "residual"}
LARGE = {**CIFAR, "progressive_input": "input_skip", "progressive": "output_skip", "multipliers": (1, 1, 2)}
CASES = {
    "ddpm++": ({}, {"sde": "vp"}),
    "ddpm++, deeper": ({"blocks": 2, "attention": (8,)}, {"sde": "subvp"}),
    "one level": ({"multipliers": (2,), "attention": (8,)}, {"sde": "vp"}),
    "ncsn++ of cifar": (CIFAR, {"sde": "ve"}),
    "ncsn++ of cifar, vp": ({**CIFAR, "embedding": "positional"}, {"sde": "vp", "continuous": False}),
    "ncsn++ of larger images": (LARGE, {"sde": "ve"}),
    "fir alone": ({"fir": True, "multipliers": (1, 1)}, {"sde": "vp", "fir": True}),
    "ddpm's blocks": (
        {"block": "ddpm", "progressive_input": "residual", "progressive": "residual", "skip_rescale": False},
        {"sde": "vp", "skip_rescale": False},
    ),
    "ddpm's blocks and fir": (
        {"block": "ddpm", "fir": True, "progressive_input": "input_skip", "progressive": "residual"},
        {"sde": "vp"},
    ),
    "progressive, means": (
        {"progressive_input": "input_skip", "progressive": "output_skip"}, {"sde": "vp", "fir": False}
    ),
}  # fmt: skip


def saved(twin, path):
    """As score_sde saves: of DataParallel, with the optimiser, and the moving average as a list of what is trained."""
    twin = copy.deepcopy(twin)
    trained = [p for p in twin.parameters() if p.requires_grad]
    average = [p.clone().detach() for p in trained]
    optimizer = torch.optim.Adam(trained)
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with torch.no_grad():
        for parameter in trained:
            parameter += 1
    torch.save(
        {
            "optimizer": optimizer.state_dict(),
            "model": torch.nn.DataParallel(twin).state_dict(),
            "ema": {"decay": 0.9999, "num_updates": 2, "shadow_params": average},
            "step": 7,
        },
        path,
    )


@pytest.fixture(scope="module", params=CASES)
def pair(request, tmp_path_factory):
    """The twin and what comes out of its checkpoint."""
    settings, options = CASES[request.param]
    twin = Twin(**settings)
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint_8.pth"
    saved(twin, path)
    return twin, pretrained.load(path, image_size=8, **options), options["sde"]


rng = np.random.default_rng(1)
X, COTANGENT = rng.standard_normal((2, 3, 8, 8, 3))
TOLD = {"fourier": np.log([0.01, 0.7, 50.0]), "positional": np.array([0.0, 37.25, 999.0])}


def of_torch(twin, x, c, dtype):
    """The output, and the gradient in x of its product with a cotangent."""
    twin = copy.deepcopy(twin).to(dtype)
    at = torch.tensor(np.moveaxis(x, -1, 1), dtype=dtype, requires_grad=True)
    y = twin(at, torch.tensor(c, dtype=dtype))
    y.mul(torch.tensor(np.moveaxis(COTANGENT, -1, 1), dtype=dtype)).sum().backward()
    return [np.moveaxis(a.detach().double().numpy(), 1, -1) for a in (y, at.grad)]


def of_jax(loaded, x, c, dtype):
    network = loaded.network.clone(dtype=dtype)
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), loaded.params)

    def product(x):
        y = network.apply(params, x, jnp.asarray(c, dtype))
        return jnp.sum(y * jnp.asarray(COTANGENT, dtype)), y

    gradient, y = jit(jax.grad(product, has_aux=True))(jnp.asarray(x, dtype))
    return [np.asarray(y), np.asarray(gradient)]


def test_outputs_and_gradients(pair):
    twin, loaded, sde = pair
    told = TOLD[twin.s["embedding"]].astype(np.float32).astype(np.float64)
    sign = -1 if sde == "ve" else 1  # ours is eps, and theirs -eps
    exact = of_torch(twin, X, told, torch.float64)
    for dtype, tolerance in ((jnp.float64, 1e-10), (jnp.float32, 1e-5)):
        for ours, theirs in zip(of_jax(loaded, X, told, dtype), exact):
            np.testing.assert_allclose(sign * ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def test_the_description_is_the_network_s(pair):
    twin, loaded, _ = pair
    model, s = loaded.config.model, twin.s
    assert (model.channels, model.multipliers, model.blocks) == (s["nf"], s["multipliers"], s["blocks"])
    for name in ("block", "fir", "progressive_input", "progressive", "skip_rescale"):
        assert getattr(model, name) == s[name], name


def noise(sde, t):
    """alpha and sigma of an SDE at time t, in the data's own range."""
    h = 0.1 * t + 9.95 * t**2  # of beta from 0.1 to 20, the integral
    alpha = np.ones_like(t) if sde == "ve" else np.exp(-h / 2)
    return alpha, {"vp": np.sqrt(1 - alpha**2), "subvp": 1 - alpha**2, "ve": 0.01 * 5000**t}[sde]


def test_the_score_is_theirs(pair):
    """The score as score_sde takes it from the network's output, in the range of its own data, and as our denoiser has
    it, at the same pictures of the same noise."""
    twin, loaded, sde = pair
    if sde == "vp" and loaded.config.diffusion.schedule == "linear":
        t, told = np.array([0.001, 0.5, 1.0]), np.array([0.0, 499.0, 999.0])
        alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[told.astype(int)]
        alpha, sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    else:
        t = np.array([0.01, 0.4, 1.0])
        alpha, sigma = noise(sde, t)
        told = np.log(sigma) if sde == "ve" else 999 * t
    data, eps = rng.uniform(-1, 1, X.shape), rng.standard_normal(X.shape)
    alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
    seen = alpha * (data + 1) / 2 + sigma * eps if sde == "ve" else alpha * data + sigma * eps
    h, _ = of_torch(twin, 2 * seen - 1 if sde == "ve" else seen, told, torch.float64)
    score = h / sigma if sde == "ve" else -h / sigma

    scale = 2 if sde == "ve" else 1  # ours are twice as large, and so are slopes in theirs
    prediction = jit(loaded.denoiser())(jnp.asarray(2 * seen - 1 if sde == "ve" else seen), jnp.asarray(t))
    here = np.asarray(loaded.schedule.sigma(jnp.asarray(t)))[:, None, None, None]
    np.testing.assert_allclose(here, scale * sigma, rtol=1e-6)
    ours = scale * -np.asarray(prediction.eps) / here
    np.testing.assert_allclose(sigma * ours, sigma * score, rtol=0, atol=1e-4 * np.abs(sigma * score).max())

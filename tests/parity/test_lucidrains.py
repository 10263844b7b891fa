"""Networks imported from denoising-diffusion-pytorch against the originals, with random weights, gains and biases.

The package is installed without what it needs for its datasets and scores (.ci/run): of torchvision there is no build for
every torch, and it would break diffusers where it does not load. In their place stand empty modules while it is imported.
"""

import copy
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import InputError, build, pretrained
from jaxdiff.config import Config, LucidrainsUNet
from jaxdiff.process import q_posterior, reverse_log_var

WHY = "needs lucidrains' package: pip install --no-deps denoising-diffusion-pytorch==2.3.4 after jaxdiff[parity]"
torch = pytest.importorskip("torch", reason=WHY)
ema_pytorch = pytest.importorskip("ema_pytorch", reason=WHY)
with pytest.MonkeyPatch.context() as patch:
    for absent in ("accelerate", "torchvision", "pytorch_fid", "pytorch_fid.fid_score", "pytorch_fid.inception"):
        patch.setitem(sys.modules, absent, mock.MagicMock())
    lucidrains = pytest.importorskip("denoising_diffusion_pytorch", reason=WHY)

torch.set_num_threads(1)

KINDS = {"pred_noise": "eps", "pred_x0": "x0", "pred_v": "v"}
STEPS = np.array([0, 37, 999])
NARROW = {"dim": 12, "dim_mults": (1, 2), "attn_dim_head": 10, "attn_heads": 3}
NETWORKS = {
    "two levels": (NARROW, {}),
    "three levels": (
        {**NARROW, "dim": 8, "init_dim": 10, "dim_mults": (1, 3, 2), "full_attn": (True, False, True), "channels": 1,
         "sinusoidal_pos_emb_theta": 500},
        {"sinusoidal_pos_emb_theta": 500},
    ),
    "linear attention alone, learned variance": ({**NARROW, "full_attn": (False, False), "learned_variance": True}, {}),
    "learned frequencies": ({**NARROW, "learned_sinusoidal_cond": True, "learned_sinusoidal_dim": 6}, {}),
    "random frequencies": ({**NARROW, "random_fourier_features": True}, {"random_fourier_features": True}),
}  # fmt: skip


def original(arguments, seed=0):
    """A network of his, none of whose parameters is special."""
    torch.manual_seed(seed)
    net = lucidrains.Unet(**arguments)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 and not name.endswith(".g") else 4
            parameter.copy_(torch.randn_like(parameter) / fan**0.5 + (parameter.ndim == 1 or name.endswith(".g")) * 0.5)
    return net.eval()


def draw(net, size=8):
    rng = np.random.default_rng(1)
    return rng.standard_normal((3, size, size, net.channels)), rng.standard_normal((3, size, size, net.out_dim))


def of_torch(net):
    """The output, and the gradient in x of its product with a cotangent, in float64."""
    x, cotangent = (torch.tensor(np.moveaxis(y, -1, 1)) for y in draw(net))
    torch.set_default_dtype(torch.float64)  # his embedding of time is in it
    try:
        at = x.requires_grad_()
        y = copy.deepcopy(net).double()(at, torch.tensor(STEPS))
        y.mul(cotangent).sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    return [np.moveaxis(found.detach().numpy(), 1, -1) for found in (y, at.grad)]


def of_jax(net, loaded, dtype):
    x, cotangent = (jnp.asarray(y, dtype) for y in draw(net))
    network = loaded.network.clone(dtype=dtype)
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), loaded.params)

    def product(x):
        y = network.apply(params, x, jnp.asarray(STEPS, dtype))
        return jnp.sum(y * cotangent), y

    gradient, y = jax.jit(jax.grad(product, has_aux=True))(x)
    return y, gradient


def error(found, exact):
    return [np.abs(np.asarray(a) - b).max() / np.abs(b).max() for a, b in zip(found, exact, strict=True)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_dict(tmp_path, name):
    arguments, options = NETWORKS[name]
    net = original(arguments)
    torch.save(net.state_dict(), tmp_path / "m.pt")
    loaded = pretrained.load(tmp_path / "m.pt", image_size=8, **options)
    exact = of_torch(net)
    assert max(error(of_jax(net, loaded, jnp.float64), exact)) < 1e-10
    assert max(error(of_jax(net, loaded, jnp.float32), exact)) < 1e-5


def test_the_network_of_his_readme_is_the_default():
    net = lucidrains.Unet(dim=64, dim_mults=(1, 2, 4, 8))
    ours = jax.eval_shape(
        lambda: build.init_params(Config(model=LucidrainsUNet()), build.Spec((32, 32, 3), None), jax.random.key(0))
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == sum(p.numel() for p in net.parameters()) == 35_711_491


def agree(diffusion, loaded, *, tolerance=1e-5):
    """What he makes of x_t in one step: the predicted x_0, the mean and the log variance of x_{t-1}."""
    T = loaded.schedule.T
    x, _ = draw(diffusion.model)
    k = np.array([2, T // 3, 2 * T // 3])
    with torch.no_grad():
        at = torch.tensor(np.moveaxis(x, -1, 1)).float(), torch.tensor(k)
        mean, _, log_var, *rest = diffusion.p_mean_variance(x=at[0], t=at[1], clip_denoised=False)
    t, s = (jnp.asarray(n / T, jnp.float32) for n in (k + 1, k))
    prediction = loaded.denoiser()(jnp.asarray(x, jnp.float32), t)
    variance = loaded.config.sample.variance
    ours = [
        q_posterior(jnp.asarray(x, jnp.float32), prediction.x0, s, t, schedule=loaded.schedule)[0],
        jnp.broadcast_to(reverse_log_var(prediction, s, t, schedule=loaded.schedule, variance=variance), x.shape),
    ]
    his = [np.moveaxis(np.broadcast_to(y.numpy(), at[0].shape), 1, -1) for y in (mean, log_var)]
    assert max(error(ours, his)) < tolerance
    if rest:
        assert max(error([prediction.x0], [np.moveaxis(rest[0].numpy(), 1, -1)])) < tolerance


@pytest.mark.parametrize("min_snr", [False, True])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize(("table", "timesteps"), [("linear", 500), ("cosine", 1000), ("sigmoid", 100)])
def test_a_diffusion(tmp_path, table, timesteps, objective, min_snr):
    """Its buffers say the table and the objective; the network is told the step's number."""
    diffusion = lucidrains.GaussianDiffusion(
        original(NARROW), image_size=8, timesteps=timesteps, beta_schedule=table, objective=objective,
        min_snr_loss_weight=min_snr,
    )  # fmt: skip
    torch.save(diffusion.state_dict(), tmp_path / "m.pt")
    loaded = pretrained.load(tmp_path / "m.pt", image_size=8)
    found = loaded.config.diffusion
    assert (found.schedule, found.steps, found.kind) == (table, timesteps, KINDS[objective])
    rtol = 2e-5 if table == "sigmoid" else 1e-6  # two numbers of his sigmoid are in float32
    np.testing.assert_allclose(loaded.schedule.betas, diffusion.betas.double(), rtol=rtol)
    np.testing.assert_allclose(loaded.schedule.alpha_bar, diffusion.alphas_cumprod.double(), rtol=rtol)
    if not min_snr:
        agree(diffusion, loaded)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
def test_a_diffusion_that_learned_its_variance(tmp_path, objective):
    """It takes what the network predicts for noise, whatever it was told."""
    net = original({**NARROW, "learned_variance": True})
    diffusion = lucidrains.LearnedGaussianDiffusion(net, image_size=8, objective=objective)
    torch.save(diffusion.state_dict(), tmp_path / "m.pt")
    agree(diffusion, pretrained.load(tmp_path / "m.pt", image_size=8))


@pytest.mark.parametrize("use_ema", [True, False])
def test_a_checkpoint_of_his_trainer(tmp_path, use_ema):
    """What his Trainer's `save` puts together, after a step of its optimiser that the average has not followed."""
    diffusion = lucidrains.GaussianDiffusion(original(NARROW), image_size=8)
    average = ema_pytorch.EMA(diffusion, beta=0.995, update_every=10)
    optimiser = torch.optim.Adam(diffusion.parameters(), lr=1e-2, betas=(0.9, 0.99))
    diffusion(torch.rand(2, 3, 8, 8)).backward()
    optimiser.step()
    average.step += 1
    torch.save(
        {
            "step": 1,
            "model": diffusion.state_dict(),
            "opt": optimiser.state_dict(),
            "ema": average.state_dict(),
            "scaler": torch.amp.GradScaler("cpu").state_dict(),
            "version": "2.3.4",
        },
        tmp_path / "model-1.pt",
    )
    loaded = pretrained.load(tmp_path / "model-1.pt", image_size=8, use_ema=use_ema)
    agree((average.ema_model if use_ema else diffusion).eval(), loaded)
    with pytest.raises(AssertionError):
        agree((diffusion if use_ema else average.ema_model).eval(), loaded)


@pytest.mark.parametrize("arguments", [{"self_condition": True}, {"self_condition": True, "learned_variance": True}])
def test_self_conditioning_is_refused(tmp_path, arguments):
    torch.save(original({**NARROW, **arguments}).state_dict(), tmp_path / "m.pt")
    with pytest.raises(InputError, match="self_condition"):
        pretrained.load(tmp_path / "m.pt", image_size=8)


def test_his_networks_for_sequences_and_with_classes_are_refused(tmp_path):
    from denoising_diffusion_pytorch import classifier_free_guidance

    for net in (
        lucidrains.Unet1D(12, dim_mults=(1, 2)),
        classifier_free_guidance.Unet(12, num_classes=3, dim_mults=(1, 2)),
    ):
        torch.save(net.state_dict(), tmp_path / "m.pt")
        with pytest.raises(InputError, match="expected a Unet of|as of a Unet of"):
            pretrained.load(tmp_path / "m.pt", image_size=8)

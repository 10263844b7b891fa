"""Configs: they survive JSON, name what differs, and every published one builds."""

import dataclasses
import inspect
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_table import jit
from tiny import first_params

from jaxdiff import InputError, build, samplers, schedules, time_sampling
from jaxdiff import config as configs
from jaxdiff.config import Config, Diffusion, DiT, EDM2UNet, Log, NCSNpp, Optim, Sample, Train, UNet
from jaxdiff.noise import fold_in, white_noise

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
SHAPES = {"digits": ((8, 8, 1), 10), "mnist": ((28, 28, 1), 10), "fashion_mnist": ((28, 28, 1), 10)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_published_config_builds_and_survives_json(path):
    config = configs.load(path)
    configs.check(config)
    assert configs.from_dict(json.loads(json.dumps(configs.to_dict(config)))) == config
    spec = build.Spec(*SHAPES.get(path.stem, ((32, 32, 3), None)))
    schedule = build.schedule(config.diffusion)
    build.sampler(config, schedule)
    times = build.times(config.sample, schedule)
    assert (times[0], times[-1]) == (1, 0)
    build.optimizer(config)
    params = jax.eval_shape(lambda: build.init_params(config, spec, jax.random.key(0)))
    assert len(jax.tree.leaves(params)) > 10


def test_the_ddpm_config_is_the_papers():
    """Ho et al. 2020, appendix B: 35.7M parameters, Adam 2e-4, batch 128, 800k steps, EMA 0.9999, dropout 0.1."""
    config = configs.load(ROOT / "configs" / "cifar10_ddpm.py")
    spec = build.Spec((32, 32, 3), None)
    params = jax.eval_shape(lambda: build.init_params(config, spec, jax.random.key(0)))
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == 35_746_307
    assert config.diffusion.kind == "eps"
    assert build.schedule(config.diffusion) == schedules.linear(1000)
    assert (config.model.dropout, config.data.flip, config.data.labels) == (0.1, True, False)
    assert (config.optim.learning_rate, config.optim.warmup, config.optim.clip) == (2e-4, 5000, 1.0)
    assert (config.train.steps, config.train.batch_size, config.train.ema_decay) == (800_000, 128, 0.9999)
    assert (config.sample.sampler, config.sample.steps, config.sample.variance) == ("ddpm", 1000, "fixed_large")


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("cifar10_improved", 52.5),  # of the published cifar10_uncond_50M_500K.pt, by its shapes
        ("cifar10_ddpmpp", 61.8),  # Song et al. 2021, appendix H
        ("cifar10_edm", 55.7),  # Karras et al. 2022, table 7
    ],
)
def test_the_other_papers_networks_of_cifar10(name, millions):
    config = configs.load(ROOT / "configs" / f"{name}.py")
    params = jax.eval_shape(lambda: build.init_params(config, build.Spec((32, 32, 3), None), jax.random.key(0)))
    assert round(sum(math.prod(p.shape) for p in jax.tree.leaves(params)) / 1e6, 1) == millions


def test_the_improved_config_is_told_steps_of_a_thousand():
    """Nichol & Dhariwal: 4,000 steps, of which the network is told 1,000 k / T; its bound counts 4 times as much."""
    config = configs.load(ROOT / "configs" / "cifar10_improved.py")
    assert (config.diffusion.steps, config.diffusion.step_scale * config.diffusion.steps) == (4000, 1000)
    assert (config.train.steps, config.train.batch_size, config.optim.learning_rate) == (500_000, 128, 1e-4)


def test_the_edm_config_of_cifar10_counts_images():
    """Karras et al., table 7: 200M images, the first 10M of warm-up, and an average whose half-life is 0.5M."""
    config = configs.load(ROOT / "configs" / "cifar10_edm.py")
    assert config.train.steps * config.train.batch_size == 200_000_000
    assert config.optim.warmup * config.train.batch_size == pytest.approx(10_000_000, rel=1e-4)
    half_life = math.log(0.5) / math.log(config.train.ema_decay)
    assert half_life * config.train.batch_size == pytest.approx(500_000)
    assert 2 * (len(build.times(config.sample, build.schedule(config.diffusion))) - 1) - 1 == 35


@pytest.mark.parametrize("name", build.SCHEDULES)
def test_every_schedule_by_name(name):
    schedule = build.schedule(Diffusion(schedule=name, steps=10, kind="v"))
    assert getattr(schedule, "T", 10) == 10


def test_schedule_options_reach_the_schedule():
    diffusion = Diffusion(schedule="linear", steps=100, schedule_options={"beta_start": 1e-3, "beta_end": 0.2})
    assert build.schedule(diffusion) == schedules.linear(100, beta_start=1e-3, beta_end=0.2)
    assert build.schedule(Diffusion(schedule="ve", schedule_options={"sigma_max": 9.0})) == schedules.VE(sigma_max=9.0)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_every_sampler_by_name_with_its_options(name):
    schedule = schedules.linear()
    make = samplers.SAMPLERS[name]
    options = {"eta": 0.5, "variance": "fixed_large", "steps": 10}
    own = {option: value for option, value in options.items() if option in inspect.signature(make).parameters}
    ends = {"end": 1 / 1000} if name == "ode" else {}  # a table's network knows no earlier time
    config = Config(sample=Sample(sampler=name, **options))
    if name in ("dpm_solver", "dpm_solver_3"):
        with pytest.raises(InputError, match="eta 0.5: the SDE solver follows x0"):
            build.sampler(config, schedule)
    else:
        assert build.sampler(config, schedule) == make(schedule, **own, **ends)
    unset = Config(sample=Sample(sampler=name, steps=10))  # each keeps its own defaults
    assert build.sampler(unset, schedule) == make(schedule, **({"steps": 10} if "steps" in own else {}), **ends)


DIGITS = build.Spec((8, 8, 1), 10)


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.arange(4)}, jax.random.split(jax.random.key(1), 4)


def of_few_channels(config):
    """What the config says of the process, with a network that compiles soon."""
    small = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4)
    return dataclasses.replace(config, model=small)


def test_the_edm_config_is_table_1(batch):
    """Its loss is lambda(sigma) |c_skip x + c_out F(c_in x, c_noise) - x0|^2, in numpy from the network's output."""
    config = of_few_channels(configs.load(ROOT / "configs" / "digits_edm.py"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, label_dropout=0.0))
    params, (data, keys) = first_params(config, DIGITS, noise=0.05), batch
    sigma = 80 * np.asarray(time_sampling.log_normal(fold_in(keys, 0), schedule=schedules.EDM()))[:, None, None, None]
    x0 = np.asarray(data["image"], np.float32) / 127.5 - 1
    x = x0 + sigma * np.asarray(white_noise(fold_in(keys, 1), x0.shape))
    c_in, c_skip, c_out = (sigma**2 + 0.25) ** -0.5, 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25) ** 0.5
    net, cond = build.network(config, DIGITS), {"label": data["label"]}
    F = np.asarray(jit(net.apply)(params, c_in * x, np.log(sigma).ravel() / 4, cond, key=None))
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    expected = np.mean(weight * (c_skip * x + c_out * F - x0) ** 2, axis=(1, 2, 3))
    loss = jit(build.loss_fn(config, DIGITS))(params, data, keys)["loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_the_hybrid_config_learns_the_variance(batch):
    config = of_few_channels(configs.load(ROOT / "configs" / "digits_hybrid.py"))
    params, (data, keys) = first_params(config, DIGITS, noise=0.05), batch
    terms = jit(build.loss_fn(config, DIGITS))(params, data, keys)
    np.testing.assert_allclose(terms["loss"], terms["simple"] + 0.001 * terms["vlb"], rtol=1e-5)
    alphas = build.schedule(config.diffusion)
    assert build.sampler(config, alphas).variance == "learned_range"
    predict = build.denoiser(config, DIGITS, params, data["label"])
    prediction = predict(jnp.zeros((4, 8, 8, 1)), jnp.float32(0.5))
    assert prediction.log_var.shape == prediction.x0.shape == (4, 8, 8, 1)


@pytest.mark.parametrize("times", build.TIMES)
def test_times_of_a_table_are_its_own(times):
    t = build.times_seen(Diffusion(times=times), schedules.cosine())(jax.random.split(jax.random.key(0), 200))
    k = np.asarray(t, np.float64) * 1000
    np.testing.assert_allclose(k, np.rint(k), atol=1e-3)
    assert k.min() > 0.5
    assert k.max() < 1000.5
    assert len(set(np.rint(k))) > 50


def test_a_score_is_trained_as_eps_and_a_weight_takes_its_options():
    schedule = schedules.cosine()
    x0, eps, t = jnp.ones((2, 3)), jnp.full((2, 3), 0.5), jnp.array([0.2, 0.7])

    def loss(kind, **options):
        measure = build.measured(Diffusion(kind=kind, **options), schedule)
        return measure(x0, t, eps, model=lambda x, t: jnp.zeros_like(x), schedule=schedule, kind=kind)["loss"]

    np.testing.assert_allclose(loss("score"), loss("eps"), rtol=1e-5)
    snr = np.exp(np.asarray(schedules.log_snr(t, schedule=schedule)))
    for gamma in (5.0, 1.0):
        weighted = loss("eps", weight="min_snr", weight_options={"gamma": gamma})
        np.testing.assert_allclose(weighted, loss("eps") * np.minimum(gamma / snr, 1), rtol=1e-4)


def test_spacings_of_tables_are_uniform_on_continuous_schedules():
    np.testing.assert_allclose(build.times(Sample(steps=4), schedules.Flow()), [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(build.times(Sample(steps=4, spacing="leading"), schedules.linear())[:2], [0.751, 0.501])


@pytest.mark.parametrize("spacing", build.SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 50, 1000])
def test_a_table_is_sampled_at_its_own_steps_alone(spacing, steps):
    k = build.times(Sample(steps=steps, spacing=spacing), schedules.linear())[:-1] * 1000 - 1
    np.testing.assert_allclose(k, np.rint(k), atol=1e-9)
    assert (np.rint(k) >= 0).all()


def rates(optim, steps):
    """The learning rate at each step, from what Adam does to a parameter with a constant gradient of 1."""
    tx = build.optimizer(Config(optim=optim, train=Train(steps=steps)))
    state, found = tx.init(jnp.float32(0)), []
    for _ in range(steps):
        update, state = tx.update(jnp.float32(1.0), state, jnp.float32(0))
        found.append(-float(update))
    return np.array(found)


@pytest.mark.usefixtures("standard_promotion")
def test_warm_up_then_constant_or_cosine():
    k = np.arange(20)
    warm = np.minimum(k / 5, 1)
    np.testing.assert_allclose(rates(Optim(learning_rate=0.1, warmup=5), 20), 0.1 * warm, rtol=1e-3, atol=1e-7)
    cosine = np.where(k < 5, k / 5, 0.5 * (1 + np.cos(np.pi * (k - 5) / 15)))
    np.testing.assert_allclose(
        rates(Optim(learning_rate=0.1, warmup=5, decay="cosine"), 20), 0.1 * cosine, rtol=1e-3, atol=1e-7
    )


@pytest.mark.usefixtures("standard_promotion")
def test_clipping_bounds_the_global_norm_and_zero_is_none():
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    for clip, norm in ((1.0, 1.0), (0.0, 5.0)):
        tx = build.optimizer(Config(optim=Optim(clip=clip, warmup=0)))
        _, state = tx.update(gradient, tx.init(gradient), gradient)
        first_moment = optax.tree.get(state, "mu")
        np.testing.assert_allclose(optax.tree.norm(first_moment), 0.1 * norm, rtol=1e-5)


def test_loss_hides_the_asked_share_of_labels_and_only_those():
    """With label_dropout 1 the loss does not depend on labels; with 0 it does, once the network is not zero."""
    spec = build.Spec((8, 8, 1), 10)
    model = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=())
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (4, 8, 8, 1), np.uint8)
    losses = {}
    for share in (0.0, 1.0):
        config = Config(model=model, train=Train(label_dropout=share))
        params = first_params(config, spec, noise=0.1)
        keys = jax.random.split(jax.random.key(1), 4)
        for labels in ([0, 1, 2, 3], [9, 8, 7, 6]):
            batch = {"image": jnp.asarray(image), "label": jnp.asarray(labels)}
            losses[share, labels[0]] = build.loss_fn(config, spec)(params, batch, keys)["loss"]
    np.testing.assert_array_equal(losses[1.0, 0], losses[1.0, 9])
    assert (np.abs(losses[0.0, 0] - losses[0.0, 9]) > 1e-4).all()


@pytest.mark.parametrize(
    ("steps", "every", "backend", "expected"), [(1000, 100, "gpu", 10), (1000, 35, "gpu", 5), (1000, 100, "cpu", 1)]
)
def test_steps_per_call_by_backend(monkeypatch, steps, every, backend, expected):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = Config(train=Train(steps=steps), log=Log(samples_every=every, checkpoint_every=every))
    assert build.steps_per_call(config) == expected
    none = Config(train=Train(steps=steps), log=Log(samples=0, samples_every=7, checkpoint_every=every))
    assert build.steps_per_call(none) == expected


def test_steps_per_call_of_a_resumed_run_divide_the_step_it_resumes_from(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = Config(train=Train(steps=10_000), log=Log(samples_every=1000, checkpoint_every=1000))
    assert build.steps_per_call(config) == 10
    assert build.steps_per_call(config, done=5005) == 5


def test_differences_name_the_experiment_and_leave_the_rest_free():
    old = Config(train=Train(steps=5), log=Log(every=3))
    new = Config(train=Train(steps=9), log=Log(every=4), sample=Sample(steps=7), diffusion=Diffusion(kind="v"))
    assert configs.differences(old, new) == {"diffusion.kind": ("eps", "v")}


def test_a_run_of_another_version_says_so():
    values = configs.to_dict(Config())
    values["train"]["gone"] = 1
    with pytest.raises(InputError, match="another version of jaxdiff.*gone"):
        configs.from_dict(values)


@pytest.mark.parametrize(("old", "new"), [(False, "none"), (True, "blocks")])
def test_a_run_of_before_there_were_ways_of_remat_is_read(old, new):
    values = configs.to_dict(Config())
    values["model"]["remat"] = old
    assert configs.from_dict(values) == Config(model=UNet(remat=new))


def test_every_field_is_documented_for_the_help():
    """tyro shows the text under a field; one without it would be a bare name in --help."""
    sections = [type(section) for section in vars(Config()).values() if dataclasses.is_dataclass(section)]
    assert len(sections) == 9
    for section in {*sections, *configs.NETWORKS.values()}:
        source = "".join(inspect.getsource(c) for c in section.__mro__[:-1]).splitlines()
        for field in dataclasses.fields(section):
            at = next(i for i, line in enumerate(source) if line.startswith(f"    {field.name}: "))
            assert source[at + 1].strip().startswith('"""'), field.name


def test_another_network_is_another_experiment():
    """Its settings have other names: only which one it is can be compared."""
    assert configs.differences(Config(), Config(model=DiT())) == {"model.network": ("unet", "dit")}
    assert configs.differences(Config(model=DiT()), Config(model=DiT(depth=3))) == {"model.depth": (12, 3)}


@pytest.mark.parametrize("model", [EDM2UNet(), NCSNpp(embedding="fourier")])
def test_a_network_that_is_told_logarithms_needs_a_preconditioning_that_tells_them(model):
    with pytest.raises(InputError, match=r"told the logarithm of a noise level.*use edm or ve"):
        configs.check(Config(model=model))
    configs.check(Config(model=model, diffusion=Diffusion(schedule="edm", kind="F", preconditioning="edm")))


def test_a_scale_of_the_step_that_a_preconditioning_would_ignore_is_refused():
    diffusion = Diffusion(schedule="edm", kind="F", preconditioning="edm", step_scale=0.5)
    with pytest.raises(
        InputError, match="step-scale 0.5: --diffusion.preconditioning edm says what the network is told"
    ):
        configs.check(Config(diffusion=diffusion))


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("Config(model=Model(channels=4))", r"Give a network: UNet, "),
        ("Config(model=DiT(chanels=4))", r"DiT has network, .*width"),
        ("Config(model=UNet(chanels=4))", r"Did you mean channels\?"),
        ("Config(model=None)", r"config.model: expected one of UNet\(...\), .*got None"),
    ],
)
def test_a_config_file_with_a_wrong_network_is_told_the_right_names(tmp_path, line, hint):
    (tmp_path / "c.py").write_text(f"from jaxdiff.config import Config, DiT, Model, UNet\nconfig = {line}\n")
    with pytest.raises(InputError, match=hint):
        configs.load(tmp_path / "c.py")

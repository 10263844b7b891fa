"""Kernels of kept norm: it is kept to rounding through training, by this alone, and nothing else is touched."""

import shlex

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from network_table import normal
from test_cli_train import fails

from jaxdiff import InputError, build, runs
from jaxdiff import config as configs
from jaxdiff.cli import train_main
from jaxdiff.config import Config, Diffusion, EDM2UNet, Optim, UNet
from jaxdiff.models import lora
from jaxdiff.models.magnitude import CosineAttention
from jaxdiff.train import init_state, train_step
from jaxdiff.train.normalized import kernels, normalized

pytestmark = pytest.mark.usefixtures("standard_promotion")

LAYER = CosineAttention(2)
X, TARGET = normal(4, 3, 3, 8), normal(4, 3, 3, 8, seed=1)
PARAMS = LAYER.init(jax.random.key(0), X)
SMALL = EDM2UNet(channels=8, multipliers=(1, 2), blocks=1, attention_resolutions=(), head_channels=8)


def loss_fn(params, batch, keys):
    return {"loss": jnp.square(LAYER.apply(lora.merged(params), batch["x"]) - TARGET).mean((1, 2, 3))}


def square(params):
    """The mean square of each output's weights."""
    return {
        name: np.square(np.asarray(w, np.float64)).mean(tuple(range(w.ndim - 1)))
        for name, w in flatten_dict(params["params"], sep="/").items()
        if name.endswith("kernel")
    }


def steps(tx, params, count=20):
    state = init_state(params, tx)
    step = jax.jit(lambda state: train_step(state, {"x": X}, jax.random.key(0), loss_fn=loss_fn, tx=tx))
    for _ in range(count):
        state, metrics = step(state)
        yield state, metrics


@pytest.mark.parametrize(
    "tx", [optax.sgd(3.0), optax.adam(0.3), optax.adamw(0.3, weight_decay=0.5)], ids=["sgd", "adam", "adamw"]
)
def test_norms_are_kept_to_rounding(tx):
    losses = []
    for state, metrics in steps(normalized(tx), PARAMS):
        assert all(np.abs(found - 1).max() < 1e-6 for found in square(state.params).values())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.95 * losses[0]
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, PARAMS)
    assert min(jax.tree.leaves(moved)) > 0.1


def test_without_it_they_grow_by_pythagoras():
    """The gradient is orthogonal to the weights: |w + u|^2 = |w|^2 + |u|^2."""
    before = PARAMS
    for state, _ in steps(optax.sgd(30.0), PARAMS, count=5):
        u = jax.tree.map(lambda a, b: a - b, state.params, before)
        for name, found in square(state.params).items():
            np.testing.assert_allclose(found, square(before)[name] + square(u)[name], rtol=1e-5)
        before = state.params
    assert all((found > 1.001).all() for found in square(before).values())


def test_a_step_turns_the_weights_as_far_as_the_optimiser_says():
    """From w, of mean square 1, along u: w + u at its own length."""
    [(state, _)] = steps(normalized(optax.sgd(3.0)), PARAMS, count=1)
    [(plain, _)] = steps(optax.sgd(3.0), PARAMS, count=1)
    chex.assert_trees_all_close(
        state.params,
        jax.tree.map(lambda w: w / jnp.sqrt(jnp.square(w).mean(0, keepdims=True)), plain.params),
        atol=1e-6,
    )


def test_kernels_of_another_norm_are_brought_to_it():
    far = jax.tree.map(lambda w: 5 * w, PARAMS)
    [(state, _)] = steps(normalized(optax.sgd(0.0)), far, count=1)
    chex.assert_trees_all_close(state.params, PARAMS, rtol=1e-5)


@pytest.mark.parametrize("model", [SMALL, UNet(channels=8, multipliers=(1,), blocks=1, groups=4)])
@pytest.mark.parametrize("forced", [None, False, True])
def test_the_setting(model, forced):
    """By default it is on where the network does not depend on its kernels' norms, which the others may not ask for."""
    optim = Optim(learning_rate=0.1, warmup=0, clip=0.0, forced_weight_norm=forced)
    config = Config(model=model, optim=optim, diffusion=Diffusion(schedule="edm", kind="F", preconditioning="edm"))
    if model is not SMALL and forced:
        with pytest.raises(
            InputError, match="--optim.forced_weight_norm True: expected False with --model.network unet"
        ):
            configs.check(config)
        return
    configs.check(config)
    params = {"params": {"dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "gain": jnp.ones(())}}
    tx = build.optimizer(config)
    updates, _ = tx.update(jax.tree.map(lambda p: p + 1, params), tx.init(params), params)
    after = jax.tree.map(lambda p, u: np.asarray(p + u).ravel()[0], params, updates)["params"]
    kept = model is SMALL and forced is not False
    assert after["dense"]["kernel"] == pytest.approx(1.0 if kept else 0.9, rel=1e-5)  # Adam's first step is its rate
    assert (after["dense"]["bias"], after["gain"]) == pytest.approx((0.9, 0.9), rel=1e-5)


def test_frozen_kernels_and_low_rank_adaptations_stay_as_they_are():
    far = {"params": {f"m_{name}": {"kernel": 3 * leaf["kernel"]} for name, leaf in PARAMS["params"].items()}}
    gradients = jax.tree.map(jnp.ones_like, far)
    tx = build.optimizer(Config(model=SMALL, optim=Optim(frozen=("m_qkv",), warmup=0)))
    updates, _ = tx.update(gradients, tx.init(far), far)
    assert not np.asarray(updates["params"]["m_qkv"]["kernel"]).any()
    assert np.abs(square(jax.tree.map(lambda p, u: p + u, far, updates))["m_out/kernel"] - 1).max() < 1e-6
    adapted = {**far, "lora": {"m_attention/qkv": {"a": jnp.ones((8, 2)), "b": jnp.ones((2, 24))}}}
    assert not any(jax.tree.leaves(kernels(adapted)["lora"]))


def test_all_of_the_network_s_kernels_are_known():
    spec = build.Spec((8, 8, 1), 10)
    params = jax.eval_shape(lambda key: build.init_params(Config(model=SMALL), spec, key), jax.random.key(0))
    found = flatten_dict(kernels(params), sep="/")
    assert {name for name, yes in found.items() if not yes} == {name for name in found if name.endswith("gain")}


@pytest.mark.slow
def test_a_run_of_train_py(tmp_path, capsys):
    """With EDM's preconditioning; the checkpoint has kernels of kept norm, and there are pictures."""
    (tmp_path / "edm2.py").write_text(
        "from jaxdiff.config import *\n"
        "config = Config(\n"
        "    model=EDM2UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), head_channels=8),\n"
        "    diffusion=Diffusion(schedule='edm', kind='F', preconditioning='edm', times='log_normal', weight='edm'),\n"
        "    optim=Optim(learning_rate=0.01, warmup=2),\n"
        "    train=Train(steps=4, batch_size=16, ema_decay=0.9),\n"
        "    sample=Sample(sampler='heun', steps=3, spacing='karras'),\n"
        "    log=Log(every=1, samples=10, samples_every=4, checkpoint_every=4),\n"
        ")\n"
    )
    run = tmp_path / "run"
    train_main(shlex.split(f"--config {tmp_path / 'edm2.py'} --run {run}"))
    config, spec = runs.load_run(run)
    _, params = runs.load_weights(run, config, spec, item="params")
    assert all(np.abs(found - 1).max() < 1e-6 for found in square(params).values())
    assert float(params["params"]["gain"]) != 0
    assert (run / "samples" / "step_000004.png").stat().st_size > 1000
    message = fails(capsys, train_main, f"--config {tmp_path / 'edm2.py'} --run {run} --optim.forced-weight-norm False")
    assert "optim.forced_weight_norm" in message
    unet = (
        f"--config {tmp_path / 'edm2.py'} --run {tmp_path / 'b'} --model.network unet --optim.forced-weight-norm True"
    )
    assert "expected False with --model.network unet" in fails(capsys, train_main, unet)

"""The loss of held-out images: the same for any batch size and number of devices, of the right images, never trained on."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from tiny import first_params

from jaxdiff import InputError, build
from jaxdiff.cli import train_main
from jaxdiff.config import Config, Data, Log, Train, UNet
from jaxdiff.data import Subset, batches, digits, hold_out, in_order
from jaxdiff.noise import example_keys, white_noise
from jaxdiff.report import read_metrics
from jaxdiff.train.evaluate import evaluate, pmapped

KEY = jax.random.key(3)
ROOT = Path(__file__).parents[1]


def loss_fn(params, batch, keys):
    """What an example draws shows in its loss."""
    error = (batch["image"].astype(jnp.float32) / 255 - white_noise(keys, batch["image"].shape)).mean(
        (1, 2, 3)
    ) - params
    return {"loss": error**2, "error": error}


def found(source, batch_size, params=0.5, **shares):
    return evaluate(jnp.full(1, params), in_order(source, batch_size=batch_size, **shares), KEY, pmapped(loss_fn))


def test_the_mean_is_over_every_example_once_with_its_own_noise():
    """Against numpy, for sizes that divide, do not, and are larger than the set; to the bit when done again."""
    source = Subset(digits(), np.arange(3, 1797, 50))
    assert len(source) == 36
    images = source.gather(np.arange(36))["image"] / 255
    noise = np.asarray(white_noise(example_keys(KEY, jnp.arange(36)), images.shape))
    error = (images - noise).mean((1, 2, 3)) - 0.5
    for batch_size in (1, 5, 6, 36, 64):
        result = found(source, batch_size)
        assert result == pytest.approx({"loss": (error**2).mean(), "error": error.mean()}, rel=1e-6)
        assert found(source, batch_size) == result


def test_processes_together_are_one():
    """Three, of which the last one has an example of the last batch less than the first, or none."""
    source = Subset(digits(), np.arange(40))
    counts, sums = [], {}
    for process in range(3):
        some = list(in_order(source, batch_size=3, process=process, processes=3))
        counts.append(len(some))

        def keep(found):
            for name, value in found.items():
                sums[name] = sums.get(name, 0) + value
            return found

        evaluate(jnp.full(1, 0.5), some, KEY, pmapped(loss_fn), total=keep)
    assert counts == [5, 5, 5]
    every = sums.pop("examples")
    assert every == 40
    assert {name: value / every for name, value in sums.items()} == pytest.approx(found(source, 40), rel=1e-6)


def test_no_example_is_refused():
    with pytest.raises(InputError, match="there is no example"):
        evaluate(jnp.zeros(1), [], KEY, pmapped(loss_fn))


def test_held_out_images_are_all_others_and_never_in_a_batch():
    train, held = hold_out(digits(), 300, seed=1)
    assert sorted([*train.index, *held.index]) == list(range(1797))
    again, other = hold_out(digits(), 300, seed=1)[1], hold_out(digits(), 300, seed=2)[1]
    assert (held.index == again.index).all()
    assert len(set(held.index) & set(other.index)) < 100  # 50 expected, 6 the standard deviation
    assert np.bincount(held.gather(np.arange(300))["label"]).min() >= 10  # not the first ones of something sorted
    seen = set()
    stream = batches(train, batch_size=499, seed=0)
    for _ in range(3):
        seen |= {image.tobytes() for image in next(stream)["image"]}
    everything = digits().gather(train.index)["image"]
    assert seen == {image.tobytes() for image in everything}
    for num in (-1, 0, 1797):
        with pytest.raises(InputError, match=f"--data.holdout {num}: expected 1 to 1796"):
            hold_out(digits(), num, seed=0)


TINY = Config(
    data=Data(holdout=50),
    model=UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4, dropout=0.5),
    train=Train(batch_size=16, label_dropout=0.5),
    log=Log(evaluate_every=2, time_buckets=3),
)
SPEC = build.Spec((8, 8, 1), 10)


def fresh():
    params = first_params(TINY, SPEC)
    return jax.tree.map(lambda x: x + 0.05 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), params)


def test_the_networks_loss_is_without_dropout_and_hidden_labels():
    """Half of the features dropped, and half of the labels hidden, in training; each shows in the loss there."""
    train, held = build.sources(TINY)
    assert (len(train), len(held)) == (1747, 50)
    params, key = fresh(), jax.random.key(0)
    result = build.evaluation(TINY, SPEC, held, key)(params)
    batch = held.gather(np.arange(50))
    keys = example_keys(key, jnp.arange(50))

    def mean(dropout, label_dropout):
        values = vars(TINY) | {
            "model": UNet(**vars(TINY.model) | {"dropout": dropout}),
            "train": Train(label_dropout=label_dropout),
        }
        return float(jax.jit(build.loss_fn(Config(**values), SPEC))(params, batch, keys)["loss"].mean())

    assert result["eval_loss"] == pytest.approx(mean(0.0, 0.0), rel=1e-5)
    for other in (mean(0.5, 0.0), mean(0.0, 0.5)):
        assert abs(other - result["eval_loss"]) > 1e-4
    assert {"eval_loss/t0.00-0.33", "eval_loss/t0.33-0.67", "eval_loss/t0.67-1.00"} < set(result)


def test_the_number_of_devices_does_not_show():
    code = """
import json, sys, jax
sys.path.insert(0, "tests")
from test_evaluate import *
held = build.sources(TINY)[1]
print(json.dumps([jax.local_device_count(), build.evaluation(TINY, SPEC, held, KEY)(fresh())]))
"""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_NUMPY_RANK_PROMOTION": "allow",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    devices, result = json.loads(done.stdout)
    assert devices == 4
    assert result == pytest.approx(build.evaluation(TINY, SPEC, build.sources(TINY)[1], KEY)(fresh()), rel=1e-6)


def test_splits_are_for_data_that_has_some(capsys):
    with pytest.raises(InputError, match="digits has no splits; use --data.holdout"):
        build.sources(Config(data=Data(eval_split="test")))


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_evaluates_its_moving_average_and_a_resumed_one_finds_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    command = "--config tiny.py --data.holdout 50 --log.evaluate-every 3"
    train_main(shlex.split(f"{command} --run whole"))
    train_main(shlex.split(f"{command} --run parts --train.steps 4"))
    train_main(shlex.split(f"{command} --run parts"))
    whole, parts = (
        {
            line["step"]: line["eval_loss"]
            for line in read_metrics(tmp_path / run / "metrics.jsonl")
            if "eval_loss" in line
        }
        for run in ("whole", "parts")
    )
    assert list(whole) == [3, 6]
    assert {step: loss for step, loss in parts.items() if step != 4} == whole  # 4 was a last step
    [line] = [line for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if line["step"] == 6]
    assert {"loss", "grad_norm", "seconds", "learning_rate", "host_peak_gib", "eval_loss/t0.00-0.25"} <= set(line)
    for wrong, words in [
        ("--log.evaluate-every 2", "log.evaluate_every 2: expected at least 1, with --data.holdout"),
        ("--data.holdout 2000", "--data.holdout 2000: expected 1 to 1796"),
        ("--data.holdout 9 --data.eval-split test", "give one of the two"),
        ("--log.wandb ''", "the name of a project"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            train_main(shlex.split(f"--config tiny.py --run wrong {wrong}"))
        assert words in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()

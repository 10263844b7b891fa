"""train.py --init, frozen parameters and low-rank adaptation: what is trained, and that nothing else moves."""

import dataclasses
import shlex
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cli_train import fails
from test_pretrained import SMALL, ours
from tiny import first_params

from jaxdiff import InputError, build, pretrained, runs
from jaxdiff.cli import sample_main, train_main
from jaxdiff.config import Config, Optim, Train, UNet
from jaxdiff.models import lora
from jaxdiff.train.frozen import all_but, check_frozen

CONFIG = """
from jaxdiff.config import Config, Log, Optim, Sample, Train

config = Config(
    optim=Optim(learning_rate=1e-2, warmup=0, name="adamw", weight_decay=0.1),
    train=Train(steps=2, batch_size=16, ema_decay=0.5),
    sample=Sample(steps=2, guidance=1.5),
    log=Log(every=1, samples=0, checkpoint_every=2),
)
"""
SPEC = build.Spec((8, 8, 1), 10)
NET = dataclasses.replace(SMALL, multipliers=(1,), attention_levels=(0,), dropout=0.1)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A folder of diffusers for the digits, and a config without a network."""
    folder = tmp_path_factory.mktemp("imported")
    pretrained.save_diffusers(folder / "net", ours(NET, SPEC, kind="v"))
    (folder / "tune.py").write_text(CONFIG)
    return folder


def tune(imported, run, options="", init="--init {}"):
    """Fine-tune; return the parameters before and after."""
    init = init.format(imported / "net")
    with jax.numpy_dtype_promotion("standard"):
        train_main(shlex.split(f"--config {imported / 'tune.py'} {init} --run {run} {options}"))
    config, spec = runs.load_run(run)
    assert spec == SPEC
    _, after = runs.load_weights(run, config, spec, item="params")
    return pretrained.load(imported / "net").params, after


def changed(before, after):
    return {"/".join(k.key for k in path) for path, same in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda a, b: bool((a == b).all()), before, after)) if not same}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "init"), [("--optim.frozen conv_in", "--init {}"), ("--model.lora-rank 2", "--init {}-moved"), ("", "")]
)
def test_it_resumes_as_if_it_had_never_stopped(imported, tmp_path, options, init):
    """Two steps and then two more are four, to the bit; with what it began with, or without: the run has all of it."""
    before, whole = tune(imported, tmp_path / "whole", f"{options} --train.steps 4")
    tune(imported, tmp_path / "run", options)
    _, resumed = tune(imported, tmp_path / "run", f"{options} --train.steps 4", init)
    chex.assert_trees_all_equal(resumed, whole)
    assert changed(before["params"], whole["params"]) or "lora" in whole


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_needs_its_init_again(imported, tmp_path, capsys):
    """Without it another network would be trained from nothing, in silence."""
    run = tmp_path / "run"
    tune(imported, run)
    before = (run / "run.json").read_bytes()
    words = f"--config {imported / 'tune.py'} --run {run}"
    assert "--init-options without --init" in fails(capsys, train_main, f"{words} --init-options a 1")
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet: give --init, or another --run" in fails(capsys, train_main, words)
    assert (run / "run.json").read_bytes() == before
    tune(imported, run)


@pytest.mark.slow
def test_all_parameters_learn_but_the_frozen_ones(imported, tmp_path):
    before, after = tune(
        imported, tmp_path / "all", "--optim.learning-rate 1e-30 --optim.name adam --optim.weight-decay 0"
    )
    chex.assert_trees_all_close(after, before, rtol=1e-6)  # it starts at what was imported
    before, after = tune(imported, tmp_path / "more")
    assert len(changed(before, after)) == len(jax.tree.leaves(before))
    before, after = tune(imported, tmp_path / "some", "--optim.frozen conv_in down_0 label")
    moved = changed(before, after)
    names = {"/".join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(before)}
    kept = {name for name in names if name.startswith(("params/conv_in", "params/down_0", "params/label"))}
    assert kept
    assert moved == names - kept  # to the bit, in spite of the weight decay


@pytest.mark.slow
def test_low_rank_adaptation_moves_itself_alone(imported, tmp_path):
    before, after = tune(imported, tmp_path / "run", "--model.lora-rank 2")
    assert changed(before["params"], after["params"]) == set()
    assert {name.split("/")[0] for name in after["lora"]} == {
        "down_0_0_attention", "middle_attention", "up_0_0_attention", "up_0_1_attention"
    }  # fmt: skip
    assert all(np.abs(ab["b"]).max() > 0 for ab in after["lora"].values())
    config, spec = runs.load_run(tmp_path / "run")
    with jax.numpy_dtype_promotion("standard"):
        sample_main(shlex.split(f"--run {tmp_path / 'run'} --num 2 --steps 2 --out {tmp_path / 'x.npz'}"))
    # Exported it is an ordinary network of the same outputs.
    pretrained.save_diffusers(tmp_path / "net", pretrained.Pretrained(config, spec, after))
    back = pretrained.load(tmp_path / "net")
    x, t, labels = np.ones((2, 8, 8, 1), np.float32), jnp.float32(0.5), jnp.array([1, 2])
    np.testing.assert_array_equal(back.model(labels)(x, t), build.model(config, spec, after, labels)(x, t))


def test_low_rank_adaptation_starts_as_nothing_and_is_w_plus_ab():
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((8, 24)).astype(np.float32)
    variables = {"params": {"m_attention": {"qkv": {"kernel": kernel}}, "dense": {"kernel": kernel}}}
    adapted = lora.adapted(jax.random.key(0), variables, rank=3)
    chex.assert_trees_all_equal(lora.merged(adapted), variables)
    [name] = adapted["lora"]
    b = rng.standard_normal((3, 24)).astype(np.float32)
    adapted["lora"][name]["b"] = b
    found = lora.merged(adapted)["params"]
    np.testing.assert_allclose(
        found["m_attention"]["qkv"]["kernel"], kernel + adapted["lora"][name]["a"] @ b, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(found["dense"]["kernel"], kernel)
    with pytest.raises(InputError, match="has none"):
        lora.adapted(jax.random.key(0), {"params": {"dense": {"kernel": kernel}}}, rank=3)


@pytest.mark.usefixtures("standard_promotion")
def test_frozen_parameters_have_no_gradient_and_no_optimiser_state():
    model = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4)
    config = Config(
        model=model, optim=Optim(frozen=("conv_in", "down", "time", "label")), train=Train(label_dropout=0.0)
    )
    params = first_params(config, SPEC)
    batch = {"image": np.zeros((2, 8, 8, 1), np.uint8), "label": np.zeros(2, np.int32)}
    loss = build.loss_fn(config, SPEC)
    keys = jax.random.split(jax.random.key(1), 2)
    gradients = jax.jit(jax.grad(lambda p: loss(p, batch, keys)["loss"].mean()))(params)
    trained = all_but(config.optim.frozen)(params)
    assert all(jax.tree.leaves(jax.tree.map(lambda g, yes: yes or not g.any(), gradients, trained)))
    numbers = sum(leaf.size for leaf, yes in zip(jax.tree.leaves(params), jax.tree.leaves(trained)) if yes)
    state = build.optimizer(config).init(params)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * numbers  # Adam's two
    everything = build.optimizer(Config(model=model)).init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(everything) if leaf.ndim) == 2 * sum(
        leaf.size for leaf in jax.tree.leaves(params)
    )


def test_what_cannot_be_frozen():
    params = {"params": {"conv_in": {"bias": 0.0}, "conv_out": {"bias": 0.0}}}
    with pytest.raises(InputError, match="nothing to freeze begins with 'down'; the modules are conv_in, conv_out"):
        check_frozen(["conv_in", "down"], params)
    with pytest.raises(InputError, match="nothing is left to train"):
        check_frozen(["conv"], params)


@pytest.mark.usefixtures("standard_promotion")
def test_what_does_not_fit_is_refused(imported, tmp_path, capsys):
    np.save(tmp_path / "rgb.npy", np.zeros((4, 8, 8, 3), np.uint8))

    def refused(options, init=imported / "net"):
        given = f"--config {imported / 'tune.py'} --init {init} --run {tmp_path / 'run'} {options}"
        message = fails(capsys, train_main, given)
        assert not (tmp_path / "run").exists()
        return message

    assert "is for images of 1 channels with 10 classes" in refused(f"--data.name {tmp_path / 'rgb.npy'}")
    assert "with 10 classes, digits has 1 and none" in refused("--data.labels False")
    assert "no null label for hidden ones; use 0" in refused("--train.label-dropout 0.1")
    assert "guidance 2.0 needs a null label" in refused("--sample.guidance 2")
    assert "--init: that network has model.channels 8, not 12" in refused("--model.channels 12")
    assert "--init: that network has model.heads 1, not 2, model.cos_first" in refused(
        "--model.heads 2 --model.cos-first True"
    )
    assert "adapts a network that was trained; give --init" in fails(
        capsys, train_main, f"--config {imported / 'tune.py'} --run {tmp_path / 'run'} --model.lora-rank 2"
    )
    assert "nothing to freeze begins with 'dwn'" in refused("--optim.frozen dwn")
    assert "--model.lora-rank and --optim.frozen: give one" in refused("--model.lora-rank 2 --optim.frozen conv_in")
    assert "has no option 'image_size'" in refused("--init-options image_size 8")
    assert "has no option 'image_size'" in refused("--init_options image_size 8")
    assert "the option a is given twice" in refused("--init-options a 1 a 2")
    assert "no such file or folder" in refused("", init=tmp_path / "none")
    message = fails(capsys, train_main, f"--config {imported / 'tune.py'} --init-options a 1")
    assert "--init-options without --init" in message
    assert "--model.network dit: the network is that of --init; leave it out" in refused("--model.network dit")
    wide = imported / "eleven"
    pretrained.save_diffusers(wide, ours(SMALL, build.Spec((8, 8, 1), 11)))
    assert "stands for no label, give --init-options null_label true" in refused("", init=wide)
    plain = imported / "unlabelled"
    pretrained.save_diffusers(plain, ours(SMALL, build.Spec((8, 8, 1), None)))
    assert "--data.labels False leaves the labels out" in refused("", init=plain)


@pytest.mark.usefixtures("standard_promotion")
def test_what_is_of_training_comes_from_the_config(imported, tmp_path, capsys):
    text = (imported / "tune.py").read_text().replace("import Config,", "import Config, Diffusion, UNet,")
    own = "model=UNet(channels=4, remat='products', dropout=0.3, lora_rank=2), diffusion=Diffusion(weight='min_snr', kind='x0'),"
    (tmp_path / "own.py").write_text(text.replace("config = Config(", f"config = Config({own}"))
    train_main(
        shlex.split(f"--config {tmp_path / 'own.py'} --init {imported / 'net'} --run {tmp_path / 'run'} --dry-run")
    )
    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert said["parameters"].endswith("are trained")
    assert "conv_in" in said["modules"]
    assert [said[f"model.{name}"] for name in ("channels", "remat", "dropout", "lora_rank")] == [
        "8",
        "products",
        "0.3",
        "2",
    ]
    assert (said["diffusion.kind"], said["diffusion.weight"]) == ("v", "min_snr")


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_resuming_with_other_weights_is_refused(imported, tmp_path, capsys):
    tune(imported, tmp_path / "run")
    other = ours(NET, SPEC, kind="v")
    other = dataclasses.replace(other, params=jax.tree.map(lambda p: p + 1, other.params))
    pretrained.save_diffusers(tmp_path / "other", other)
    given = f"--config {imported / 'tune.py'} --init {tmp_path / 'other'} --run {tmp_path / 'run'} --train.steps 4"
    assert "--init has other weights" in fails(capsys, train_main, given)

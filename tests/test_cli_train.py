"""train.py: what it writes and says, resuming, and every error in one clear message with exit code 2."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from jaxdiff import build
from jaxdiff.cli import flags, sample_main, train_main, training
from jaxdiff.cli.common import warn_of_signal
from jaxdiff.config import Diffusion
from jaxdiff.data import Subset
from jaxdiff.report import read_metrics
from jaxdiff.train.checkpoint import saved_steps

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder with tiny.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    return tmp_path


def fails(capsys, main, args):
    """Run a command that must fail cleanly; return its message."""
    with pytest.raises(SystemExit) as exit_info:
        main(shlex.split(args))
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return re.sub(r"[\s│]+", " ", message)


def test_a_run_leaves_everything_it_promises(trained):
    run = trained / "run"
    lines = read_metrics(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite([line["loss"], line["grad_norm"]]).all() for line in lines)
    assert sorted(p.name for p in (run / "checkpoints").iterdir() if p.name[0] != ".") == ["4", "6"]
    assert sorted(p.name for p in (run / "samples").iterdir()) == ["step_000003.png", "step_000006.png"]
    with Image.open(run / "samples" / "step_000006.png") as picture:
        assert picture.size == (10 * 33 + 1, 33 + 1)  # ten classes in a row, 8x8 enlarged to 32x32
    assert (run / "loss.png").stat().st_size > 5000
    assert list((run / "tensorboard").glob("events*"))
    description = json.loads((run / "run.json").read_text())
    assert description["image_shape"] == [8, 8, 1]
    assert description["num_classes"] == 10
    assert description["config"]["train"]["batch_size"] == 16


def test_the_last_line_is_a_sample_command_that_works(here, trained, capsys):
    shutil.copytree(trained / "run", here / "runs" / "tiny")
    train_main(["--config", "tiny.py", "--train.steps", "8"])  # the default run directory is runs/<config's name>
    out = capsys.readouterr().out
    command = re.search(r"python sample\.py (.*)", out)[1]
    assert command == "--run runs/tiny --num 64 --labels 3 --out samples.png"
    sample_main(shlex.split(command.replace("--num 64", "--num 4")))
    with Image.open("samples.png") as picture:
        assert picture.size == (2 * 33 + 1, 2 * 33 + 1)


def test_a_finished_run_says_so_and_how_to_continue(here, trained, capsys):
    shutil.copytree(trained / "run", here / "run")
    train_main(["--config", "tiny.py", "--run", "run", "--train.steps", "6"])
    out = capsys.readouterr().out
    assert "run: finished, 6 of 6 steps" in out
    again = re.search(r"python train\.py (.*)", out)[1]
    assert "--train.steps 12" in again
    train_main([*shlex.split(again), "--resume", "must"])
    assert [line["step"] for line in read_metrics(here / "run" / "metrics.jsonl")] == list(range(1, 13))


def test_no_pictures_if_none_are_asked_for(here, capsys):
    command = shlex.split("--config tiny.py --run run --train.steps 3 --log.samples 0")
    train_main(command)
    assert "done. Checkpoints, run/loss.png" in capsys.readouterr().out
    assert not (here / "run" / "samples").exists()
    train_main(command)
    assert "run: finished, 3 of 3 steps" in capsys.readouterr().out


def test_dry_run_prints_the_plan_and_writes_nothing(here, capsys):
    train_main(shlex.split("--config tiny.py --dry-run --train.batch_size 8 --seed 5"))
    out = capsys.readouterr().out
    for pattern in (r"seed +5\n", r"train\.batch_size +8\n", r"images +8x8x1, 10 classes", r"batch 8 each"):
        assert re.search(pattern, out), pattern
    assert int(re.search(r"parameters +([\d,]+)", out)[1].replace(",", "")) > 1000
    assert re.search(r"compiled memory per device +\d+ MiB", out)
    assert [p.name for p in here.iterdir()] == ["tiny.py"]


@pytest.mark.parametrize("field", ["--train.batch_size", "--train.batch-size"])
def test_a_hyphen_and_an_underscore_are_the_same(here, field, capsys):
    assert "batch size 0" in fails(capsys, train_main, f"--config tiny.py {field} 0").replace(
        "batch_size", "batch size"
    )


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("", ["--config", "required"]),
        ("--config nowhere.py", ["nowhere.py", "no such file"]),
        ("--config empty.py", ["config = Config(...)", "sets no such name"]),
        ("--config wrong.py", ["sets it to a dict"]),
        ("--config broken.py", ["does not run", "NameError", "Confg"]),
        ("--config typo.py", ["unexpected keyword argument 'stepz'", "Did you mean steps?"]),
        ("--config illtyped.py", ["illtyped.py", "train.steps", "int"]),
        (
            "--config tiny.py --diffusion.schedule flow --diffusion.kind eps",
            ["kind eps says nothing of the data at t = 1"],
        ),
        ("--config tiny.py --optim.weight-decay 0.1", ["optim.weight_decay", "only adamw"]),
        ("--config tiny.py --optim.b1 1.5", ["optim.b1", "0 <= b1 < 1"]),
        (
            "--config tiny.py --diffusion.schedule vp --diffusion.schedule-options beta_min -1",
            ["VP: expected 0 < beta_min"],
        ),
        ("--config tiny.py --train.stepz 3", ["--train.stepz", "Perhaps you meant", "--train.steps"]),
        ("--config tiny.py --train.steps many", ["--train.steps", "many"]),
        ("--config tiny.py --train.steps 0", ["--train.steps 0", "at least 1"]),
        ("--config tiny.py --optim.learning-rate -1", ["optim.learning_rate", "positive"]),
        ("--config unet.py --model.channels 6", ["model.channels", "multiple of 4"]),
        ("--config unet.py --model.multipliers 1 1 1 1 1", ["divisible by 16", "8x8"]),
        ("--config unet.py --model.heads 3", ["cannot be split into 3 heads"]),
        ("--config tiny.py --diffusion.schedule cosin", ["unknown schedule 'cosin'", "Did you mean cosine?"]),
        ("--config tiny.py --diffusion.schedule-options beta 1", ["no option 'beta'", "max_beta"]),
        ("--config tiny.py --diffusion.kind noise", ["unknown prediction kind 'noise'", "eps"]),
        ("--config tiny.py --diffusion.weight min_snrr", ["unknown weight", "Did you mean min_snr?"]),
        ("--config tiny.py --diffusion.weight-options gamma 5", ["without --diffusion.weight"]),
        (
            "--config tiny.py --diffusion.weight p2 --diffusion.weight-options beta 1",
            ["weight p2 has no option 'beta'", "gamma, k"],
        ),
        ("--config tiny.py --diffusion.times late", ["unknown times 'late'", "log_normal"]),
        ("--config tiny.py --diffusion.preconditioning edn", ["unknown preconditioning", "Did you mean edm?"]),
        (
            "--config tiny.py --diffusion.schedule flow --diffusion.kind v --diffusion.preconditioning ve",
            ["divides by alpha, which is 0", "use edm"],
        ),
        (
            "--config tiny.py --diffusion.schedule flow --diffusion.kind v --diffusion.learned-variance True",
            ["no steps whose variance could be learned", "use a table"],
        ),
        ("--config tiny.py --sample.sampler ddpm --sample.variance learned_range", ["learns no variance"]),
        ("--config tiny.py --sample.sampler dpm_solver --sample.eta 0.5", ["the SDE solver follows x0"]),
        ("--config tiny.py --sample.sampler heun --sample.eta 0.5", ["eta", "heun has no eta"]),
        ("--config tiny.py --sample.sampler dimm", ["unknown sampler", "Did you mean ddim?"]),
        ("--config tiny.py --sample.steps 2000", ["2000 steps", "table of 1000"]),
        ("--config tiny.py --train.label-dropout 0", ["guidance 1.5", "label_dropout is 0"]),
        ("--config tiny.py --log.samples 1 --train.steps-per-call 4", ["must divide", "(6, 3, 2)"]),
        ("--config tiny.py --data.name digit", ["unknown data set", "digits", ".npz"]),
        ("--config tiny.py --data.name tfds:no_such_set", ["unknown data set tfds:no_such_set", ".npz"]),
        ("--config tiny.py --data.name tfds:mnist --data.dir empty", ["could not be loaded", "empty", "--data.dir"]),
        ("--config tiny.py --data.name none.npz", ["none.npz", "no such file"]),
        ("--config tiny.py --data.name empty.npz", ["empty.npz", "not a readable numpy file"]),
        ("--config tiny.py --data.name cut.npz", ["cut.npz", "not a readable numpy file"]),
        ("--config tiny.py --data.name floats.npz", ["floats.npz", "expected uint8"]),
        ("--config tiny.py --run tiny.py/run", ["tiny.py/run", "cannot be written"]),
        ("--config tiny.py --resume must", ["--resume must", "no checkpoint"]),
    ],
)
def test_errors_come_before_anything_is_written(here, capsys, args, words):
    (here / "unet.py").write_text(tiny.U_NET)
    (here / "empty.py").write_text("x = 1\n")
    (here / "wrong.py").write_text("config = {}\n")
    (here / "broken.py").write_text("config = Confg()\n")
    (here / "typo.py").write_text("from jaxdiff.config import *\nconfig = Config(train=Train(stepz=1))\n")
    (here / "illtyped.py").write_text("from jaxdiff.config import *\nconfig = Config(train=Train(steps='3'))\n")
    (here / "empty.npz").write_bytes(b"")
    np.savez(here / "whole.npz", images=np.zeros((9, 8, 8), np.uint8))
    (here / "cut.npz").write_bytes((here / "whole.npz").read_bytes()[:200])
    np.savez(here / "floats.npz", images=np.zeros((9, 8, 8), np.float32))
    message = fails(capsys, train_main, args)
    for word in words:
        assert word in message, message
    assert not (here / "runs").exists()


@pytest.mark.parametrize(("schedule", "warns"), [("geometric", True), ("cosine", False), ("ve", False), ("vp", False)])
def test_a_schedule_that_does_not_end_in_noise_is_warned_of(capsys, schedule, warns):
    """alpha / sigma at t = 1: 0.75 for geometric (alpha_bar = 0.36), below 0.1 for the others."""
    warn_of_signal(build.schedule(Diffusion(schedule=schedule)))
    assert ("warning: this schedule ends at t = 1 with alpha / sigma = 0.7" in capsys.readouterr().err) == warns


def test_a_training_says_so(here, capsys):
    train_main(shlex.split("--config tiny.py --dry-run --diffusion.schedule geometric"))
    assert "warning: this schedule ends at t = 1 with alpha / sigma = 0.7" in capsys.readouterr().err


def test_a_run_of_another_config_is_refused_with_the_keys_and_left_as_it_was(here, trained, capsys):
    shutil.copytree(trained / "run", here / "run")
    before = {p: p.read_bytes() for p in (here / "run").rglob("*") if p.is_file()}
    message = fails(capsys, train_main, "--config tiny.py --run run --seed 1 --model.dropout 0 --train.steps 9")
    assert "seed: 0 there, 1 now" in message
    assert "model.dropout: 0.1 there, 0.0 now" in message
    assert "train.steps" not in message  # a run may go on for longer
    assert "--resume never: run has checkpoints" in fails(
        capsys, train_main, "--config tiny.py --run run --resume never"
    )
    assert {p: p.read_bytes() for p in (here / "run").rglob("*") if p.is_file()} == before


def test_a_folder_with_other_things_in_it_is_left_alone(here, capsys):
    """A network of diffusers, which would be taken for a run from then on; and a run.json that is no run's."""
    for name, text, message in [
        ("config.json", "{}", "run directory net: has a network of diffusers in it"),
        ("run.json", "mine", "not readable as the description of a run"),
    ]:
        (here / "net").mkdir()
        (here / "net" / name).write_text(text)
        assert message in fails(capsys, train_main, "--config tiny.py --run net")
        assert [(path.name, path.read_text()) for path in (here / "net").iterdir()] == [(name, text)]
        shutil.rmtree(here / "net")
    (here / "logged").mkdir()
    (here / "logged" / "log.txt").write_text("of a batch system")
    train_main(shlex.split("--config tiny.py --run logged --dry-run"))


def test_resuming_with_other_data_under_the_same_name_is_refused(here, capsys):
    rng = np.random.default_rng(0)
    np.savez("images.npz", images=rng.integers(0, 256, (20, 8, 8, 1), np.uint8))
    args = "--config tiny.py --data.name images.npz --train.steps"
    train_main(shlex.split(f"{args} 2"))
    np.savez("images.npz", images=rng.integers(0, 256, (21, 8, 8, 1), np.uint8))
    assert "the data has changed, images was 20 and is 21" in fails(capsys, train_main, f"{args} 4")
    np.savez("images.npz", images=rng.integers(0, 256, (20, 8, 8, 1), np.uint8))
    assert "the data has changed, checksum was" in fails(capsys, train_main, f"{args} 4")


def test_a_run_killed_before_its_last_picture_is_completed_by_the_same_command(here, trained, capsys):
    shutil.copytree(trained / "run", here / "run")
    (here / "run" / "samples" / "step_000006.png").unlink()
    (here / "run" / "loss.png").unlink()
    train_main(shlex.split("--config tiny.py --run run --log.samples 10"))
    assert "run: done" in capsys.readouterr().out
    with (
        Image.open(here / "run" / "samples" / "step_000006.png") as made,
        Image.open(trained / "run/samples/step_000006.png") as before,
    ):
        np.testing.assert_array_equal(np.asarray(made), np.asarray(before))
    assert (here / "run" / "loss.png").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(here, capsys):
    """Adam with a learning rate of 1e30 overflows float32 after the checkpoint of step 2."""
    config = tiny.CONFIG.replace("learning_rate=1e-3, warmup=2", "learning_rate=1e-3, warmup=0")
    (here / "tiny.py").write_text(config + "import dataclasses\n")
    train_main(shlex.split("--config tiny.py --train.steps 2"))
    before = {p: p.read_bytes() for p in (here / "runs/tiny/checkpoints").rglob("*") if p.is_file()}
    description = json.loads((here / "runs/tiny/run.json").read_text())
    description["config"]["optim"]["learning_rate"] = 1e30
    (here / "runs/tiny/run.json").write_text(json.dumps(description))
    message = fails(capsys, train_main, "--config tiny.py --optim.learning_rate 1e30 --train.skip-limit 0")
    assert re.search(r"not finite at step [345]: ", message), message
    assert "The checkpoint of step 2 is kept" in message
    assert "--optim.learning-rate" in message
    assert {p: p.read_bytes() for p in (here / "runs/tiny/checkpoints").rglob("*") if p.is_file()} == before


def test_stopped_before_the_first_step_nothing_is_saved(here, capsys, monkeypatch):
    """A checkpoint of step 0 would count as none, and yet be there to be gone on from, by a run of another seed."""
    stopped = threading.Event()
    stopped.set()
    monkeypatch.setattr(training, "_stop_signal", lambda: nullcontext(stopped))
    train_main(["--config", "tiny.py", "--run", "run"])
    assert "run: stopped before the first step; the same command starts again" in capsys.readouterr().out
    assert saved_steps(Path("run/checkpoints").absolute()) == []


def test_images_held_out_that_cannot_be_read_are_no_reason_to_end(here, capsys, monkeypatch):
    def gather(self, index, before=Subset.gather):
        if len(self) == 10:
            raise OSError(5, "Input/output error")
        return before(self, index)

    monkeypatch.setattr(Subset, "gather", gather)
    train_main(["--config", "tiny.py", "--run", "run", "--data.holdout", "10"])
    assert "no evaluation at step 2: [Errno 5] Input/output error" in capsys.readouterr().err
    assert saved_steps(Path("run/checkpoints").absolute()) == [4, 6]


def test_bf16_remat_adamw_cosine_and_a_continuous_schedule_train(here):
    """The settings that no other test turns, together, for two finite steps; npz images without labels."""
    (here / "unet.py").write_text(tiny.U_NET)
    rng = np.random.default_rng(0)
    np.savez("images.npz", images=rng.integers(0, 256, (20, 8, 12, 3), np.uint8))
    train_main(
        shlex.split(
            "--config unet.py --data.name images.npz --data.flip True --diffusion.schedule flow --diffusion.kind "
            "velocity --model.dtype bfloat16 --model.remat products --optim.name adamw --optim.weight-decay 0.1 "
            "--optim.decay cosine --train.steps 3 --log.samples 10 --log.checkpoint-every 3 "
            "--sample.sampler ddpm --sample.variance fixed_small --train.steps-per-call 3 --model.scale-shift False"
        )
    )
    lines = read_metrics(here / "runs" / "unet" / "metrics.jsonl")
    assert np.isfinite([line["loss"] for line in lines]).all()


def test_compiled_programs_are_kept_in_the_user_s_cache(tmp_path):
    """In a process of its own: in this one, the tests' cache is in use."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    code = "import jax; from jaxdiff.cli.common import use_compilation_cache as use; use(); print(jax.config.jax_compilation_cache_dir)"

    def found(**more):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | {"XDG_CACHE_HOME": str(tmp_path)} | more, capture_output=True,
            text=True, check=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        return done.stdout.strip()

    assert found() == str(tmp_path / "jaxdiff" / "xla")
    assert found(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "other")) == str(tmp_path / "other")


def test_recommended_flags_are_added_to_the_user_s_and_can_be_left_out(monkeypatch):
    monkeypatch.setattr(flags, "PLUGINS", ())
    monkeypatch.setattr(flags, "RECOMMENDED", {flags.version(): {"xla_a": "1", "xla_b": "2"}})

    def found(**given):
        for name in ("XLA_FLAGS", "JAXDIFF_XLA_FLAGS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        flags.use_recommended_flags()
        return os.environ.get("XLA_FLAGS", "")

    assert found() == "--xla_a=1 --xla_b=2"
    assert found(XLA_FLAGS="--xla_c=3 --xla_b=4") == "--xla_c=3 --xla_b=4 --xla_a=1"
    assert found(XLA_FLAGS="--xla_b_long=4") == "--xla_b_long=4 --xla_a=1 --xla_b=2"
    assert found(JAXDIFF_XLA_FLAGS="0") == ""
    assert found(XLA_FLAGS="/a/file/of/flags") == "/a/file/of/flags"
    monkeypatch.setattr(flags, "PLUGINS", ("json",))  # where another device's is installed
    assert found() == ""
    monkeypatch.setattr(flags, "PLUGINS", ())
    monkeypatch.setattr(flags, "RECOMMENDED", {(0, 1): {"xla_a": "1"}})
    assert found() == ""


def test_the_recommended_flags_exist():
    """One that this jaxlib does not know would end every command."""
    code = (
        "import jax; from jaxdiff.cli.flags import use_recommended_flags as use; use(); print(jax.numpy.ones(2).sum())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=Path(__file__).parents[1])


def test_a_network_by_its_name_keeps_what_all_networks_have(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shared = "from jaxdiff.config import Config, UNet\nconfig = Config(model=UNet(dropout=0.25, remat='blocks'))"
    (tmp_path / "c.py").write_text(shared)
    words = "--config c.py --model.network dit --model.width 24 --model.depth 1 --model.heads 2 --dry-run"
    train_main(shlex.split(words))
    said = {
        line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if line.startswith("model.")
    }
    assert (said["model.network"], said["model.dropout"], said["model.remat"], said["model.width"]) == (
        "dit", "0.25", "blocks", "24",
    )  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        train_main(shlex.split("--config c.py --model.network unett"))
    assert stopped.value.code == 2
    assert "unknown network 'unett'. Did you mean unet?" in capsys.readouterr().err
    train_main(shlex.split(f"{words} --model.network uvit --model.network dit"))  # the last one holds, as of any flag
    assert re.search(r"model\.network +dit\n", capsys.readouterr().out)

"""Every option of the commands of images does something, or is refused by name: none is silently ignored.

A row of `ROWS` is `Does(args, base)`, which makes other pictures (or scores) than `base` alone, or the words by which
`Refused(args, words)` is answered. Both are added to the command's own arguments, `BASE`, and replace those they name.
"""

import json
import shlex
from typing import NamedTuple

import jax
import numpy as np
import pytest
import tiny
from test_cli_train import fails
from test_docs import options

from jaxdiff.cli import main, train_main
from jaxdiff.cli.main import app
from jaxdiff.data import digits

COMMANDS = ["inpaint", "restore", "super-resolution", "denoise", "variations", "transfer", "edit", "interpolate", "anomaly",
            "augment"]  # fmt: skip


class Does(NamedTuple):
    args: str
    base: str = ""


class Refused(NamedTuple):
    args: str
    words: str


BASE = {
    "inpaint": "--images two.npz --mask left --method replacement --sampler ddim",
    "restore": "--images two.npz --operator downsample --degrade --method null_space --sampler ddim --guidance 2",
    "super-resolution": "--images two.npz --degrade --sampler ddim",
    "denoise": "--images two.npz --noise 0.3 --guidance 2",
    "variations": "--images two.npz --steps 6 --sampler ddim",
    "transfer": "--images two.npz --labels 3 --corrections 0 --guidance 2",
    "edit": "--images two.npz --more 3 --less 1 --corrections 0 --guidance 2",
    "interpolate": "--images two.npz --through noised --labels 3 --steps 6 --sampler ddim",
    "anomaly": "--images two.npz --score profile --draws 1 --standard no --levels 0.5",
    "augment": "--data twenty.npz --per-class 1 --sampler ddim",
}
NETWORK = {
    "run": Refused("--run nowhere", "nowhere: no run here"),
    "pretrained": Refused("--pretrained x.pt", "give either --run FOLDER"),
    "pretrained-options": Refused("--pretrained-options image_size 8", "--pretrained-options without --pretrained"),
    "step": Refused("--step 5", "no checkpoint of step 5"),
    "weights": Does("--weights params"),
    "batch": Refused("--batch 0", "--batch 0: expected at least 1"),
    "dtype": Refused("--dtype float16", "float16"),
    "seed": Does("--seed 1"),
}
CLASSIFIER = {
    "classifier": Refused("--classifier x.pt", "--classifier: of pictures that begin from noise alone"),
    "classifier-scale": Refused("--classifier-scale 2", "--classifier-scale: of pictures that begin"),
    "classifier-options": Refused("--classifier-options image_size 8", "--classifier-options: of pictures that begin"),
}
SAMPLING = {
    "guidance": Does("--guidance 3"),
    "sampler": Refused("--sampler none", "unknown sampler 'none'"),
    "steps": Refused("--steps 0", "--steps 0: expected at least 1"),
    "eta": Does("--eta 0.5"),
    "variance": Refused("--variance fixed_large", "--variance: the sampler ddim has no variance"),
    "spacing": Does("--spacing karras"),
    "temperature": Does("--temperature 0.5", "--eta 1"),
}
FEW = {
    "dtype": Does("--dtype bfloat16"),
    "steps": Does("--steps 4"),
    "sampler": Does("--sampler ddpm"),
    "variance": Does("--variance fixed_large", "--sampler ddpm"),
}
"""Of those whose programs compile the fastest; the others read them by the same function, `prepare`."""
RECONSTRUCTION = "--score reconstruction --steps 3 --sampler"
OF_RECONSTRUCTION = {
    "sampler": Does("--sampler ddpm", f"{RECONSTRUCTION} ddim"),
    "steps": Does("--steps 1", f"{RECONSTRUCTION} ddim"),
    "eta": Does("--eta 0.5", f"{RECONSTRUCTION} ddim"),
    "variance": Does("--variance fixed_large", f"{RECONSTRUCTION} ddpm"),
    "spacing": Does("--spacing karras", f"{RECONSTRUCTION} ddim"),
    "temperature": Does("--temperature 0.5", f"{RECONSTRUCTION} ddpm"),
}
START = {"truncation": Does("--truncation 0.5"), "start-scale": Does("--start-scale 0.5")}
NO_START = {
    "truncation": Refused("--truncation 1", "--truncation: of pictures that begin from noise alone"),
    "start-scale": Refused("--start-scale 1.5", "--start-scale: of pictures that begin from noise alone"),
}
IMAGES = {
    "images": Refused("--images none.npz", "none.npz: no such file"),
    "split": Refused("--split test", "--images two.npz: has no splits, of which test would be one"),
    "size": Refused("--size 5", "5x5x1; expected"),
    "channels": Refused("--channels 3", "8x8x3; expected"),
    "num": Refused("--num 3", "--num 3: there are 2 images"),
    "out": Refused("--out x.jpg", "--out x.jpg"),
}
OF_IMAGES = NETWORK | CLASSIFIER | SAMPLING | NO_START | IMAGES
OF_IMAGES |= {"labels": Does("--labels 7"), "draws": Does("--draws 2")}
GUIDED = {
    "noise": Does("--noise 0.5", "--method moments"),
    "iterations": Does("--iterations 1", "--method moments"),
    "zeta": Does("--zeta 0.2", "--method dps --steps 4 --sampler ddpm"),
}
DETERMINISTIC = {
    "sampler": Refused("--sampler ddpm", "this is done with ddim"),
    "eta": Refused("--eta 0.5", "DDIM without noise; leave --eta and --temperature out"),
    "temperature": Refused("--temperature 0.5", "DDIM without noise; leave --eta and --temperature out"),
    "seed": Refused("--seed 1", "--seed 1: nothing is drawn"),
    "draws": Refused("--draws 2", "--draws 2: nothing is drawn"),
    "strength": Does("--strength 0.7"),
    "corrections": Does("--corrections 1"),
}
LEFT_OUT = {
    name: Refused(f"--{name} {value}", f"leave --{name} out")
    for name, value in {
        "classifier": "x.pt", "classifier-scale": "2", "classifier-options": "image_size 8", "labels": "3",
        "guidance": "2", "truncation": "1", "start-scale": "2",
    }.items()
}  # fmt: skip
NORMAL = "--standard z --normal-num 20"
ROWS = {
    "inpaint": OF_IMAGES | GUIDED | {
        "mask": Does("--mask right"),
        "method": Does("--method null_space"),
        "jump-length": Does("--jump-length 2", "--method repaint --resamplings 2 --jump-length 1"),
        "resamplings": Does("--resamplings 3", "--method repaint --resamplings 2 --jump-length 1"),
    },
    "restore": OF_IMAGES | GUIDED | {
        "operator": Does("--operator blur"),
        "factor": Does("--factor 4"),
        "blur": Does("--blur 0.5", "--operator blur"),
        "degrade": Refused("--degrade --images small.npz", "--images small.npz: 4x4x1; expected 8x8x1"),
        "method": Does("--method moments"),
    },
    "super-resolution": OF_IMAGES | START | FEW | {
        "pretrained": Refused("--pretrained x.pt", "--pretrained: no such network is given small pictures"),
        "classifier": Refused("--classifier x.pt", "--classifier: guides no super-resolution"),
        "classifier-scale": Refused("--classifier-scale 2", "--classifier-scale and --classifier-options without"),
        "classifier-options": Refused("--classifier-options a 8", "--classifier-scale and --classifier-options without"),
        "degrade": Refused("--degrade --images small.npz", "4x4x1; expected 8x8x1, for the network; give --size 8"),
        "level": Does("--level 0.4"),
        "mean": Does("--mean --draws 2", "--draws 2"),
    },
    "denoise": OF_IMAGES | FEW | {
        "sampler": Does("--sampler ddim"),  # by default ddpm, whose draws differ
        "eta": Does("--eta 0.5", "--sampler ddim"),
        "variance": Does("--variance fixed_large"),
        "temperature": Does("--temperature 0.5"),
        "spacing": Refused("--spacing karras", "--spacing karras: the steps from the noise down are equal"),
        "noise": Does("--noise 0.6"),
        "mean": Does("--mean"),
        "degrade": Does("--degrade 0.2"),
    },
    "variations": OF_IMAGES | FEW | {"strength": Does("--strength 0.9")},
    "transfer": OF_IMAGES | DETERMINISTIC | {
        "source-labels": Does("--source-labels 5"),
        "to-run": Refused("--to-run nowhere", "nowhere: no run here"),
    },
    "edit": OF_IMAGES | DETERMINISTIC | {
        "more": Does("--more 4"),
        "less": Does("--less 2"),
        "scale": Does("--scale 4"),
    },
    "interpolate": OF_IMAGES | {
        "draws": Refused("--draws 2", "--draws 2: there is one path"),
        "shown": Does("--shown 2"),
        "through": Does("--through latents --corrections 0"),
        "strength": Does("--strength 0.9"),
        "corrections": Does("--corrections 1", "--through latents --corrections 0"),
    },
    "anomaly": NETWORK | OF_RECONSTRUCTION | IMAGES | LEFT_OUT | {
        "out": Refused("--out x.txt", "--out x.txt: expected a file whose name ends in .json or .npz"),
        "score": Does("--score reconstruction"),
        "levels": Does("--levels 0.7"),
        "draws": Does("--draws 2"),
        "standard": Does("--standard z"),
        "heat-map": Refused("--score reconstruction --heat-map x.jpg", "--heat-map x.jpg: expected a file whose name ends in .png"),
        "shown": Refused("--shown 0", "--shown 0: expected at least 1"),
        "normal": Does("--normal twenty.npz", NORMAL),
        "normal-num": Does("--normal-num 40", NORMAL),
        "normal-split": Refused(f"{NORMAL} --normal-split test", "--normal-split test: is of --normal"),
        "dir": Refused("--dir x", "--dir x: prepared TFDS sets are there, and none is asked for"),
        "labels-normal": Does("--labels-normal 1"),
        "labels-anomalous": Does("--labels-anomalous 1"),
    },
    "augment": NETWORK | SAMPLING | START | FEW | {
        "labels": LEFT_OUT["labels"],
        "classifier": Refused("--classifier x.pt", "x.pt"),
        "classifier-scale": Refused("--classifier-scale 2", "--classifier-scale and --classifier-options without"),
        "classifier-options": Refused("--classifier-options a 8", "--classifier-scale and --classifier-options without"),
        "per-class": Does("--per-class 2"),
        "data": Refused("--data none.npz", "none.npz: no such file"),
        "out": Refused("--out x.png", "--out x.png: expected a file whose name ends in .npz"),
    },
}  # fmt: skip
CASES = [(command, option) for command in COMMANDS for option in ROWS[command]]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Two runs whose labels make a difference, and some digits."""
    folder = tmp_path_factory.mktemp("options")
    config = tiny.CONFIG.replace("learning_rate=1e-3", "learning_rate=3e-2").replace("ema_decay=0.9", "ema_decay=0.5")
    enlarging = config.replace("import Config", "import Condition, Config").replace(
        "optim=", "condition=Condition(factor=2),\n    optim="
    )
    for name, text in (("run", config), ("enlarges", enlarging)):
        (folder / f"{name}.py").write_text(text)
        with jax.numpy_dtype_promotion("standard"):
            train_main(["--config", str(folder / f"{name}.py"), "--run", str(folder / name)])
    images, labels = digits().images, digits().labels
    np.savez(folder / "two.npz", images=images[:2], labels=labels[:2])
    np.savez(folder / "twenty.npz", images=images[20:40], labels=labels[20:40])
    np.savez(folder / "small.npz", images=images[:2, ::2, ::2], labels=labels[:2])
    return folder


@pytest.fixture(scope="module")
def made():
    """What commands have made, by their words."""
    return {}


def words_of(text):
    """`--a 1 2 --b` as {"--a": ["1", "2"], "--b": []}."""
    found = {}
    for word in shlex.split(text):
        if word.startswith("--"):
            found[word] = []
        else:
            found[list(found)[-1]].append(word)
    return found


def line(command, here, out, *texts):
    """The command line of `BASE` and these, of which the last that says something of an option counts."""
    run = here / ("enlarges" if command == "super-resolution" else "run")
    found = words_of(f"--run {run} --out {out} {BASE[command]}")
    for text in texts:
        found |= words_of(text)
    return shlex.join([command, *(word for flag, values in found.items() for word in (flag, *values))])


def result(command, here, made, *texts):
    """The pictures, or the scores and their AUROC."""
    out = here / ("out.json" if command == "anomaly" else "out.npz")
    args = line(command, here, out, *texts)
    if args not in made:
        main(shlex.split(args))
        if command == "anomaly":
            found = json.loads(out.read_text())
            made[args] = np.array([*found["scores"].values(), -1 if found["auroc"] is None else found["auroc"]])
        else:
            with np.load(out) as file:
                made[args] = file["images"]
        out.unlink()
    return made[args]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_row(command):
    assert sorted(options(app._subcommands[command.replace("-", "_")].target)) == sorted(
        f"--{name}" for name in ROWS[command]
    )


@pytest.mark.parametrize(("command", "option"), CASES, ids=[f"{command} --{option}" for command, option in CASES])
def test_an_option_does_something_or_is_refused(command, option, here, made, monkeypatch, capsys):
    monkeypatch.chdir(here)
    row = ROWS[command][option]
    assert f"--{option}" in words_of(row.args)
    if isinstance(row, Refused):
        before = sorted(here.iterdir())
        message = fails(capsys, main, line(command, here, "out.npz" if command != "anomaly" else "out.json", row.args))
        assert row.words in message, message
        assert sorted(here.iterdir()) == before
        return
    without, given = result(command, here, made, row.base), result(command, here, made, row.base, row.args)
    assert without.shape != given.shape or (without != given).any(), f"--{option} changes nothing"

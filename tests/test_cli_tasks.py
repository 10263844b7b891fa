"""The commands that begin from images, on a run of a few steps."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.cli import main
from jaxdiff.cli.inpaint import known_of
from jaxdiff.data import digits
from jaxdiff.typing import InputError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six digits, and the same at half their size and with colours."""
    folder = tmp_path_factory.mktemp("images")
    some = digits().gather(np.arange(6))
    whole = some["image"]
    small = whole.reshape(6, 4, 2, 4, 2, 1).mean((2, 4)).astype(np.uint8)
    np.savez(folder / "whole.npz", images=whole, labels=some["label"])
    np.savez(folder / "unlabelled.npz", images=whole)
    np.savez(folder / "small.npz", images=small)
    np.savez(folder / "colours.npz", images=np.repeat(whole, 3, -1))
    return folder


def run(trained, images, *args, out="x.npz", file="whole.npz", tmp_path):
    main(
        [
            args[0],
            "--run",
            str(trained / "run"),
            "--images",
            str(images / file),
            *args[1:],
            "--out",
            str(tmp_path / out),
        ]
    )
    return tmp_path / out


COMMANDS = {
    "inpaint": ("inpaint", "--mask", "left", "--resamplings", "2"),  # the default jump fits the 3 steps
    "outpaint": ("inpaint", "--mask", "frame:2", "--method", "replacement", "--sampler", "ddim"),
    "guided": ("inpaint", "--mask", "center:3", "--method", "moments"),
    "dps": ("inpaint", "--mask", "random:0.5", "--method", "dps", "--steps", "4"),
    "restore": ("restore", "--operator", "downsample", "--degrade", "--noise", "0.1"),
    "blur": ("restore", "--operator", "blur", "--method", "null_space"),
    "denoise": ("denoise", "--degrade", "0.3"),
    "mean": ("denoise", "--noise", "0.2", "--mean"),
    "variations": ("variations", "--strength", "0.7"),
    "transfer": ("transfer", "--labels", "3"),
    "edit": ("edit", "--more", "3", "--less", "1"),
    "interpolate": ("interpolate", "--shown", "3"),
    "noised": ("interpolate", "--shown", "2", "--through", "noised", "--strength", "0.7"),
}
RANDOM = ["inpaint", "dps", "restore", "denoise", "variations", "noised"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_makes_pictures_and_each_is_the_same_in_any_batch(name, trained, images, tmp_path):
    command = COMMANDS[name]
    once = np.load(run(trained, images, *command, tmp_path=tmp_path))
    again = np.load(run(trained, images, *command, "--batch", "4", out="y.npz", tmp_path=tmp_path))
    assert once["images"].dtype == np.uint8
    assert once["images"].shape[1:] == (8, 8, 1)
    assert np.abs(once["images"].astype(int) - again["images"]).max() <= 1
    if name in RANDOM:
        other = np.load(run(trained, images, *command, "--seed", "1", out="z.npz", tmp_path=tmp_path))
        assert (once["images"] != other["images"]).any()


def test_what_is_known_stays(trained, images, tmp_path):
    """To the bit, in every draw; the rest changes; a grid has a row for each image."""
    made = np.load(run(trained, images, *COMMANDS["outpaint"], "--draws", "2", tmp_path=tmp_path))["images"]
    real = np.load(images / "whole.npz")["images"]
    np.testing.assert_array_equal(made[::2, 2:-2, 2:-2], real[:, 2:-2, 2:-2])
    assert (made[::2] != made[1::2]).any()
    assert (made[::2, 0] != real[:, 0]).any()
    path = run(trained, images, *COMMANDS["outpaint"], "--draws", "2", out="x.png", tmp_path=tmp_path)
    with Image.open(path) as picture:
        assert picture.size == (4 * 33 + 1, 6 * 33 + 1)


def test_measurements_that_are_files(trained, images, tmp_path):
    args = ("restore", "--operator", "downsample", "--method", "null_space")
    made = np.load(run(trained, images, *args, file="small.npz", tmp_path=tmp_path))["images"]
    assert made.shape == (6, 8, 8, 1)


def test_a_transfer_to_the_own_label_returns_the_picture(trained, images, tmp_path):
    """Inversion and generation are inverse, but for the steps' length; by another run that is the same one, too."""
    args = ("transfer", "--source-labels", "1", "--labels", "1", "--corrections", "3", "--steps", "200")
    made = np.load(run(trained, images, *args, tmp_path=tmp_path))["images"]
    real = np.load(images / "whole.npz")["images"]
    assert np.abs(made.astype(int) - real).mean() < 8
    again = run(trained, images, *args, "--to-run", str(trained / "run"), out="y.npz", tmp_path=tmp_path)
    np.testing.assert_array_equal(np.load(again)["images"], made)


def test_labels_that_are_not_given(trained, images, tmp_path, capsys):
    """A network that is told none says none: -1, which is no class when the file is read again."""
    found = np.load(run(trained, images, "variations", file="unlabelled.npz", tmp_path=tmp_path))
    assert "no labels that the network knows" in capsys.readouterr().err
    assert found["labels"].tolist() == [-1] * 6
    folder = run(trained, images, "variations", file="unlabelled.npz", out="x", tmp_path=tmp_path)
    assert sorted(path.name for path in folder.iterdir())[0] == "000000.png"
    found = np.load(run(trained, images, "variations", out="y.npz", tmp_path=tmp_path))
    assert found["labels"].tolist() == [0, 1, 2, 3, 4, 5]


def test_masks():
    shape = (6, 8, 1)
    count = {"left": 24, "right": 24, "top": 24, "bottom": 24, "center:2": 4, "frame:1": 24, "center:6": 36}
    for mask, unknown in count.items():
        known = known_of(mask, shape, seed=0)
        assert known.shape == (6, 8, 1)
        assert (known == 0).sum() == unknown, mask
    assert 0 < (known_of("random:0.5", shape, seed=0) == 0).sum() < 48
    assert known_of("left", shape, seed=0)[0, :, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_a_mask_from_a_file(tmp_path):
    white = np.zeros((6, 8), np.uint8)
    white[2, 3] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    known = known_of(str(tmp_path / "mask.png"), (6, 8, 3), seed=0)
    assert known[2, 3, 0] == 0
    assert known.sum() == 47
    with pytest.raises(InputError, match="6x8 pixels; expected 8x8"):
        known_of(str(tmp_path / "mask.png"), (8, 8, 3), seed=0)
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        known_of(str(tmp_path / "no.png"), (8, 8, 3), seed=0)


MISTAKES = [
    (("inpaint", "--mask", "middle"), "--mask middle: expected a picture's file"),
    (("inpaint", "--mask", "nosuch.png"), "--mask nosuch.png: no such file"),
    (("inpaint", "--mask", "center:9"), "center:9: too large for pictures of 8x8; expected center:1 to center:8"),
    (("inpaint", "--mask", "frame:4"), "frame:4: too large for pictures of 8x8; expected frame:1 to frame:3"),
    (("inpaint", "--mask", "frame:-1"), "frame:-1: no number of pixels in pictures of 8x8; expected frame:1 to"),
    (("inpaint", "--mask", "random:0"), "random:0: expected a share of the pixels, above 0 and at most 1"),
    (("inpaint", "--mask", "random:50"), "random:50: expected a share of the pixels, above 0 and at most 1"),
    (("inpaint", "--mask", "random:x"), "random:x: expected a share of the pixels"),
    (("inpaint", "--mask", "left", "--resamplings", "0"), "resamplings"),
    (("inpaint", "--mask", "left", "--sampler", "unipc"), "remembers the steps before"),
    (("inpaint", "--mask", "left", "--noise", "0.1"), "--noise: is of --method moments, not of repaint"),
    (
        ("inpaint", "--mask", "left", "--method", "replacement", "--resamplings", "3"),
        "--resamplings: is of --method repaint",
    ),
    (("inpaint", "--mask", "left", "--steps", "1"), "there must be more than one"),
    (("inpaint", "--mask", "left", "--jump-length", "3"), "--jump-length 3: expected fewer than the grid's 3 steps"),
    (
        ("inpaint", "--mask", "left", "--steps", "10", "--jump-length", "10"),
        "--jump-length 10: expected fewer than the grid's 10 steps",
    ),
    (("inpaint", "--mask", "left", "--method", "replacement", "--sampler", "ode"), "there must be more than one"),
    (("inpaint", "--mask", "left", "--method", "dps", "--spacing", "karras"), "dps: needs equal steps"),
    (("inpaint", "--mask", "left", "--method", "dps", "--steps", "30"), "dps: needs equal steps"),
    (("restore", "--operator", "blur", "--factor", "2"), "--factor: is of --operator downsample"),
    (("restore", "--operator", "blur", "--zeta", "1"), "--zeta: is of --method dps"),
    (("denoise", "--noise", "0.1", "--spacing", "karras"), "--spacing karras"),
    (("denoise", "--noise", "0.1", "--sampler", "ddim", "--draws", "2"), "ddim makes but one"),
    (("denoise", "--sampler", "unipc"), "has one grid for all images"),
    (("variations", "--classifier", "x.pt"), "--classifier: of pictures that begin from noise alone"),
    (("variations", "--truncation", "1"), "--truncation: of pictures that begin from noise alone"),
    (("interpolate", "--strength", "0.5"), "--strength: is of --through noised"),
    (("inpaint", "--mask", "left", "--method", "dps", "--sampler", "ddim"), "dps is an algorithm of ddpm's steps"),
    (
        ("restore", "--operator", "downsample"),
        "8x8x1; expected 4x4x1, for the network; if they are whole images, give --degrade",
    ),
    (("restore", "--operator", "downsample", "--factor", "3"), "--factor: pictures 8x8 cannot be made 3 times"),
    (("restore", "--operator", "downsample", "--factor", "0"), "--factor 0: expected at least 1"),
    (("restore", "--operator", "grey", "--degrade"), "--operator grey: needs a network of colour pictures"),
    (("restore", "--operator", "blur", "--blur", "0"), "--blur 0.0: expected a positive number of pixels"),
    (("restore", "--operator", "blur", "--blur", "4"), "--blur: kernel 25x25 is larger than the pictures"),
    (("restore", "--operator", "blur", "--noise", "-1"), "--noise -1.0: expected 0 or more"),
    (("restore", "--operator", "blur", "--iterations", "0"), "--iterations 0"),
    (("denoise", "--noise", "0"), "--noise 0.0: expected a positive number"),
    (("denoise", "--mean", "--draws", "2"), "--mean: is one call"),
    (("variations", "--strength", "0"), "--strength 0.0: expected above 0"),
    (("variations", "--strength", "0.01"), "--strength 0.01: no step of 3 begins there or below"),
    (("variations", "--num", "7"), "there are 6 images"),
    (("variations", "--draws", "0"), "--draws 0"),
    (("transfer",), "transfer to what?"),
    (("transfer", "--labels", "3", "--sampler", "ddpm"), "this is done with ddim"),
    (("transfer", "--labels", "3", "--eta", "0.5"), "DDIM without noise"),
    (("transfer", "--labels", "11"), "--labels 11: expected labels from 0 to 9"),
    (("transfer", "--labels", "3", "--source-labels", "11"), "error: --source-labels 11: expected labels from 0 to 9"),
    (("edit", "--more", "10", "--less", "0"), "--more 10: expected a label from 0 to 9"),
    (("interpolate", "--num", "1"), "at least two images"),
    (("interpolate", "--shown", "0"), "--shown 0"),
]


@pytest.mark.parametrize(("args", "said"), MISTAKES, ids=[" ".join(args) for args, _ in MISTAKES])
def test_mistakes_are_one_line_before_anything_is_compiled(args, said, trained, images, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(jax, "pmap", lambda *_, **__: pytest.fail("compiled"))
    with pytest.raises(SystemExit) as stopped:
        run(trained, images, *args, tmp_path=tmp_path)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("error:") == 1
    assert not list(tmp_path.iterdir())


def test_images_of_another_kind_are_refused(trained, images, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(trained, images, "variations", file="colours.npz", tmp_path=tmp_path)
    assert "8x8x3; expected 8x8x1, for the network; give --channels 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(trained, images, "variations", file="none.npz", tmp_path=tmp_path)
    assert "none.npz: no such file" in capsys.readouterr().err


def test_photographs_are_made_of_the_networks_size(trained, images, tmp_path, capsys):
    """As they are, in Pillow's own hands: the middle square, resized and grey."""
    (tmp_path / "set").mkdir()
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8))
    for i in range(2):
        photograph.save(tmp_path / "set" / f"{i}.png")
    with pytest.raises(SystemExit):
        run(trained, tmp_path, *COMMANDS["outpaint"], file="set", tmp_path=tmp_path)
    assert "30x40x3; expected 8x8x1, for the network; give --size 8 --channels 1" in capsys.readouterr().err
    sized = (*COMMANDS["outpaint"], "--size", "8", "--channels", "1")
    made = np.load(run(trained, tmp_path, *sized, file="set", tmp_path=tmp_path))["images"]
    small = photograph.convert("L").resize((8, 8), Image.Resampling.LANCZOS, box=(5, 0, 35, 30))
    np.testing.assert_array_equal(made[0, 2:-2, 2:-2, 0], np.asarray(small)[2:-2, 2:-2])


def test_one_picture_is_to_be_put_into_a_folder(trained, images, tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    for file, words in (("a.png", "a.png: is one picture"), ("none/b", "none/b: no such file or folder")):
        with pytest.raises(SystemExit):
            run(trained, tmp_path, "variations", file=file, tmp_path=tmp_path)
        assert words in capsys.readouterr().err


def test_a_folder_of_which_no_image_can_be_read_is_told_of_without_options_of_training(trained, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.png").write_text("no image")
    with pytest.raises(SystemExit):
        run(trained, tmp_path, "variations", file="set", tmp_path=tmp_path)
    said = capsys.readouterr().err
    assert "none of its 1 images can be read" in said
    assert "train.py" not in said


def test_images_of_a_folder_that_differ_are_told_of_by_the_commands_own_options(trained, images, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    for i, side in enumerate((8, 9)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / "set" / f"{i}.png")
    with pytest.raises(SystemExit):
        run(trained, tmp_path, "variations", file="set", tmp_path=tmp_path)
    said = capsys.readouterr().err
    assert "set/1.png: is 9x9 pixels, the first image is 8x8. Give --size N: the middle square" in said
    assert "--data." not in said


def test_a_network_with_another_schedule_takes_no_latents(trained, images, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(trained / "run", other)
    text = json.loads((other / "run.json").read_text())
    text["config"]["diffusion"]["schedule"] = "linear"
    (other / "run.json").write_text(json.dumps(text))
    with pytest.raises(SystemExit):
        run(trained, images, "transfer", "--to-run", str(other), tmp_path=tmp_path)
    assert "different schedules" in capsys.readouterr().err

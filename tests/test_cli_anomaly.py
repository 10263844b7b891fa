"""`jaxdiff anomaly`: the scores, what they are compared with, the pictures, and what is refused."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image
from test_cli_train import fails

from jaxdiff import runs
from jaxdiff.cli import main, train_main
from jaxdiff.data import digits
from jaxdiff.metrics import auroc

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def run(trained):
    return trained / "run"


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """30 digits with labels, of which number 17 is noise."""
    file = tmp_path_factory.mktemp("images") / "some.npz"
    images = digits().images[:30].copy()
    images[17] = np.random.default_rng(0).integers(0, 256, images[17].shape)
    np.savez(file, images=images, labels=digits().labels[:30])
    return file


def command(run, some, out, options):
    compared = "--standard no" not in options and "likelihood" not in options
    normal = "--normal-num 20" if compared else ""
    main(shlex.split(f"anomaly --run {run} --images {some} {normal} --batch 15 --out {out} {options}"))
    if out.suffix == ".json":
        return json.loads(out.read_text())
    with np.load(out) as arrays:
        return {**arrays, "about": json.loads(str(arrays["about"]))}


@pytest.mark.parametrize(
    "options",
    [
        "--score profile --draws 2",
        pytest.param("--score reconstruction --draws 2 --steps 2 --sampler ddim --eta 1", marks=pytest.mark.slow),
        "--score reconstruction --draws 1 --standard mahalanobis --levels 0.2 0.5",
        "--score reconstruction --draws 1 --standard no",
        "--score likelihood --steps 3",
    ],
)
def test_scores_and_their_auroc(run, some, tmp_path, capsys, options):
    """Both files say the same, whichever images there are besides; the AUROC is that of the scores in them."""
    text = command(run, some, tmp_path / "s.json", f"{options} --labels-anomalous 3 7")
    said = capsys.readouterr().out
    arrays = command(run, some, tmp_path / "s.npz", f"{options} --batch 6")
    scores = np.array(list(text["scores"].values()))
    assert list(text["scores"]) == [str(i) for i in range(30)]
    np.testing.assert_allclose(arrays["scores"], scores, rtol=1e-4, atol=1e-4)
    few = command(run, some, tmp_path / "f.npz", f"{options} --num 6 --batch 6")
    np.testing.assert_allclose(few["scores"], scores[few["index"]], rtol=1e-3, atol=1e-3)
    anomalous = np.isin(digits().labels[:30], [3, 7])
    assert text["auroc"] == pytest.approx(auroc(scores, anomalous))
    assert f"AUROC of {anomalous.sum()} anomalies among 30 images: {text['auroc']:.4f}" in said
    assert few["about"]["auroc"] is None
    levels = 1 if "likelihood" in options else 2 if "--levels" in options else 8
    assert arrays["curve"].shape == (30, levels)
    assert ("heat" in arrays) == ("reconstruction" in options)
    if "no" in options.split() or "likelihood" in options:
        np.testing.assert_allclose(arrays["scores"], arrays["curve"].mean(1), rtol=1e-6)
        assert text["normal"] is None
    else:
        assert text["normal"] == {"name": "digits", "count": 20}
    assert text["network"]["weights"] == "step 6"
    assert "likelihood" in options or text["levels"] == sorted(text["levels"], reverse=True)


def test_what_is_normal_is_what_is_given(run, some, tmp_path):
    """The scores are those of `Normal` on the curves in the files; heat is in units of the normal errors."""
    np.savez(tmp_path / "normal.npz", images=digits().images[100:160])
    how = f"--score reconstruction --draws 1 --levels 0.2 0.4 0.6 --normal {tmp_path / 'normal.npz'} --normal-num 60"
    found = command(run, some, tmp_path / "s.npz", how)
    assert found["about"]["normal"] == {"name": str(tmp_path / "normal.npz"), "count": 60}
    plain = command(
        run, some, tmp_path / "n.npz", "--score reconstruction --draws 1 --levels 0.2 0.4 0.6 --standard no"
    )
    np.testing.assert_allclose(found["curve"], plain["curve"], rtol=1e-5)
    np.testing.assert_allclose(plain["heat"].mean((1, 2)), plain["curve"].mean(1), rtol=1e-4)
    # z is linear in log(curve): two unknowns for each level are left, which must explain 30 scores.
    logs = np.concatenate([np.log(found["curve"]), np.ones((30, 1))], axis=1)
    weights, *_ = np.linalg.lstsq(logs, found["scores"], rcond=None)
    np.testing.assert_allclose(logs @ weights, found["scores"], atol=1e-3)
    assert (weights[:3] > 0).all()
    other = command(run, some, tmp_path / "o.npz", f"{how} --standard mahalanobis")
    assert (other["scores"] >= 0).all()
    assert not np.allclose(other["scores"], found["scores"])


def test_the_heat_map_shows_the_highest(run, some, tmp_path, capsys):
    how = f"--score reconstruction --draws 1 --heat-map {tmp_path / 'h.png'} --shown 3"
    found = command(run, some, tmp_path / "s.json", how)
    said = capsys.readouterr().out
    best = sorted(found["scores"], key=found["scores"].get, reverse=True)[:3]
    assert [line.split()[0] for line in said.splitlines()[2:5]] == best
    values = np.array(list(found["scores"].values()))
    assert f"median {np.median(values):.4g}, from {values.min():.4g} to {values.max():.4g}; higher is less" in said
    with Image.open(tmp_path / "h.png") as picture:
        assert picture.width > picture.height > 200
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_a_folder_has_the_names_of_its_classes(run, tmp_path, capsys):
    for i in range(12):
        folder = tmp_path / "set" / ("good", "scratch", "dent")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits().images[i, ..., 0]).save(folder / f"{i}.png")
    how = "--score profile --draws 1 --standard no"
    found = command(run, tmp_path / "set", tmp_path / "s.json", f"{how} --labels-normal good")
    assert set(found["scores"]) == {f"{('good', 'scratch', 'dent')[i % 3]}/{i}.png" for i in range(12)}
    names = np.array([name.split("/")[0] for name in found["scores"]])
    scores = np.array(list(found["scores"].values()))
    assert found["auroc"] == pytest.approx(auroc(scores, names != "good"))
    found = command(run, tmp_path / "set", tmp_path / "s.json", f"{how} --labels-normal good --labels-anomalous dent")
    two = names != "scratch"
    assert found["auroc"] == pytest.approx(auroc(scores[two], names[two] == "dent"))
    capsys.readouterr()
    fine = f"--images {tmp_path / 'set'} --labels-normal fine"
    said = fails(capsys, main, f"anomaly --run {run} {fine} --out {tmp_path / 'x.json'}")
    assert "--labels-normal fine: no such class" in said
    assert "expected dent, good, scratch" in said


def test_files_are_told_by_their_names(run, tmp_path, capsys):
    """Whether the set has classes or not, the images are resized or as they are, and all or some are scored."""
    for i in range(6):
        folder = tmp_path / "set" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits().images[i, ..., 0].repeat(2, 0).repeat(2, 1)).save(folder / f"{i}.png")
    names = [f"{'ab'[i % 2]}/{i}.png" for i in (0, 2, 4, 1, 3, 5)]
    how = "--score profile --draws 1 --levels 0.5 --standard no --size 8 --shown 2"
    scores = command(run, tmp_path / "set", tmp_path / "s.json", how)["scores"]
    assert list(scores) == names
    assert sorted(scores, key=scores.get)[-1] in capsys.readouterr().out
    few = command(run, tmp_path / "set", tmp_path / "s.npz", f"{how} --num 4")
    assert few["names"].tolist() == [names[i] for i in few["index"]]
    np.testing.assert_allclose(few["scores"], [scores[name] for name in few["names"]], rtol=1e-5)


def test_what_cannot_be_scored_is_said_in_one_line(run, some, tmp_path, capsys, monkeypatch):
    def refuses(options, *words, base=f"--run {run} --images {some}", out=tmp_path / "x.json"):
        message = fails(capsys, main, f"anomaly {base} --out {out} {options}")
        assert all(word in message for word in words), message
        assert not list(tmp_path.glob("x.*"))

    images = digits().images
    np.savez(tmp_path / "other.npz", images=images[:10, :6])
    np.savez(tmp_path / "few.npz", images=images[:5])
    (tmp_path / "broken").mkdir()
    for i in range(3):
        Image.fromarray(images[i, ..., 0]).save(tmp_path / "broken" / f"{i}.png")
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    monkeypatch.setattr(runs, "load_weights", None)  # all is before them
    refuses("", "ends in .json or .npz", out=tmp_path / "x.txt")
    refuses("", "/proc/x.json", out="/proc/x.json")
    refuses("--heat-map x.png", "--heat-map x.png: is of --score reconstruction")
    refuses("--score reconstruction --heat-map x.jpg", "--heat-map x.jpg: expected a file whose name ends in .png")
    refuses("--steps 3", "--score profile", "leave --steps out")
    refuses("--score likelihood --sampler ddim", "leave --sampler out")
    refuses("--score likelihood --draws 3", "--levels and --draws: are not of --score likelihood")
    refuses("--score reconstruction --labels 3", "leave --labels out")
    refuses("--score reconstruction --guidance 2", "leave --guidance out")
    refuses("--score reconstruction --eta 1 --sampler heun", "--eta: the sampler heun has no eta")
    refuses("--levels 0.5 1.5", "levels: expected times above 0 and not above 1")
    refuses("--score reconstruction --steps 30 --levels 0.01", "10 are below the level t = 0.01")
    refuses("--draws 0", "--draws 0: expected at least 1")
    refuses("--num 31", "--num 31: there are 30 images in")
    refuses("--normal-num 8", "8 images say little of what is usual at 8 levels; give 9 at least")
    refuses(f"--normal {tmp_path / 'few.npz'}", "5 images say little")
    refuses(f"--normal {tmp_path / 'few.npz'} --standard no", "nothing is compared with it")
    refuses(f"--normal {tmp_path / 'none.npz'}", "none.npz: no such file")
    refuses("--normal nonsense", "--normal nonsense: unknown data set")
    refuses("--size 0", "error: --size 0: expected at least 1")
    refuses("--labels-anomalous x", "--labels-anomalous x: no such class", "expected numbers")
    refuses("--labels-anomalous 11", "no image of", "has such a label")
    refuses("--labels-anomalous 1 --labels-normal 1", "name the same class")
    refuses("--labels-normal 0 1 2 3 4 5 6 7 8 9", "an AUROC needs both")
    base = f"--run {run} --images"
    refuses("", "6x8x1; expected 8x8x1, for the network; give --size 8", base=f"{base} {tmp_path / 'other.npz'}")
    refuses("", "--images nonsense: unknown data set", base=f"{base} nonsense")
    refuses("--labels-normal 1", "has no labels", base=f"{base} {tmp_path / 'few.npz'}")
    refuses("", "broken/1.png: not a usable image", base=f"{base} {tmp_path / 'broken'}")
    refuses("--step 5", "no checkpoint of step 5 in this run; there are 4, 6")
    refuses("", "no run here", base=f"--run {tmp_path} --images {some}")
    refuses("", "give either --run FOLDER", base=f"--images {some}")


def test_a_network_that_always_had_labels_is_refused(trained, some, tmp_path, capsys):
    train_main([
        "--config", str(trained / "tiny.py"), "--run", str(tmp_path / "run"), "--train.label-dropout", "0",
        "--sample.guidance", "1", "--train.steps", "2",
    ])  # fmt: skip
    capsys.readouterr()
    said = fails(capsys, main, f"anomaly --run {tmp_path / 'run'} --images {some} --out {tmp_path / 'x.json'}")
    assert "was never trained without a label" in said


def test_the_runs_own_images_are_those_held_out(trained, some, tmp_path, capsys):
    """And where they are gone, that is said."""
    np.savez(tmp_path / "data.npz", images=digits().images[:100])
    train_main([
        "--config", str(trained / "tiny.py"), "--run", str(tmp_path / "run"), "--data.name", str(tmp_path / "data.npz"),
        "--data.holdout", "12", "--sample.guidance", "1", "--train.steps", "2",
    ])  # fmt: skip
    found = command(tmp_path / "run", some, tmp_path / "s.json", "--draws 1")
    assert found["normal"] == {"name": str(tmp_path / "data.npz"), "count": 12}
    (tmp_path / "data.npz").unlink()
    capsys.readouterr()
    said = fails(capsys, main, f"anomaly --run {tmp_path / 'run'} --images {some} --out {tmp_path / 'x.json'}")
    assert "the run's own images cannot be read; give --normal SET" in said

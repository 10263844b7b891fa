"""`jaxdiff plot`: what is drawn is what was given or what theory says, and what is refused."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_cli_train import fails
from tiny import first_params

from jaxdiff import InputError, build, evaluation, sampling
from jaxdiff.build import Spec
from jaxdiff.cli import main, sample_main
from jaxdiff.cli.pictures import Pictures, prepare
from jaxdiff.config import Config, Diffusion, UNet
from jaxdiff.data import digits
from jaxdiff.data.images import write_animation
from jaxdiff.report import figures, results
from jaxdiff.report.figures import Block

pytestmark = pytest.mark.usefixtures("standard_promotion")
TINY = UNet(channels=8, multipliers=(1,), blocks=1, attention_resolutions=(), groups=4)


@pytest.fixture(scope="module")
def run(trained):
    return trained / "run"


def plot(args):
    main(["plot", *shlex.split(args)])


def size(path):
    with Image.open(path) as image:
        return image.size


def result(value, *, steps=10, guidance=1.0, sampler="ddim", name="runs/a", item="ema", count=100, **others):
    """As `jaxdiff evaluate --out` writes it, of all that `jaxdiff plot` reads."""
    sample = {"sampler": sampler, "steps": steps, "guidance": guidance, "eta": None}
    evaluations = steps * (2 if guidance != 1 else 1)
    return {
        "metrics": {"frechet_pixels": value},
        "intervals": {},
        "features": {"name": "pixels"},
        "samples": {"name": name, "count": count, "item": item, "weights": "step 6", "seed": 0,
                    "network_evaluations": evaluations, "sample": sample},
        "reference": {"name": "digits", "count": 1797, "sha256": "0" * 64},
        **others,
    }  # fmt: skip


def lines(found, **how):
    return results.lines_of({str(i): one for i, one in enumerate(found)}, **{"metric": "frechet", **how})


def test_results_are_lines_by_what_differs():
    """Guided pictures cost two evaluations a step, so that the same steps are at other places of two lines."""
    found = [result(9 - s / 10 + g, steps=s, guidance=g) for s in (20, 5, 10) for g in (1.0, 2.0)]
    drawn = lines(found, against="network_evaluations")
    assert drawn.metric == "frechet_pixels"
    assert drawn.title == "100 samples against 1,797 of digits"
    points = {line.label: [p[:2] for p in line.points] for line in drawn.lines}
    assert points == {
        "ddim, guidance 1.0": [(5, 9.5), (10, 9.0), (20, 8.0)],
        "ddim, guidance 2.0": [(10, 10.5), (20, 10.0), (40, 9.0)],
    }
    drawn = lines(found, against="guidance")
    assert [line.label for line in drawn.lines] == ["ddim, steps 10", "ddim, steps 20", "ddim, steps 5"]
    assert all([p[0] for p in line.points] == [1, 2] for line in drawn.lines)
    drawn = lines([result(1.0), result(2.0, steps=5), result(3.0, name="runs/b", sampler="heun")], against="steps")
    assert [(line.label, len(line.points)) for line in drawn.lines] == [("ddim, a", 2), ("heun, b", 1)]
    alike = [result(float(s), steps=s, name=name) for s in (5, 10) for name in ("one/a", "other/a")]
    assert [line.label for line in lines(alike, against="steps").lines] == ["ddim, one/a", "ddim, other/a"]
    asked = result(1.0, steps=5)
    asked["samples"]["labels"] = "as given, in turn"
    assert len(lines([result(2.0), asked], against="steps").lines) == 2
    threes = result(1.0, steps=5)
    threes["samples"]["of_each_class"] = [0, 0, 0, 100]
    assert [line.label for line in lines([result(2.0), threes], against="steps").lines] == ["ddim", "ddim, classes 3"]


def test_ema_lengths_of_a_run_and_of_files_of_averages_are_one_line():
    made = result(3.0, item="runs/a_0.2.safetensors")
    made["samples"] |= {"average": "ema_0.2", "step": 6, "weights": "a_0.2.safetensors"}
    found = [made, result(2.0, item="ema_0.1"), result(4.0, item="ema_0.05")]
    (line,) = lines(found, against="ema").lines
    assert [p[:2] for p in line.points] == [(0.05, 4), (0.1, 2), (0.2, 3)]


def test_a_figure_of_a_metric_shows_its_numbers(tmp_path, capsys):
    """The interval is where it was given, also beside its point; a floor is one line more."""
    found = [result(4.0, steps=5, intervals={"frechet_pixels": [2.0, 3.0]}), result(3.5, steps=20)]
    drawn = lines(found, against="network_evaluations")
    figure = figures.metric(drawn, against="network evaluations", log=True, floor=0.5)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    assert axes.lines[0].get_xydata().tolist() == [[5, 4], [20, 3.5]]
    (bars,) = axes.collections
    assert [segment.tolist() for segment in bars.get_segments()] == [[[5, 2], [5, 3]]]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["ddim", "floor, 0.5", "95 % intervals,\nwithout the bias of few samples"]
    for i, one in enumerate(found):
        (tmp_path / f"{i}.json").write_text(json.dumps(one))
    files = f"{tmp_path / '0.json'} {tmp_path / '1.json'}"
    plot(f"metric {files} --metric frechet_pixels --against steps --out {tmp_path / 'new' / 'm.png'}")
    assert size(tmp_path / "new" / "m.png") == (770, 495)
    assert "single points" not in capsys.readouterr().err
    (tmp_path / "2.json").write_text(json.dumps(result(3.0, sampler="heun")))
    plot(f"metric {files} {tmp_path / '2.json'} --metric frechet --against steps --out {tmp_path / 'm.png'}")
    assert "single points, of settings that no other result has: heun\n" in capsys.readouterr().err


def test_bits_per_dim_have_the_interval_of_their_standard_error():
    """And bounds with another variance are other lines."""

    def one(value, item, **bound):
        about = {"item": item, "weights": "step 6", "images": 50, "of": "digits", **bound}
        return {"metrics": {"bits_per_dim_vlb": value, "bits_per_dim_vlb_error": 0.1},
                "likelihood": {"bits_per_dim_vlb": about}}  # fmt: skip

    drawn = lines([one(3.0, "ema_0.1"), one(2.0, "ema_0.2")], metric="bits_per_dim_vlb", against="ema")
    assert drawn.title == "50 images of digits"
    assert drawn.lines[0].points[1][2] == pytest.approx((2 - 0.196, 2 + 0.196))
    bounds = [one(3.0, f"ema_{length}", variance=v) for length in (0.1, 0.2) for v in ("fixed_small", "fixed_large")]
    labels = [line.label for line in lines(bounds, metric="bits_per_dim_vlb", against="ema").lines]
    assert labels == ["bound's variance fixed_large", "bound's variance fixed_small"]


def test_results_that_do_not_compare_are_refused(tmp_path, capsys):
    a, out = result(1.0), tmp_path / "x.png"
    other = {"features": {"name": "classifier", "sha256": "a" * 64}}
    moved = {"reference": {"name": "digits", "count": 1797, "sha256": "1" * 64}}
    few = {"metrics": {"kernel_pixels": 1.0}}
    recall = [
        result(1.0, metrics={"frechet_pixels": 1.0, "recall_pixels": 0.5}, options={"neighbours": k}, steps=k)
        for k in (3, 5)
    ]
    for i, (found, against, words) in enumerate(
        [
            ([a, result(1.0, steps=5, count=99)], "steps", "1.json do not compare: the number of samples 100 and 99"),
            ([a, result(1.0, metrics={"frechet": 1.0}, **other)], "steps", "do not compare: metric"),
            (
                [a, result(1.0, features={"name": "pixels", "sha256": "a"})],
                "steps",
                "the features pixels and pixels, a",
            ),
            ([a, result(1.0, **moved)], "steps", "the real images 000000000000, 1797 and 111111111111, 1797"),
            ([a, result(1.0, **few)], "steps", "1.json: has no metric frechet; there are kernel_pixels"),
            ([a, result(None)], "steps", "not a finite number"),
            ([a], "steps", "at least two results, got 1"),
            ([a, a], "ema", "its weights, ema, are no average of a known length"),
            ([result(1.0, samples={"name": "a.npz", "count": 9})] * 2, "guidance", "does not say its guidance"),
        ]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        for j, one in enumerate(found):
            (folder / f"{j}.json").write_text(json.dumps(one))
        files = " ".join(str(folder / f"{j}.json") for j in range(len(found)))
        message = fails(capsys, main, f"plot metric {files} --metric frechet --against {against} --out {out}")
        assert words in message
    with pytest.raises(InputError, match="the options neighbours 3, manifold_size None and neighbours 5"):
        lines(recall, metric="recall", against="steps")
    assert len(lines(recall, against="steps").lines) == 1  # the distance has nothing to do with them
    for content in (b"[]", b'{"metrics": []}', b"\x93" * 1000):
        (tmp_path / "x.json").write_bytes(content)
        message = fails(capsys, main, f"plot metric {tmp_path / 'x.json'} --metric a --against steps --out {out}")
        said = f"error: {tmp_path / 'x.json'}: not a result of jaxdiff evaluate --out FILE.json"
        assert message.strip() == said
    assert not out.exists()


def test_mistakes_are_one_message_before_any_work(run, tmp_path, capsys):
    out = f"--out {tmp_path / 'x.png'}"
    one = f"--run {run}"
    np.savez(tmp_path / "some.npz", images=digits().images[:20, :4])
    for args, words in [
        (f"loss {one} --out {tmp_path / 'x.gif'}", "ends in .png"),
        (f"process {one} --out {tmp_path / 'x.jpg'}", "ends in .png or .gif or .apng"),
        (f"bits {one} {out} --num 0", "--num 0: expected at least 1"),
        (f"bits {one} {out} --steps 0", "--steps 0: expected at least 1"),
        (f"loss {one} {run} {out}", "given twice"),
        (f"loss {one} {out} --images held_out", "holds none out"),
        (f"loss {one} {out} --weights ema_0.3", "no weights ema_0.3"),
        (f"loss --run {tmp_path / 'nowhere'} {out}", "no run here"),
        (f"process {one} {out} --steps-shown 1", "at least 2"),
        (f"process {one} {out} --num 100000 --sampler ddpm --steps 1000", "GiB on their way"),
        (f"process {one} {out} --eta 2 --sampler heun", "--eta"),
        (f"neighbours {out} --reference digits", "give --run RUN or"),
        (f"neighbours {out} {one} --reference {tmp_path / 'some.npz'}", "make the real ones alike"),
        (f"neighbours {out} {one} --k 0", "--k 0: expected at least 1"),
        (f"neighbours {out} {one} --reference-num 3 --features pixels", "3 images; --k 5 needs 5"),
    ]:
        assert words in fails(capsys, main, f"plot {args}")
    assert not (tmp_path / "x.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "flow"])
def test_errors_by_time_of_a_network_that_says_nothing(schedule):
    """A fresh U-Net ends in zeros. Guessing eps = 0 its error is 1 at all times; guessing v = 0, or x_0 = 0, that of
    eps is alpha^2 / sigma^2 of |x_0|^2, by x_t = alpha x_0 + sigma eps."""
    config = Config(model=TINY, diffusion=Diffusion(schedule=schedule, kind="x0"))
    spec, images = Spec((8, 8, 1), None), digits().images[:64]
    times, log_snr = build.times_shown(config, 10)
    params = first_params(config, spec)
    batch = {"image": jnp.asarray(images)}
    keys = jax.random.split(jax.random.key(1), 64)

    def errors(kind, own=False):
        of = Config(model=TINY, diffusion=Diffusion(schedule="cosine" if kind == "eps" else schedule, kind=kind))
        return build.errors_by_time(of, spec, times, own=own)(params, batch, keys)

    with jax.numpy_dtype_promotion("strict"):
        found = errors("x0", own=True)
    square = (np.square(images / 127.5 - 1)).mean((1, 2, 3))
    some = times < 0.95  # at 1 eps is known, whatever the network says
    expected = np.exp(log_snr)[some] * square[:, None]
    np.testing.assert_allclose(np.asarray(found["eps"])[:, some], expected, rtol=2e-3)
    assert np.asarray(found["eps"])[:, -1].max() < 1e-4
    np.testing.assert_allclose(found["own loss"], np.broadcast_to(square[:, None], (64, 10)), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(errors("eps")["eps"]).mean(0), 1, atol=0.1)


@pytest.mark.slow
def test_a_loss_and_the_bits_of_runs(run, tmp_path, capsys, monkeypatch):
    """The bits are those of `jaxdiff evaluate`."""
    drawn = {}
    draw = figures.bits
    monkeypatch.setattr(figures, "bits", lambda terms, **how: (drawn.update(terms, **how), draw(terms, **how))[1])
    plot(f"loss --run {run} --num 20 --batch 16 --own --out {tmp_path / 'loss.png'}")
    said = capsys.readouterr().out
    assert "mean squared error of eps, run: " in said
    assert "own loss, run: " in said
    assert "20 training images of digits" in said
    assert size(tmp_path / "loss.png") == (770, 770)
    plot(f"bits --run {run} --num 20 --against log_snr --out {tmp_path / 'bits.png'}")
    said = capsys.readouterr().out
    main(shlex.split(
        f"evaluate --run {run} --reference-num 20 --metrics bits_per_dim_vlb --out {tmp_path / 'e.json'}"
    ))  # fmt: skip
    bits = json.loads((tmp_path / "e.json").read_text())["metrics"]["bits_per_dim_vlb"]
    assert f"run: {bits:.3f} bits/dim in 1,000 steps" in said
    assert drawn.pop("against").startswith("log-SNR")
    assert drawn.pop("title") == "Variational bound, 20 training images of digits"
    ((x, _),) = drawn.values()
    f = np.cos(np.pi / 2 * (np.arange(1001) / 1000 + 0.008) / 1.008) ** 2  # the cosine table, with betas up to 0.999
    alpha_bar = np.cumprod(np.maximum(f[1:] / f[:-1], 0.001))[::-1]
    np.testing.assert_allclose(x, np.log(alpha_bar / (1 - alpha_bar)), atol=1e-3)
    assert size(tmp_path / "bits.png") == (770, 495)


def test_ticks_stand_at_what_was_measured_unless_their_labels_overlap():
    measured = {"ddim": (5, 10, 20, 50), "unipc": (6, 19, 49)}
    found = [result(1 / n, steps=n, sampler=sampler) for sampler, steps in measured.items() for n in steps]
    drawn = lines(found, against="network_evaluations")
    (axes,) = figures.metric(drawn, against="x", log=True).axes
    assert sorted(axes.get_xticks()) == [5, 6, 10, 20, 50]
    for log, steps, ticks in ((True, (5, 800, 1000), [5, 1000]), (False, (10, 40, 1000), [40, 1000])):
        drawn = lines([result(1 / n, steps=n) for n in steps], against="network_evaluations")
        (axes,) = figures.metric(drawn, against="x", log=log).axes
        assert sorted(axes.get_xticks()) == ticks


def test_figures_of_curves_show_their_means():
    x = np.array([0.5, 1.0])
    terms = {"eps": {"a": np.array([[1.0, 3.0], [3.0, 5.0]]), "b": np.ones((2, 2))}, "own": {"a": np.ones((2, 2))}}
    figure = figures.errors(terms, {"a": x, "b": x}, against="t", title="T", log_snr=np.array([0.0, -9.0]))
    above, below = figure.axes
    assert [line.get_ydata().tolist() for line in above.lines] == [[2, 4], [1, 1]]
    band = above.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((2 - 1.96 / 2**0.5, 4 + 1.96 / 2**0.5))
    assert len(below.lines) == 1
    (second,) = above.child_axes
    assert [tick.get_text() for tick in second.get_xticklabels()][-1] == "-9.0"
    (axes,) = figures.bits({"a": (x, np.array([0.1, 0.0]))}, against="t", title="T").axes
    assert axes.get_yscale() == "log"
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.1, np.nan])  # 0 is nowhere on it


@pytest.mark.slow
def test_the_reverse_process_ends_in_the_pictures_of_sample(run, tmp_path):
    """And begins in noise; it is an image, or an animation."""
    how = f"--run {run} --num 3 --labels 1 2 --steps 4 --seed 5"
    sample_main(shlex.split(f"{how} --out {tmp_path / 'made.npz'}"))
    made = prepare(Pictures(run=str(run), labels=(1, 2), steps=4, seed=5), 3)
    way, guesses = made.path(made.load()[1])
    assert way.shape == guesses.shape == (5, 3, 8, 8, 1)
    pictures = np.load(tmp_path / "made.npz")["images"]
    for end in (way[-1], guesses[-1]):
        assert np.abs(np.rint((np.clip(end, -1, 1) + 1) * 127.5) - pictures).max() <= 1
    assert abs(way[0].std() - 1) < 0.2
    assert np.abs(guesses).max() <= 1  # clipped, as the sampler sees them
    plot(f"process {how} --steps-shown 3 --predicted --out {tmp_path / 'x.png'}")
    width, height = size(tmp_path / "x.png")
    assert 300 < width < height
    plot(f"process {how} --out {tmp_path / 'x.gif'}")
    with Image.open(tmp_path / "x.gif") as image:
        assert image.n_frames == 5


def test_the_forward_process_has_its_moments():
    """Std[x_t | x_0] = sigma_t along the path, and on one scale for every schedule."""
    times = np.array([0.0, 0.3, 0.6, 1.0])
    for name in ("cosine", "flow", "ve"):
        config = Config(diffusion=Diffusion(schedule=name, kind="v" if name == "cosine" else "x0"))
        schedule = build.schedule(config.diffusion)
        x = sampling.forward(jnp.full((500, 8), 0.5), times, jax.random.key(0), config=config)
        t = jnp.asarray(times, jnp.float32)
        np.testing.assert_allclose(x.std((1, 2))[1:], schedule.sigma(t)[1:], rtol=0.05)
        assert x[0].std() == 0  # the data, even where the schedule begins with a little noise
        np.testing.assert_allclose(
            x[1].mean(), 0.5 * schedule.alpha(t[1]), atol=0.03 * float(schedule.sigma(t[1])) + 0.01
        )
        shown = sampling.shown(x, times, config=config) / 127.5 - 1
        assert shown[0].mean() == pytest.approx(0.5, abs=0.01)
        assert abs(shown[-1].std() - 0.72) < 0.04  # of N(0, 1) clipped to [-1, 1]


def test_a_strip_and_frames_hold_every_picture():
    rng = np.random.default_rng(0)
    blocks = [Block(str(i), rng.integers(0, 256, (4, 3, 6, 8, 3), np.uint8), np.linspace(0, 1, 4)) for i in range(2)]
    figure = figures.strip(blocks)
    for axes, block in zip(figure.axes, blocks):
        assert [np.array_equal(a.get_array(), b) for a, b in
                zip(axes.images, block.pictures.swapaxes(0, 1).reshape(12, 6, 8, 3))] == [True] * 12  # fmt: skip
        words = [tick.get_text() for tick in axes.get_xticklabels()]
        assert words == ["t = 0", "t = 0.33", "t = 0.67", "t = 1"]
    assert figures.frames(blocks).shape[0] == 4


@pytest.mark.parametrize("suffix", [".gif", ".png", ".apng"])
def test_an_animation_is_what_was_given(tmp_path, suffix):
    """Of two colours, which a GIF keeps too; first and last are held."""
    frames = np.zeros((4, 6, 8, 3), np.uint8)
    for i in range(4):
        frames[i, i] = 255
    write_animation(tmp_path / f"x{suffix}", frames, milliseconds=50, hold=900)
    with Image.open(tmp_path / f"x{suffix}") as image:
        assert (image.n_frames, image.info["loop"]) == (4, 0)
        durations = []
        for i in range(4):
            image.seek(i)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), frames[i])
            durations.append(image.info["duration"])
    assert durations == [900, 50, 50, 900]


def test_copies_are_found(tmp_path, capsys):
    """Images of the set itself are at distance 0; of other images of the same kind about 1 % are near."""
    rng = np.random.default_rng(0)
    real, other = rng.normal(size=(2, 2000, 2))
    found = evaluation.copies(real[:50], real, k=3)
    assert (found.share, found.exact) == (1, 50)
    np.testing.assert_array_equal(found.distances[:, 0], 0)
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(50))
    assert 0.004 < evaluation.copies(other, real).share < 0.02
    assert evaluation.copies(other + 50, real).share == 0

    np.savez(tmp_path / "some.npz", images=digits().images[100:112])
    plot(
        f"neighbours --samples {tmp_path / 'some.npz'} --reference digits --features pixels --shown 4 --k 2 "
        f"--out {tmp_path / 'n.png'}"
    )
    said = capsys.readouterr().out
    assert "12 of 12 within r = " in said
    assert "(100 %); 12 at distance 0" in said
    assert size(tmp_path / "n.png")[0] > 200


def test_neighbours_are_drawn_beside_their_sample():
    samples, real = np.zeros((2, 8, 8, 1), np.uint8), np.arange(6, dtype=np.uint8)
    real = np.broadcast_to(real.reshape(2, 3, 1, 1, 1), (2, 3, 8, 8, 1))
    (axes,) = figures.neighbours(samples, real, np.arange(6.0).reshape(2, 3), title="T").axes
    assert [int(image.get_array()[0, 0]) for image in axes.images] == [0, 0, 1, 2, 0, 3, 4, 5]
    assert [float(text.get_text()) for text in axes.texts] == [0, 1, 2, 3, 4, 5]

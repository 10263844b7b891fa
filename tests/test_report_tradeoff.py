"""`jaxdiff plot tradeoff`: what is joined, what the labels say, and what is refused."""

import json
import math
import shlex

import pytest
from PIL import Image
from test_cli_plot import lines, result
from test_cli_train import fails

from jaxdiff import InputError
from jaxdiff.cli import main
from jaxdiff.report import figures
from jaxdiff.report.tradeoff import said, tradeoff_of


def point(recall, precision, *, steps=10, guidance=1.0, sampler="ddim", name="runs/a", real=None, **sample):
    """A result with both metrics, and settings of samples beside those of `result`."""
    metrics = {"recall_pixels": recall, "precision_pixels": precision, "diversity_pixels": 9 * recall}
    if real is not None:
        metrics["diversity_real_pixels"] = real
    found = result(1.0, steps=steps, guidance=guidance, sampler=sampler, name=name, metrics=metrics)
    found["samples"]["sample"] |= {"temperature": 1.0} | sample
    return found


def joined(found, **how):
    results = {f"{i}.json": one for i, one in enumerate(found)}
    return tradeoff_of(results, **{"x": "recall", "y": "precision", **how})


def test_results_are_joined_along_each_setting_that_was_swept():
    """The plain result is in two sweeps; ddpm's, the same but for its sampler, in one of its own; without truncation is
    beyond any; and older results say nothing of it."""
    found = [
        point(0.9, 0.8),
        point(0.5, 0.95, guidance=3.0, truncation=None, start_scale=1.0),
        point(0.7, 0.9, guidance=2.0, truncation=None),
        point(0.3, 0.99, truncation=0.5, start_scale=1.0),
        point(0.6, 0.97, truncation=1.5),
        point(0.4, 0.96, sampler="ddpm", temperature=0.7),
        point(0.8, 0.85, sampler="ddpm", temperature=1.0),
        point(0.2, 0.1, sampler="heun"),
    ]
    drawn = joined(found)
    assert (drawn.x, drawn.y, drawn.real) == ("recall_pixels", "precision_pixels", (None, None))
    assert drawn.title == "100 samples against 1,797 of digits"
    sweeps = {sweep.label: sweep.points for sweep in drawn.sweeps}
    (alone,) = sweeps.pop("heun")
    assert sweeps == {
        "ddim: guidance": [(0.9, 0.8, 1.0), (0.7, 0.9, 2.0), (0.5, 0.95, 3.0)],
        "ddim: truncation": [(0.3, 0.99, 0.5), (0.6, 0.97, 1.5), (0.9, 0.8, math.inf)],
        "ddpm: temperature": [(0.4, 0.96, 0.7), (0.8, 0.85, 1.0)],
    }
    assert alone[:2] == (0.2, 0.1)
    assert [said(value) for value in (alone[2], math.inf, 1.5)] == ["", "none", "1.5"]


def test_what_differs_between_sweeps_of_one_setting_is_said():
    found = [
        point(scale / 9, 0.5, guidance=scale, steps=steps, name=f"runs/{name}")
        for scale in (1.0, 3.0)
        for steps, name in ((5, "a"), (20, "b"))
    ]
    assert [sweep.label for sweep in joined(found, along=("guidance",)).sweeps] == [
        "ddim, a, steps 5: guidance",
        "ddim, b, steps 20: guidance",
    ]
    grid = [point(s / 99, g / 9, steps=s, guidance=g) for s in (5, 20) for g in (1.0, 3.0)]
    assert {sweep.label for sweep in joined(grid).sweeps} == {
        "ddim, steps 5: guidance", "ddim, steps 20: guidance", "ddim, guidance 1.0: steps", "ddim, guidance 3.0: steps",
    }  # fmt: skip
    calls = joined(grid, along=("network_evaluations",))
    assert [[p[2] for p in sweep.points] for sweep in calls.sweeps] == [[5, 20], [10, 40]]


def test_the_real_images_are_shown_where_all_say_the_same_of_them():
    same = [point(0.5, 0.9, guidance=g, real=7.5) for g in (1.0, 2.0)]
    assert joined(same, x="diversity").real == (7.5, None)
    assert joined([same[0], point(0.4, 0.9, guidance=3.0, real=8.0)], x="diversity").real == (None, None)


def test_the_figure_and_the_command_show_the_numbers(tmp_path, capsys):
    found = [
        point(0.9, 0.8, real=7.0),
        point(0.5, 0.95, guidance=3.0, real=7.0),
        point(0.3, 0.99, truncation=0.5, real=7.0),
    ]
    (axes,) = figures.tradeoff(joined(found, x="diversity")).axes
    shown, cut, real = axes.lines
    assert shown.get_xydata().tolist() == [[9 * 0.9, 0.8], [9 * 0.5, 0.95]]
    assert cut.get_xydata().tolist() == [[9 * 0.3, 0.99], [9 * 0.9, 0.8]]
    assert list(real.get_xdata()) == [7, 7]
    assert [text.get_text() for text in axes.texts] == ["1", "3", "0.5", "none"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "ddim: guidance", "ddim: truncation", "real images, 7",
    ]  # fmt: skip
    for i, one in enumerate(found):
        (tmp_path / f"{i}.json").write_text(json.dumps(one))
    files = " ".join(str(tmp_path / f"{i}.json") for i in range(3))
    main(shlex.split(f"plot tradeoff {files} --x recall --y precision_pixels --out {tmp_path / 'x.png'}"))
    told = capsys.readouterr().out
    assert "ddim: guidance: 0.9, 0.8 at 1, 0.5, 0.95 at 3\n" in told
    assert "ddim: truncation: 0.3, 0.99 at 0.5, 0.9, 0.8 at none\n" in told
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (770, 605)
    main(shlex.split(f"plot tradeoff {files} --x recall --y precision --along guidance --out {tmp_path / 'x.png'}"))
    assert "truncation" not in capsys.readouterr().out.splitlines()[0]


def test_metrics_against_temperature_and_starting_noise():
    found = [point(t / 2, 0.9, sampler="ddpm", temperature=t) for t in (1.0, 0.5)]
    (line,) = lines(found, metric="recall", against="temperature").lines
    assert [p[:2] for p in line.points] == [(0.5, 0.25), (1.0, 0.5)]
    for name in ("truncation", "start_scale"):
        (line,) = lines([point(v / 2, 0.9, **{name: v}) for v in (1.0, 0.5)], metric="recall", against=name).lines
        assert [p[0] for p in line.points] == [0.5, 1.0]
    assert (
        len(lines([point(0.5, 0.9), point(0.6, 0.9, start_scale=0.5)], metric="recall", against="start_scale").lines)
        == 1
    )
    with pytest.raises(InputError, match="1: its starting noise is not truncated"):
        lines([point(0.5, 0.9, truncation=1.0), point(0.5, 0.9)], metric="recall", against="truncation")


def test_what_does_not_compare_is_refused(tmp_path, capsys):
    one, more = point(0.5, 0.9), point(0.5, 0.9, guidance=2.0)
    few = point(0.5, 0.9, guidance=2.0)
    few["samples"]["count"] = 99
    other = point(0.5, 0.9, guidance=2.0)
    other["options"] = {"manifold_size": 7}
    lone = point(0.5, 0.9, guidance=2.0)
    lone["samples"] = {"name": "a.npz", "count": 100}
    for i, (found, options, words) in enumerate(
        [
            ([one, few], "--x recall --y precision", "do not compare: the number of samples 100 and 99"),
            (
                [one, other],
                "--x diversity --y precision",
                "do not compare: the options manifold_size None and manifold",
            ),
            ([one, more], "--x recall --y kernel", "has no metric kernel; there are recall_pixels"),
            ([one, one], "--x recall --y precision", "at least two results that differ in guidance, temperature"),
            ([one], "--x recall --y precision", "at least two results"),
            ([one, more, lone], "--x recall --y precision", "2.json: does not say its guidance"),
            ([one, more], "--x recall --y precision --along truncations", "--along"),
        ]
    ):
        (tmp_path / str(i)).mkdir()
        files = [tmp_path / str(i) / f"{j}.json" for j in range(len(found))]
        for file, content in zip(files, found, strict=True):
            file.write_text(json.dumps(content))
        command = f"plot tradeoff {shlex.join(map(str, files))} {options} --out {tmp_path / 'x.png'}"
        assert words in fails(capsys, main, command)
    assert not (tmp_path / "x.png").exists()

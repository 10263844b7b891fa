"""What a run writes about itself: means over windows, one story over resumes, TensorBoard, the loss curve."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from jaxdiff.report import Report, plot_loss, read_metrics


def run(folder, *, start=0, stop=7, steps=7, every=3, loss=float, seconds=float):
    """Steps start + 1 to stop of a run; the first has no time, like the one that compiles."""
    with Report(folder, start=start, steps=steps, every=every, batch_size=60) as report:
        for step in range(start + 1, stop + 1):
            time = {} if step == start + 1 else {"seconds": seconds(step)}
            report.metrics(step, {"loss": loss(step), "grad_norm": 2.0 * step} | time)


def events(folder):
    """The events of a run's TensorBoard files: records of length, checksum, message, checksum."""
    for path in sorted((folder / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            yield Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]


def scalars(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def test_metrics_are_means_over_windows_and_the_last_step_is_never_lost(tmp_path):
    run(tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 3, "loss": 2, "grad_norm": 4, "images_per_second": 60 / 2.5},  # steps 1 2 3, timed 2 3
        {"step": 6, "loss": 5, "grad_norm": 10, "images_per_second": 60 / 5},
        {"step": 7, "loss": 7, "grad_norm": 14, "images_per_second": 60 / 7},
    ]


def test_a_window_without_times_has_no_rate(tmp_path):
    run(tmp_path, stop=1, every=1)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 1, "grad_norm": 2}]


def test_a_line_is_on_disk_as_soon_as_its_window_is_full(tmp_path):
    with Report(tmp_path, start=0, steps=9, every=2, batch_size=1) as report:
        for step in (1, 2, 3):
            report.metrics(step, {"loss": 0.0})
            assert len(read_metrics(tmp_path / "metrics.jsonl")) == step // 2


@pytest.mark.parametrize("start", [0, 2, 3, 4, 6])
def test_lines_after_the_checkpoint_are_dropped_on_resume(tmp_path, start):
    """A run with loss 1 gets to step 6, is killed, and resumes from `start` with loss 2."""
    run(tmp_path, stop=6, every=2, steps=8, loss=lambda step: 1.0)
    with Report(tmp_path, start=start, steps=8, every=2, batch_size=1):
        assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == list(range(2, start + 1, 2))
    run(tmp_path, start=start, stop=8, every=2, steps=8, loss=lambda step: 2.0)
    lines = {line["step"]: line["loss"] for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert lines == {step: 1.0 if step <= start else 2.0 for step in (2, 4, 6, 8)}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("half", ['{"step": 4, "lo', '{"step": 4, "loss": 0.1', "{", "\0\0\0"])
def test_a_line_cut_short_is_left_out_and_does_not_spoil_the_next(tmp_path, half):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 2, "loss": 0.5}) + "\n" + half)
    assert read_metrics(path) == [{"step": 2, "loss": 0.5}]
    run(tmp_path, start=2, stop=4, every=2, steps=4)
    assert [line["step"] for line in read_metrics(path)] == [2, 4]


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_has_the_same_numbers(tmp_path):
    run(tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    expected = {(name, line["step"]): line[name] for line in lines for name in line if name != "step"}
    assert len(expected) == 9
    assert scalars(tmp_path) == pytest.approx(expected)


def test_tensorboard_is_told_to_forget_what_came_after_the_checkpoint(tmp_path):
    run(tmp_path, stop=6, every=2)
    run(tmp_path, start=4, stop=6, every=2)
    [*_, resumed] = [event for event in events(tmp_path) if event.HasField("session_log")]
    assert (resumed.session_log.status, resumed.step) == (resumed.session_log.START, 5)


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorboard_has_the_pictures(tmp_path, channels):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, channels), np.uint8)
    with Report(tmp_path, start=0, steps=9, every=2, batch_size=1) as report:
        report.picture("samples", picture, 8)
    [(step, value)] = [
        (event.step, v) for event in events(tmp_path) for v in event.summary.value if v.HasField("image")
    ]
    assert (step, value.tag) == (8, "samples")
    shown = np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)).convert("RGB"))
    np.testing.assert_array_equal(shown, np.broadcast_to(picture, (5, 6, 3)))


def test_the_loss_curve_is_a_picture_of_the_loss(tmp_path):
    looks = []
    for name, loss in [("falls", lambda step: 1 / step), ("falls", lambda step: 1 / step), ("rises", float)]:
        folder = tmp_path / str(len(looks)) / "run"
        folder.mkdir(parents=True)
        run(folder, loss=loss)
        path = plot_loss(folder)
        assert path == folder / "loss.png", name
        with Image.open(path) as opened:
            assert opened.format == "PNG"
            looks.append(np.asarray(opened.convert("L")))
    np.testing.assert_array_equal(looks[0], looks[1])
    assert (looks[0] != looks[2]).any()


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, float("nan"), 2.0]], ids=["none", "one", "nan"])
def test_the_loss_curve_of_little_or_broken_data(tmp_path, losses):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": x}) + "\n" for i, x in enumerate(losses))
    )
    with Image.open(plot_loss(tmp_path)) as opened:
        opened.load()

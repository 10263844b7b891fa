"""What a run writes about itself: means over windows, one story over resumes, TensorBoard, the loss curve."""

import io
import json
import math
import struct
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from jaxdiff import InputError, build, losses
from jaxdiff.config import Config, Optim, Train
from jaxdiff.report import Lines, Report, check_wandb, plot_loss, read_metrics


def run(folder, *, start=0, stop=7, steps=7, every=3, loss=float, seconds=float):
    """Steps start + 1 to stop of a run; the first has no time, like the one that compiles."""
    with Report(folder, start=start, steps=steps, every=every, batch_size=60) as report:
        for step in range(start + 1, stop + 1):
            time = {} if step == start + 1 else {"seconds": seconds(step)}
            report.metrics(step, {"loss": loss(step), "grad_norm": 2.0 * step} | time)


def written(folder):
    """What is in metrics.jsonl, but for the memory."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: value for name, value in line.items() if not name.endswith("_gib")} for line in lines]


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
    assert written(tmp_path) == [
        {"step": 3, "loss": 2, "grad_norm": 4, "seconds": 2.5, "images_per_second": 60 / 2.5},  # 1 2 3, timed 2 3
        {"step": 6, "loss": 5, "grad_norm": 10, "seconds": 5, "images_per_second": 60 / 5},
        {"step": 7, "loss": 7, "grad_norm": 14, "seconds": 7, "images_per_second": 60 / 7},
    ]


def test_a_window_without_times_has_no_rate(tmp_path):
    run(tmp_path, stop=1, every=1)
    assert written(tmp_path) == [{"step": 1, "loss": 1, "grad_norm": 2}]


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
    assert len(expected) == 15
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


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan, 2.0]], ids=["none", "one", "nan"])
def test_the_loss_curve_of_little_or_broken_data(tmp_path, values):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": x}) + "\n" for i, x in enumerate(values))
    )
    with Image.open(plot_loss(tmp_path)) as opened:
        opened.load()


def strictly(line):
    """JSON as the standard has it, without NaN."""
    return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


def test_the_share_of_waiting_is_of_the_time_that_is_counted(tmp_path):
    """The step without a time, which compiles, waits for the data too: that is not counted."""
    with Report(tmp_path, start=0, steps=4, every=4, batch_size=8) as report:
        report.metrics(1, {"loss": 1.0, "data_seconds": 100.0})
        for step, seconds, waited in [(2, 1.0, 0.5), (3, 4.0, 0.5), (4, 5.0, 1.0)]:
            report.metrics(step, {"loss": 1.0, "seconds": seconds, "data_seconds": waited})
    [line] = written(tmp_path)
    assert line == {"step": 4, "loss": 1, "seconds": 10 / 3, "images_per_second": 8 / (10 / 3), "data_wait": 2 / 10}


def test_skipped_updates_are_counted_and_count_in_nothing_else(tmp_path):
    """Steps 2, 5 and 6 are skipped, with NaN: the second window has nothing but them. Then resumed from step 4."""

    def go(start, state=None):
        with Report(tmp_path, start=start, steps=8, every=2, batch_size=1) as report:
            report.set_state(state or {})
            for step in range(start + 1, 9):
                bad = step in (2, 5, 6)
                report.metrics(step, {"loss": math.nan if bad else float(step), "other": math.inf if bad else 0.0, "skipped": float(bad)})  # fmt: skip

    expected = [
        {"step": 2, "loss": 1, "other": 0, "skipped": 1, "skipped_total": 1},
        {"step": 4, "loss": 3.5, "other": 0, "skipped": 0, "skipped_total": 1},
        {"step": 6, "skipped": 2, "skipped_total": 3},
        {"step": 8, "loss": 7.5, "other": 0, "skipped": 0, "skipped_total": 3},
    ]
    for start in (0, 4, 2):
        go(start)
        assert written(tmp_path) == expected
        for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
            strictly(line)


def test_with_its_window_a_resumed_run_writes_the_lines_of_an_unbroken_one(tmp_path):
    (tmp_path / "broken").mkdir()
    values = np.random.default_rng(0).random(9)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, parts in [(whole, [(0, 9)]), (broken, [(0, 4), (4, 5), (5, 9)])]:
        state = {}
        for start, stop in parts:
            folder.mkdir(exist_ok=True)
            with Report(folder, start=start, steps=9, every=3, batch_size=1) as report:
                report.set_state(state)
                for step in range(start + 1, stop + 1):
                    report.metrics(step, {"loss": float(values[step - 1]), "skipped": float(step == 4)})
                state = json.loads(json.dumps(report.get_state()))  # as a checkpoint has it
    assert written(whole) == written(broken)
    assert len(written(whole)) == 3


@pytest.mark.parametrize("devices", [1, 4])
def test_loss_by_time_over_devices_and_steps_is_the_mean_over_the_examples_of_a_bucket(tmp_path, devices):
    """From a pmapped mean over four devices (two tenths of the time have no example), and a window of three steps."""
    rng = np.random.default_rng(0)
    t, loss = rng.uniform(0.2, 1, (3, 16)).astype(np.float32), rng.random((3, 16)).astype(np.float32)

    def one(loss, t):
        terms = losses.by_time({"loss": loss}, t, buckets=10)
        return {name: jnp.mean(term) for name, term in terms.items()}

    with Report(tmp_path, start=0, steps=3, every=3, batch_size=16) as report:
        for step in range(3):
            shares = jax.vmap(one)(loss[step].reshape(devices, -1), t[step].reshape(devices, -1))
            report.metrics(step + 1, {name: float(mean.mean()) for name, mean in shares.items()})
    [line] = written(tmp_path)
    expected = {"loss": loss.mean(), "step": 3}
    for k in range(10):
        some = loss[(t > k / 10) & (t <= (k + 1) / 10)]
        if some.size:
            expected[f"loss/t{k / 10:.2f}-{(k + 1) / 10:.2f}"] = some.mean()
    assert set(line) == set(expected)
    assert {"loss/t0.00-0.10", "loss/t0.10-0.20"}.isdisjoint(line)
    assert line == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("decay", ["constant", "cosine"])
def test_the_learning_rate_is_that_of_the_optimiser(tmp_path, decay):
    """Adam's first update is the learning rate times the gradient's sign; the gradient is always 1 here."""
    config = Config(optim=Optim(learning_rate=0.5, warmup=3, decay=decay, clip=0, eps=1e-30), train=Train(steps=8))
    tx, params = build.optimizer(config), {"params": {"w": jnp.zeros(())}}
    state, moved = tx.init(params), []
    with Report(tmp_path, start=0, steps=8, every=1, batch_size=1, learning_rate=build.learning_rate(config)) as report:
        for step in range(1, 9):
            updates, state = tx.update({"params": {"w": jnp.ones(())}}, state, params)
            moved.append(-float(updates["params"]["w"]))
            report.metrics(step, {"loss": 0.0})
    assert moved[0] == 0
    assert moved[3] == pytest.approx(0.5, rel=1e-4)
    assert [line["learning_rate"] for line in written(tmp_path)] == pytest.approx(moved, rel=1e-4, abs=1e-6)


def test_memory_is_of_the_fullest_device_and_of_the_process(tmp_path, monkeypatch):
    block = np.ones(2**26, np.uint8)  # 1/16 GiB, in use
    stats = [{"bytes_in_use": n * 2**30, "peak_bytes_in_use": m * 2**30} for n, m in [(1, 5), (3, 4)]]
    devices = [types.SimpleNamespace(memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda **_: devices)
    run(tmp_path, stop=3)
    [line] = read_metrics(tmp_path / "metrics.jsonl")
    assert (line["device_gib"], line["device_peak_gib"]) == (3, 5)
    with open("/proc/self/status") as file:
        [peak] = [float(text.split()[1]) for text in file if text.startswith("VmHWM")]
    assert line["host_peak_gib"] == pytest.approx(peak / 2**20, rel=0.02)
    assert block.all()


def test_only_the_first_process_writes(tmp_path, capsys):
    with Report(tmp_path, start=0, steps=2, every=1, batch_size=1, wandb="project", write=False) as report:
        report.metrics(1, {"loss": 1.0, "seconds": 1.0})
        report.scalars(1, {"eval_loss": 1.0})
        report.picture("samples", np.zeros((4, 4, 1), np.uint8), 1)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_numbers_of_an_evaluation_belong_to_their_step_and_fall_with_it(tmp_path):
    with Report(tmp_path, start=0, steps=9, every=2, batch_size=1) as report:
        for step in range(1, 7):
            report.metrics(step, {"loss": float(step)})
            if step % 3 == 0:
                report.scalars(
                    step, {"eval_loss": 10.0 * step, "eval_loss/a": 1.0, "eval_loss/a:share": 0.5, "b": math.nan}
                )
    assert [(line["step"], line.get("loss"), line.get("eval_loss"), line.get("eval_loss/a")) for line in written(tmp_path)] == [
        (2, 1.5, None, None), (3, None, 30, 2), (4, 3.5, None, None), (6, 5.5, 60, 2),
    ]  # fmt: skip
    assert scalars(tmp_path)["eval_loss", 6] == 60
    assert not any(name in ("b", "eval_loss/a:share") for name, _ in scalars(tmp_path))
    Report(tmp_path, start=4, steps=9, every=2, batch_size=1).__exit__()
    assert [line["step"] for line in written(tmp_path)] == [2, 3, 4]


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path):
    lines = Lines(tmp_path / "metrics.jsonl", start=0)
    lines.scalars(1, {"loss": 1.0})
    disk, lines._file = lines._file, open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    for step in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            lines.scalars(step, {"loss": 1.0})
    lines._file.close()
    lines._file = disk
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(
        f'{{"step": {step}, "loss": 1.0}}\n' for step in (1, 2, 3)
    )


def test_a_writer_that_fails_is_said_so_once_and_ends_nothing(tmp_path, capsys):
    with Report(tmp_path, start=0, steps=4, every=1, batch_size=1) as report:
        disk = report._writers[0]._file
        with open("/dev/full", "ab", buffering=0) as full:
            report._writers[0]._file = full
            for step in (1, 2):
                report.metrics(step, {"loss": 1.0})
            report._writers[0]._file = disk
            report.metrics(3, {"loss": 1.0})
            report._writers[0]._file = full
            report.metrics(4, {"loss": 1.0})
            report._writers[0]._file = disk
    err = capsys.readouterr().err
    assert err.count("warning: Lines: OSError(28") == 2  # once for each time that it begins
    assert [line["step"] for line in written(tmp_path)] == [1, 2, 3, 4]
    assert {step for name, step in scalars(tmp_path) if name == "loss"} == {1, 2, 3, 4}


class FakeRun:
    """A stand-in for wandb's run: keeps what it is given, as the server does, a step once."""

    def __init__(self, known, **settings):
        self.settings, self.history = settings, known
        self.last = max(self.history, default=0)

    def log(self, values, step):
        if step >= self.last:
            self.history.setdefault(step, {}).update(values)
            self.last = step

    def finish(self):
        self.settings["finished"] = True


@pytest.fixture
def wandb(monkeypatch):
    fake = types.ModuleType("wandb")
    fake.__spec__ = types.SimpleNamespace(origin="fake")
    fake.runs, server = [], {}

    def init(**settings):
        fake.runs.append(FakeRun(server.setdefault(settings["id"], {}), **settings))
        return fake.runs[-1]

    fake.init, fake.Image = init, lambda picture: ("image", picture.shape)
    fake.errors = types.SimpleNamespace(UsageError=KeyError, CommError=LookupError)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_weights_and_biases_gets_the_same_numbers_and_a_resumed_run_goes_on_in_its_run(tmp_path, wandb):
    for start, stop in [(0, 5), (4, 6)]:  # killed at 5, after the checkpoint of step 4
        with Report(
            tmp_path, start=start, steps=6, every=1, batch_size=1, wandb="digits", config={"seed": 3}
        ) as report:
            for step in range(start + 1, stop + 1):
                report.metrics(step, {"loss": float(step)})
            report.picture("samples", np.zeros((4, 5, 1), np.uint8), stop)
    first, second = wandb.runs
    for one in (first, second):
        assert (one.settings["project"], one.settings["config"], one.settings["resume"], one.settings["finished"]) == (
            "digits", {"seed": 3}, "allow", True,
        )  # fmt: skip
    assert first.settings["id"] == second.settings["id"] == (tmp_path / "wandb_id").read_text()
    assert {step: values["loss"] for step, values in second.history.items()} == {n: float(n) for n in range(1, 7)}
    assert second.history[6]["samples"] == ("image", (4, 5, 1))


def test_weights_and_biases_is_refused_where_it_is_not_installed_or_nobody_logged_in(tmp_path, wandb, monkeypatch):
    def init(**settings):
        raise wandb.errors.UsageError("api_key not configured")

    wandb.init = init
    with pytest.raises(
        InputError, match="--log.wandb digits: .*api_key not configured.*wandb login.*WANDB_MODE=offline"
    ):
        Report(tmp_path, start=0, steps=1, every=1, batch_size=1, wandb="digits")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--log.wandb digits: .*pip install 'jaxdiff\[wandb\]'"):
        check_wandb("digits")


def records(data):
    """LevelDB's log format, which a .wandb file is: blocks of 32 KiB of chunks (checksum, size, whole/first/middle/last),
    after a header of 7 bytes."""
    place, record = 7, b""
    while place + 7 <= len(data):
        if 2**15 - place % 2**15 < 7:
            place += 2**15 - place % 2**15
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield record
            record = b""


def test_the_real_weights_and_biases_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2 as pb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for start, stop in [(0, 4), (2, 6)]:
        with Report(
            tmp_path, start=start, steps=6, every=2, batch_size=1, wandb="digits", config={"seed": 3}
        ) as report:
            for step in range(start + 1, stop + 1):
                report.metrics(step, {"loss": float(step)})
            report.picture("samples", np.zeros((4, 5, 1), np.uint8), stop)
        time.sleep(1.1)  # wandb names its folders by the second
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert [file.stem for file in files] == ["run-" + (tmp_path / "wandb_id").read_text()] * 2
    found = []
    for file in files:
        rows = {}
        for data in records(file.read_bytes()):
            record = pb.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                rows[row["_step"]] = row
        found.append({step: row["loss"] for step, row in rows.items()})
        assert rows[max(rows)]["samples/_type"] == "image-file"
    assert found == [{2: 1.5, 4: 3.5}, {4: 3.5, 6: 5.5}]

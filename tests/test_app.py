"""The app as it is served: over HTTP and in a browser, by those who mean well and by those who do not."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from jaxdiff.cli import main
from jaxdiff.data import digits
from jaxdiff.data.images import grid
from jaxdiff.pixels import from_uint8
from jaxdiff.tasks import estimate_noise

WAITING = 8
MOST = 50_000
OPTIONS = [
    "--max-pictures",
    "4",
    "--max-steps",
    str(MOST),
    "--max-waiting",
    str(WAITING),
    "--max-upload",
    "2",
    "--max-arrival",
    "3",
]


class Server:
    """`jaxdiff app` in a process of its own."""

    def __init__(self, *args):
        command = [sys.executable, "-m", "jaxdiff", "app", "--port", "0", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors = []
        self.reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr))
        self.reader.start()
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, (line, self.errors)
        self.url = found[0]

    @property
    def memory(self):
        """MiB of it in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    @property
    def peak(self):
        """MiB of it in memory at most, since `forget_the_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024

    def forget_the_peak(self):
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def ended(self):
        """The exit code after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(timeout=30)
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code

    def idle(self, *, within):
        """Whether nobody is served or waits any more, in so many seconds."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if httpx.get(f"{self.url}/api/health").json()["requests"] == 0:
                return True
            time.sleep(0.1)
        return False


@pytest.fixture(scope="module")
def server(trained):
    one = Server("--run", str(trained / "run"), *OPTIONS)
    yield one
    assert one.ended() == 0, one.errors
    errors = "".join(one.errors)  # Gradio prints its own, of numbers outside a slider's
    assert "jaxdiff" not in errors, errors


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=120) as one:
        yield one
    assert server.idle(within=10)


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def bomb(width=10_000, height=10_000):
    """A PNG of 300 kB, 300 MB when it is decoded."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


BOMB = bomb()
IMAGE = digits().gather(np.array([3]))["image"][0][..., 0]
LEFT = np.repeat(np.arange(8) < 4, 8).reshape(8, 8).T.astype(np.uint8) * 255


LONG = (  # minutes of work, if nobody stops it
    "inpaint",
    {
        "files": {"image": png(IMAGE), "mask": png(LEFT)},
        "data": {"steps": 1000, "jump_length": 1, "resamplings": 20, "num": 4},
    },
)


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def arrays(answer):
    assert answer.status_code == 200, answer.text
    with np.load(io.BytesIO(answer.content)) as found:
        return found["images"], found["labels"]


def test_the_network_is_described(client):
    about = client.get("/api/model").json()
    assert (about["height"], about["width"], about["channels"], about["classes"]) == (8, 8, 1, 10)
    assert about["limits"]["max_steps"] == MOST
    assert about["defaults"] == {"sampler": "ddim", "steps": 3, "guidance": 1.5}
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/sample", "/api/inpaint", "/api/denoise", "/api/model", "/api/health"} == set(paths)


def test_pictures(client):
    """One picture as it is, several as a grid, or arrays; picture i by the seed and i alone."""
    images, labels = arrays(client.post("/api/sample", json={"num": 4, "seed": 3, "labels": [5, 1], "format": "npz"}))
    assert labels.tolist() == [5, 1, 5, 1]
    one = client.post("/api/sample", json={"seed": 3, "labels": [5]})
    assert one.headers["content-type"] == "image/png"
    np.testing.assert_allclose(pixels(one.content).astype(int), images[0, ..., 0], atol=1)
    four = client.post("/api/sample", json={"num": 4, "seed": 3, "labels": [5, 1]})
    np.testing.assert_array_equal(pixels(four.content), grid(images)[..., 0])
    assert (arrays(client.post("/api/sample", json={"num": 4, "seed": 4, "format": "npz"}))[0] != images).any()


def test_inpainting_and_denoising(client):
    files = {"image": png(IMAGE), "mask": png(LEFT)}
    images, labels = arrays(client.post("/api/inpaint", files=files, data={"num": 3, "resamplings": 2, "jump_length": 1,
                                                                          "labels": [3], "format": "npz"}))  # fmt: skip
    assert labels.tolist() == [3, 3, 3]
    np.testing.assert_array_equal(images[:, :, 4:, 0], np.stack([IMAGE] * 3)[:, :, 4:])
    assert (images[0] != images[1]).any()
    large = {"image": png(IMAGE.repeat(4, 0).repeat(4, 1)), "mask": png(LEFT.repeat(4, 0).repeat(4, 1))}
    assert client.post("/api/inpaint", files=large, data={"resamplings": 1}).status_code == 200
    for given in ({"noise": 0.5}, {"mean": True}, {"steps": 7, "sampler": "euler_ancestral"}):
        answer = client.post("/api/denoise", files={"image": png(IMAGE)}, data=given)
        assert pixels(answer.content).shape == (8, 8)


@pytest.mark.parametrize(
    ("path", "sent", "code", "detail"),
    [
        ("sample", {"json": {"steps": -1}}, 422, f"steps: expected 1 to {MOST} in all, got -1"),
        ("sample", {"json": {"steps": 2.5}}, 422, "steps: Input should be a valid integer"),
        ("sample", {"json": {"steps": "many"}}, 422, "steps: Input should be a valid integer"),
        ("sample", {"json": {"guidance": "1e999"}}, 422, "guidance: Input should be a finite number"),
        ("sample", {"content": b'{"guidance": NaN}'}, 422, ""),
        ("sample", {"json": {"step": 3}}, 422, "step: Extra inputs are not permitted"),
        ("sample", {"json": {"labels": [11]}}, 422, "labels 11: expected labels from 0 to 9"),
        ("sample", {"json": {"format": "exe"}}, 422, "format: Input should be 'png' or 'npz'"),
        ("sample", {"content": b"{"}, 422, ""),
        ("sample", {"json": {"labels": [1] * 1001}}, 422, "labels: Tuple should have at most 1000 items"),
        ("sample", {"json": {"labels": [""] * 10**5}}, 413, "the request is larger than 64 KiB"),
        ("sample", {"json": {"sampler": "x" * 1000}}, 422, "sampler: String should have at most 100 characters"),
        ("sample", {"json": {"guidance": 1e30}}, 422, "guidance: Input should be less than or equal to 1000"),
        ("denoise", {"files": {"image": bytes(2**21)}}, 413, "the request is larger than 2048 KiB"),
        ("inpaint", {"files": {"image": png(IMAGE)}}, 422, "mask: Field required"),
        ("inpaint", {"files": {"image": b"no", "mask": png(LEFT)}}, 422, "image: is no image; expected a file of PNG"),
        ("inpaint", {"files": {"image": png(IMAGE), "mask": png(0 * LEFT)}}, 422, "mask: nothing is to be painted"),
        (
            "inpaint",
            {"files": {"image": png(IMAGE), "mask": png(LEFT)}, "data": {"resamplings": -1}},
            422,
            "resamplings",
        ),
        ("denoise", {"data": {"image": "text"}}, 422, "image: Value error, Expected UploadFile"),
        ("denoise", {"files": {"image": b""}}, 422, "image: is no image"),
        ("denoise", {"files": {"image": png(IMAGE)}, "data": {"noise": -1}}, 422, "noise -1.0: expected a positive"),
        ("denoise", {"files": {"image": png(IMAGE)[:90]}}, 422, "image: cannot be read to its end"),
        ("denoise", {"files": {"image": BOMB}}, 413, "image: too many pixels; expected 16,000,000 at most"),
    ],
)
def test_what_cannot_be_is_said(client, path, sent, code, detail):
    answer = client.post(f"/api/{path}", **sent)
    assert answer.status_code == code
    assert answer.json()["detail"].startswith(detail)


def test_a_body_that_does_not_say_how_long_it_is(client):
    def endless():
        for _ in range(64):
            yield b"x" * 2**16

    answer = client.post("/api/sample", content=endless(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (413, "the request is larger than 64 KiB")


async def together(url, requests, *, timeout=120):
    """The answers to requests of one moment, or None for one that was given up after `timeout`."""
    limits = httpx.Limits(max_connections=len(requests))
    async with httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits) as client:

        async def one(path, sent):
            try:
                return await client.post(f"/api/{path}", **sent)
            except httpx.TimeoutException:
                return None

        return await asyncio.gather(*(one(*request) for request in requests))


def hundred(server):
    requests = [("sample", {"json": {"seed": i, "steps": 20 + i % 7}}) for i in range(100)]
    return asyncio.run(together(server.url, requests))


def test_a_hundred_requests_at_once(server, client):
    """As many as there are places are served, with the pictures they would get alone; the others are told so."""
    answers = hundred(server)
    codes = Counter(answer.status_code for answer in answers)
    assert set(codes) == {200, 503}
    assert codes[200] > WAITING
    for i, answer in enumerate(answers):
        if answer.status_code == 200:
            alone = client.post("/api/sample", json={"seed": i, "steps": 20 + i % 7})
            np.testing.assert_array_equal(pixels(answer.content), pixels(alone.content))
        else:
            assert answer.headers["retry-after"] == "5"
            assert "come again" in answer.json()["detail"]


@contextmanager
def busy(server):
    """While a request over HTTP is worked on, which in the end goes away."""
    ended = threading.Event()

    async def ask():
        request = asyncio.ensure_future(together(server.url, [LONG]))
        await asyncio.to_thread(ended.wait)
        request.cancel()
        with suppress(asyncio.CancelledError):
            await request

    thread = threading.Thread(target=lambda: asyncio.run(ask()))  # of its own, for Playwright has a loop in this one
    thread.start()
    while httpx.get(f"{server.url}/api/health").json()["requests"] == 0:
        time.sleep(0.05)
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_two_at_once(trained):
    """A short request does not wait for a long one, and gets the pictures that it would get alone."""
    server = Server("--run", str(trained / "run"), *OPTIONS, "--at-once", "2")
    requests = [("sample", {"json": {"seed": i, "steps": 20 + i}}) for i in range(6)]
    try:
        with busy(server):
            beside = asyncio.run(together(server.url, requests))
        apart = [asyncio.run(together(server.url, [request]))[0] for request in requests]
        assert [answer.status_code for answer in beside] == [200] * 6
        assert [answer.content for answer in beside] == [answer.content for answer in apart]
    finally:
        assert server.ended() == 0


def test_who_goes_away_is_not_worked_for(server, client):
    """At work or waiting: minutes of work are dropped within seconds, and the next one is served."""
    assert asyncio.run(together(server.url, [LONG] * WAITING, timeout=2)) == [None] * WAITING
    assert server.idle(within=5)
    assert client.post("/api/sample", json={}).status_code == 200


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc here to read a process's memory from")
def test_memory_returns_to_where_it_was(server, client):
    """Of no request is anything kept, and a picture of 300 MB is never decoded, not for a moment."""
    hundred(server)
    short = {**LONG[1], "data": {**LONG[1]["data"], "steps": 2}}
    for path, sent in (("denoise", {"files": {"image": png(IMAGE)}, "data": {"mean": True}}), ("inpaint", short)):
        assert client.post(f"/api/{path}", **sent).status_code == 200  # what is compiled stays
    before = server.memory
    for _ in range(2):
        server.forget_the_peak()
        bombs = [("denoise", {"files": {"image": BOMB}})] * 20 + [("denoise", {"files": {"image": b"x"}})] * 20
        codes = Counter(answer.status_code for answer in asyncio.run(together(server.url, bombs)))
        assert set(codes) <= {413, 422, 503}
        assert codes[413] + codes[422] >= WAITING
        assert server.peak < before + 200  # of 300
        hundred(server)
        large = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
        sent = [("denoise", {"files": {"image": png(large)}, "data": {"mean": True}})] * WAITING
        assert Counter(answer.status_code for answer in asyncio.run(together(server.url, sent))) == {200: WAITING}
        asyncio.run(together(server.url, [LONG] * WAITING, timeout=1))
        assert server.idle(within=10)
    assert server.memory < before + 60


def test_a_request_that_never_comes_is_ended(server, client):
    """One byte of a body, and no more."""
    host = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host[0], int(host[1])), timeout=90) as slow:
        slow.sendall(
            b"POST /api/sample HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        assert client.post("/api/sample", json={}).status_code == 200  # nobody waits for it
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


# In a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


@pytest.fixture
def page(browser, server):
    """The page in a fresh window, which asks nobody else for anything."""
    asked = []
    context = browser.new_context(viewport={"width": 1280, "height": 1400})
    one = context.new_page()
    one.set_default_timeout(60_000)
    one.on("request", lambda request: asked.append(request.url))
    one.goto(server.url)
    yield one
    context.close()
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert server.idle(within=10)


def tab(page, name):
    page.get_by_role("tab", name=name).click()
    return page.get_by_role("tabpanel").filter(visible=True)


def watched(panel):
    """The picture of the reverse process as it is now."""
    source = panel.locator(".watched img").get_attribute("src")
    return pixels(base64.b64decode(source.split(",")[1]))


def result(panel, client):
    """The picture in the end."""
    shown = panel.locator(".made .image-frame img")
    expect(shown).to_be_visible()
    return pixels(client.get(shown.get_attribute("src")).content)


def click(panel, name):
    panel.get_by_role("button", name=name, exact=True).click()


def fill(panel, label, value):
    field = panel.get_by_label(label, exact=False).first
    field.fill(str(value))
    field.press("Enter")


def test_pictures_in_the_page(page, client):
    panel = tab(page, "Pictures")
    fill(panel, "number input for Steps", 200)
    fill(panel, "Seed", 7)
    fill(panel, "number input for Guidance", 2.5)
    panel.get_by_label("Sampler").click()
    page.get_by_role("option", name="ddpm").click()
    panel.get_by_label("Label").click()
    page.get_by_role("option", name="6", exact=True).click()
    click(panel, "Make pictures")
    status = panel.locator(".watched p")
    expect(status).to_have_text(re.compile(r"after \d\d? of 200 steps"))  # seen on its way
    on_its_way = watched(panel)
    expect(status).to_have_text("after 200 of 200 steps")
    wanted = {"num": 4, "steps": 200, "seed": 7, "guidance": 2.5, "sampler": "ddpm", "labels": [6], "format": "npz"}
    images, _ = arrays(client.post("/api/sample", json=wanted))
    np.testing.assert_array_equal(result(panel, client), grid(images, min_tile=128)[..., 0])
    assert (on_its_way != result(panel, client)).any()
    expect(panel.locator(".watched img")).to_have_count(0)  # one picture is shown, not two


def upload(panel, path, content):
    path.write_bytes(content)
    panel.locator("input[type=file]").first.set_input_files(path)


def draw(page, panel):
    """Down the left half of the image in the editor."""
    canvas = panel.locator("canvas").first
    expect(canvas).to_be_visible()
    page.wait_for_timeout(2000)  # until the editor has its picture, which no element tells
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    side = min(box["height"], box["width"])
    page.mouse.move(middle[0] - side / 4, middle[1] - side / 3)
    page.mouse.down()
    page.mouse.move(middle[0] - side / 4, middle[1] + side / 3, steps=20)
    page.mouse.up()
    page.wait_for_timeout(1000)


@pytest.mark.slow
def test_a_mask_is_drawn_and_painted(page, client, tmp_path):
    panel = tab(page, "Inpaint")
    upload(panel, tmp_path / "three.png", png(IMAGE))
    draw(page, panel)
    click(panel, "Inpaint")
    expect(panel.locator(".watched p")).to_have_text(re.compile(r"after [1-9]\d* of \d+ steps"))
    drawn = result(panel, client)
    tile = drawn[1:129, 1:129].reshape(8, 16, 8, 16)[:, 0, :, 0]
    np.testing.assert_array_equal(tile[:, 5:], IMAGE[:, 5:])  # nothing was drawn there
    assert (tile[:, 1:3] != IMAGE[:, 1:3]).any()


@pytest.mark.slow
def test_one_of_the_networks_is_painted(page, client):
    panel = tab(page, "Inpaint")
    click(panel, "Take one of the network's")
    draw(page, panel)
    click(panel, "Inpaint")
    tile = result(panel, client)[1:129, 1:129].reshape(8, 16, 8, 16)[:, 0, :, 0]
    own, _ = arrays(client.post("/api/sample", json={"labels": -1, "format": "npz"}))
    np.testing.assert_allclose(tile[:, 5:].astype(int), own[0, :, 5:, 0], atol=1)
    assert (tile[:, 1:3] != own[0, :, 1:3, 0]).any()


def test_an_image_is_uploaded_and_denoised(page, client, tmp_path):
    panel = tab(page, "Denoise")
    upload(panel, tmp_path / "three.png", png(IMAGE))
    expect(panel.get_by_label("Remove Image").or_(panel.locator("img")).first).to_be_visible()
    page.wait_for_timeout(500)
    click(panel, "Denoise")
    status = panel.locator(".watched p")
    expect(status).to_have_text(re.compile(r"^after 3 of 3 steps; noise of .*, estimated$"))
    noise = float(estimate_noise(from_uint8(IMAGE[None, ..., None]))[0])
    assert float(re.search(r"noise of ([\d.]+)", status.text_content())[1]) == pytest.approx(noise, rel=5e-3)
    answer = client.post("/api/denoise", files={"image": png(IMAGE)}, data={"format": "npz"})
    np.testing.assert_array_equal(result(panel, client), grid(arrays(answer)[0], min_tile=128)[..., 0])


@pytest.mark.parametrize("name", ["Inpaint", "Denoise"])
@pytest.mark.parametrize(
    ("content", "said"), [(b"no image at all", "is no image"), (BOMB, "too many pixels"), (b"", "is no image")]
)
def test_a_bad_upload_is_said_in_the_page(page, content, said, tmp_path, server, name):
    before = server.memory
    panel = tab(page, name)
    upload(panel, tmp_path / "bad.png", content)
    if name == "Denoise":
        expect(panel.get_by_label("Remove Image").or_(panel.locator("img")).first).to_be_visible()
        page.wait_for_timeout(500)
        click(panel, name)
    expect(page.get_by_text(said)).to_be_visible()
    assert server.memory < before + 60
    if name == "Inpaint":
        click(panel, name)
        expect(page.get_by_text("no image: upload one")).to_be_visible()


def test_the_page_waits_in_the_same_line(page, server):
    """Behind a request over HTTP, until that one goes away."""
    with busy(server):
        panel = tab(page, "Pictures")
        click(panel, "Make pictures")
        expect(panel.locator(".prose.watched")).to_contain_text("Waiting: 0 before you")
    expect(panel.locator(".watched p")).to_have_text("after 3 of 3 steps")


def test_stop_stops(page, server):
    panel = tab(page, "Pictures")
    fill(panel, "number input for Steps", 1000)
    click(panel, "Make pictures")
    status = panel.locator(".watched p")
    expect(status).to_have_text(re.compile("after"))
    click(panel, "Stop")
    expect(status).to_have_text("stopped")
    assert server.idle(within=5)


def joined(client, steps):
    """The page's own event, asked for by a program: what Gradio says in the end."""
    events = client.get("/config").json()
    made = next(event for event in events["dependencies"] if event["targets"] and len(event["inputs"]) == 6)
    data = [-2, 1.5, "ddim", steps, 0, 1]
    sent = {"data": data, "fn_index": made["id"], "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=sent).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "abc"}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return message
    return None


def test_numbers_that_the_page_would_not_send(client):
    for steps in (-1, 0, MOST + 1):
        message = joined(client, steps)
        assert message["success"] is False
        assert re.search("[Vv]alue|steps", message["output"]["error"])
    assert joined(client, 2)["success"] is True


UPLOADS = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio")


@pytest.mark.parametrize("as_a_link", [False, True])
def test_no_file_is_read_but_what_was_uploaded(client, server, tmp_path, as_a_link):
    """Whatever input of whatever event names it: neither one of this machine's nor one of a URL."""
    secret = tmp_path / f"secret_{os.urandom(8).hex()}.png"
    Image.fromarray(IMAGE).save(secret)
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0.5)
        path = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/{secret.name}" if as_a_link else str(secret)
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        answers = []
        for event in client.get("/config").json()["dependencies"]:
            for data in (
                [file] * max(1, len(event["inputs"])),
                [{"background": file, "layers": [file], "composite": file}],
            ):
                sent = {"data": data, "fn_index": event["id"], "session_hash": "abc"}
                answers.append(client.post("/gradio_api/queue/join", json=sent))
                for route in ("run", "api", "call"):
                    answers.append(client.post(f"/gradio_api/{route}/{event['api_name']}", json=sent))
        answers.append(client.post("/gradio_api/queue/join", json={**sent, "data": [{**file, "path": "a\0b"}]}))
        outside = f"{UPLOADS}/../{secret.name}"
        answers.append(client.post("/gradio_api/queue/join", json={**sent, "data": [{**file, "path": outside}]}))
        assert {answer.status_code for answer in answers} == {404, 422}
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    assert server.idle(within=5)
    assert list(UPLOADS.rglob(secret.name)) == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 30_000, b'{"fn_index": 0, "session_hash": "x", "data": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"data": null}', b'{"data": []}',
                                  b'{"data": [], "fn_index": 99, "session_hash": "x"}',
                                  b'{"data": [], "fn_index": "x", "session_hash": "x"}',
                                  b'{"data": [], "fn_index": {}, "session_hash": "x"}'])  # fmt: skip
@pytest.mark.parametrize("form", ["application/json", "text/plain", "multipart/form-data; boundary=x"])
def test_nothing_that_is_sent_to_the_page_is_an_error_of_ours(client, body, form):
    for route in ("queue/join", "cancel", "reset", "upload", "component_server", "run/predict", "call/x", "stream/x",
                  "vibe-edit", "process_recording", "run-history/connect"):  # fmt: skip
        answer = client.post(f"/gradio_api/{route}", content=body, headers={"content-type": form})
        assert answer.status_code < 500, (route, answer.text)


def test_a_window_that_is_closed_leaves_the_line(browser, server):
    """While one of the network's pictures is asked for, behind another request."""

    def requests():
        return httpx.get(f"{server.url}/api/health").json()["requests"]

    def come_to(number, *, within):
        end = time.monotonic() + within
        while requests() != number and time.monotonic() < end:
            time.sleep(0.05)
        assert requests() == number

    with busy(server):
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        click(tab(page, "Inpaint"), "Take one of the network's")
        come_to(2, within=60)
        context.close()
        come_to(1, within=4)
    assert server.idle(within=5)


@pytest.mark.slow
def test_a_window_that_is_closed_stops_its_work(browser, server, tmp_path):
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    panel = tab(page, "Inpaint")
    upload(panel, tmp_path / "three.png", png(IMAGE))
    draw(page, panel)
    fill(panel, "number input for Steps", 1000)
    fill(panel, "number input for Resamplings", 20)
    click(panel, "Inpaint")
    expect(panel.locator(".watched p")).to_have_text(re.compile(r"after \d+ of \d+ steps"))
    context.close()
    assert server.idle(within=5)  # of 20,000 steps


def refused(*args):
    with pytest.raises(SystemExit) as end:
        main(["app", *args])
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--labels", "3"), "--labels: each request says its own; leave it out"),
        (("--seed", "1"), "--seed: each request says its own"),
        (("--classifier", "x.pt"), "--classifier: the app has none"),
        (("--port", "70000"), "--port 70000: expected 0 to 65535"),
        (("--host", "256.1.1.1"), "--host 256.1.1.1 --port 7860: cannot listen there"),
        (("--port", "0"), "give either --run FOLDER"),
        (("--max-waiting", "-1"), "--max-waiting -1: expected at least"),
    ],
)
def test_a_command_that_cannot_be_is_said(args, message, capsys):
    refused(*args)
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_said(server, capsys, trained):
    refused("--run", str(trained / "run"), "--port", server.url.rpartition(":")[2])
    assert "cannot listen there (Address already in use)" in capsys.readouterr().err


def test_what_is_not_installed_is_said(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("--run", "x")
    assert "pip install 'jaxdiff[app]'" in capsys.readouterr().err

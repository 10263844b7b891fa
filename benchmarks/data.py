"""Where images come from, measured: the start of a large folder, reading records, preparing a folder, what the
pipeline feeds to the devices, and for what share of their steps the shipped configs wait for it.

python benchmarks/data.py --pipeline images.npz
python benchmarks/data.py --folder 100000
python benchmarks/data.py --records images.npz
python benchmarks/data.py --prepare 20000 --workers 2
python benchmarks/data.py --waits images.npz [--configs digits cifar10_ddpm] [--steps 40] [--batch-size 8]
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from array_record.python import array_record_module
from PIL import Image

from jaxdiff.config import load
from jaxdiff.data import array_file, batches, image_folder, prepare, record_folder
from jaxdiff.data.records import READER, WRITER
from jaxdiff.report import read_metrics
from jaxdiff.train import Feed, pmapped

SHAPES = {
    "mnist": (28, 1),
    "32": (32, 3),
    "cifar10": (32, 3),
    "64": (64, 3),
}  # size, channels, by what is in a config's name


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def make_folder(root: Path, count: int, *, height: int, width: int) -> None:
    """Noise in 100 classes; 200 different files, each with its own name and bytes on disk."""
    rng = np.random.default_rng(0)
    files = [png(rng.integers(0, 256, (height, width, 3), np.uint8)) for _ in range(200)]
    for i in range(count):
        folder = root / f"class{i % 100:03d}"
        if i < 100:
            folder.mkdir(parents=True)
        (folder / f"{i:07d}.png").write_bytes(files[i % len(files)])


def folder(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "images"
        make_folder(root, count, height=32, width=32)
        subprocess.run(["sync"], check=False)
        program = (
            "import time; a = time.perf_counter(); import numpy as np; from jaxdiff.data import batches, image_folder;"
            f"b = time.perf_counter(); source = image_folder({str(root)!r}); c = time.perf_counter();"
            "next(batches(source, batch_size=128, seed=0)); d = time.perf_counter();"
            "print(f'{len(source):,} files: imports {b - a:.2f} s, listing {c - b:.2f} s, first batch {d - c:.2f} s')"
        )
        for _ in range(3):
            subprocess.run([sys.executable, "-c", program], check=True)
        source = image_folder(root)
        index = np.random.default_rng(0).permutation(count)[: 64 * 64].reshape(-1, 64)
        print(
            f"decoding 32x32 PNGs on one thread: {rate(lambda i: source.gather(index[i % len(index)]), 64):,.0f} img/s"
        )


def rate(call: Callable[[int], object], images: int, *, seconds: float = 2.0) -> float:
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        call(calls)
        calls += 1
    return calls * images / (time.perf_counter() - started)


def records(path: str) -> None:
    """Raw pixels against PNG, with and without zstd: size, and images a second read at random on one thread."""
    images = array_file(path).images[:10_000]
    large = [np.asarray(Image.fromarray(i).resize((128, 128), Image.Resampling.LANCZOS)) for i in images[:1500]]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        for pictures in (images, np.stack(large)):
            shape = pictures.shape[1:]
            for name, options, encode in (
                ("raw", WRITER, lambda image: image.tobytes()),
                ("raw, zstd", "group_size:1,zstd:1", lambda image: image.tobytes()),
                ("png", WRITER, png),
            ):
                file = f"{folder}/a.array_record"
                writer = array_record_module.ArrayRecordWriter(file, options)
                for image in pictures:
                    writer.write(encode(image))
                writer.close()
                reader = array_record_module.ArrayRecordReader(file, READER)

                def read(
                    _: int,
                    reader: object = reader,
                    shape: tuple[int, ...] = shape,
                    n: int = len(pictures),
                    packed: bool = name == "png",
                ) -> np.ndarray:
                    found = reader.read(rng.integers(0, n, 128).tolist())  # type: ignore[attr-defined]
                    if packed:
                        return np.stack([np.asarray(Image.open(io.BytesIO(record))) for record in found])
                    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, *shape)

                size = os.path.getsize(file) / pictures.nbytes
                print(
                    f"{'x'.join(map(str, shape))} {name:10} {size:.2f} of the pixels' bytes, "
                    f"{rate(read, 128):,.0f} img/s"
                )


def pipeline(path: str) -> None:
    """Shuffled, gathered, put on the devices: what a training step would get, without the step."""
    source = array_file(path)
    shape = "x".join(map(str, source.image_shape))
    put = pmapped(lambda state, batch, key, *, axis_name: (state, {})).feed
    for batch_size in (16, 128, 512):
        for flip in (False, True):
            found = batches(source, batch_size=batch_size, seed=0, flip=flip)
            with Feed(found, put, steps_per_call=1) as feed:
                speed = rate(lambda _, feed=feed: next(feed), batch_size, seconds=5.0)
            print(f"{shape}, batch {batch_size}{', flipped' if flip else ''}: {speed:,.0f} img/s")


def prepared(count: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root, out = Path(name) / "images", Path(name) / "out"
        make_folder(root, count, height=240, width=320)
        source = image_folder(root, size=64)
        for number in (1, workers):
            started = time.perf_counter()
            prepare(source, out, name="images", shard_images=max(1, count // 10), workers=number)
            seconds = time.perf_counter() - started
            print(
                f"{count} PNGs of 320x240 to 64x64, {number} processes: {seconds:.1f} s, {count / seconds:,.0f} img/s"
            )
            found = record_folder(out)
            order = np.random.default_rng(0).permutation(count)[: count // 64 * 64].reshape(-1, 64)
            speed = rate(lambda i, found=found, order=order: found.gather(order[i % len(order)]), 64)
            print(f"  read at random on one thread: {speed:,.0f} img/s")
            shutil.rmtree(out)


def waits(images: str, names: list[str], steps: int, batch_size: int | None) -> None:
    """train.py with each config: on its own data if they need no download, else on these images at its resolution."""
    root = Path(__file__).parents[1]
    for config in [root / "configs" / f"{name}.py" for name in names] or sorted((root / "configs").glob("*.py")):
        own = load(config)
        batch = batch_size or own.train.batch_size
        flags = f"--train.steps {2 * steps} --log.every {steps} --train.batch-size {batch} --log.samples 0"
        flags += f" --log.checkpoint-every {2 * steps}"
        if own.data.name.startswith("tfds:"):
            size, channels = next(shape for part, shape in SHAPES.items() if part in config.stem)
            flags += f" --data.name {Path(images).absolute()} --data.size {size} --data.channels {channels}"
        with tempfile.TemporaryDirectory() as run:
            command = [sys.executable, str(root / "train.py"), "--config", str(config), "--run", f"{run}/run"]
            done = subprocess.run([*command, *flags.split()], capture_output=True, text=True)
            if done.returncode:
                print(f"{config.stem}: {done.stderr.strip().splitlines()[-1]}")
                continue
            last = read_metrics(Path(run) / "run" / "metrics.jsonl")[-1]
        speed, share = last["images_per_second"], last["data_wait"]
        print(
            f"{config.stem}: batch {batch}, {speed:,.0f} img/s, waits for data {100 * share:.2f} % of the time",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=int, metavar="FILES", help="start of a folder of that many PNGs")
    parser.add_argument("--pipeline", metavar="NPZ", help="batches of its images, on the devices")
    parser.add_argument("--records", metavar="NPZ", help="raw against PNG records of its images")
    parser.add_argument("--prepare", type=int, metavar="FILES", help="jaxdiff data prepare of that many PNGs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--waits", metavar="NPZ", help="train.py with the shipped configs, on its images")
    parser.add_argument("--configs", nargs="*", default=[], help="of these alone")
    parser.add_argument("--steps", type=int, default=40, help="that are measured, after as many others")
    parser.add_argument("--batch-size", type=int, help="default: the config's")
    options = parser.parse_args()
    if options.folder:
        folder(options.folder)
    if options.pipeline:
        pipeline(options.pipeline)
    if options.records:
        records(options.records)
    if options.prepare:
        prepared(options.prepare, options.workers)
    if options.waits:
        waits(options.waits, options.configs, options.steps, options.batch_size)


if __name__ == "__main__":
    main()

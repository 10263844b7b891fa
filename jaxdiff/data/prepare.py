"""A source written as ArrayRecord shards, once: in parallel, and continued where it was killed.

Shard k has the images k S to (k + 1) S - 1 of the source, less those that are left out. So it depends on no other
shard, and the files are the same, to the byte, for any number of processes and interruptions. A shard is written in
`.prepare`, renamed when it is whole, and recorded there with its checksum; `index.json` comes last, then `.prepare`
goes.
"""

import fcntl
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jaxdiff.data.fit import UnreadableError
from jaxdiff.data.folder import FolderSource
from jaxdiff.data.records import FORMAT, INDEX, read_index, write_records
from jaxdiff.data.sources import Examples, Source, class_names
from jaxdiff.data.workers import end_with_parent
from jaxdiff.files import sha256, write_atomically
from jaxdiff.typing import InputError

CHUNK = 32  # images decoded at a time
SHARD_BYTES, SHARD_IMAGES = 2**27, 10_000
NAMED = 20  # unreadable images that a message lists

Shard = dict[str, Any]
"""name, count, bytes, sha256, skipped [[name, reason], ...]; of a shard that was not written the last alone."""


def prepare(
    source: Source,
    out: Path,
    *,
    name: str,
    shard_images: int | None = None,
    workers: int = 1,
    skip_corrupt: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write the images of `source`, in its order, into shards in `out`, for `record_folder`; what the index says.

    Called again with the same arguments after it was killed, it continues with the shards that are missing or damaged.

    Args:
      source: picklable, whose unreadable images raise `UnreadableError`.
      out: a folder, new, empty, or one where the same was begun.
      name: of the source, for the index.
      shard_images: S; default 128 MiB of images, at most 10,000.
      workers: processes; 1 for this one alone.
      skip_corrupt: leave unreadable images out.
      progress: show a bar.

    Raises:
      InputError: something else is in `out`, or was begun there with other settings; images that cannot be read (all of
        them are named, the rest is written) without `skip_corrupt`; a full disk.

    >>> import tempfile
    >>> from jaxdiff.data import digits, record_folder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     index = prepare(digits(), Path(folder), name="digits", shard_images=1000)
    ...     [shard["count"] for shard in index["shards"]], len(record_folder(folder))
    ([1000, 797], 1797)
    """
    for value, what in ((shard_images, "shard_images"), (workers, "workers")):
        if value is not None and value < 1:
            raise InputError(f"{what}: expected at least 1, got {value}")
    size = shard_images or min(SHARD_IMAGES, max(1, SHARD_BYTES // int(np.prod(source.image_shape))))
    plan = {
        "data": name, "images": len(source), "image_shape": list(source.image_shape),
        "num_classes": source.num_classes, "class_names": _listed(class_names(source)),
        "shard_images": size, "identity": _identity(source),
    }  # fmt: skip
    try:
        with _locked(out):
            return _prepare(source, out, plan, workers=workers, skip_corrupt=skip_corrupt, progress=progress)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be written ({error}). What is finished is kept; mend it and run the same command again"
        ) from error


def _prepare(
    source: Source, out: Path, plan: dict[str, Any], *, workers: int, skip_corrupt: bool, progress: bool
) -> dict[str, Any]:
    size = plan["shard_images"]
    total = -(-len(source) // size)
    names = [f"images-{k:05d}-of-{total:05d}.array_record" for k in range(total)]
    shards = _begun(out, plan, names)
    for k, shard in list(shards.items()):
        if not _whole(out, shard) or (shard["skipped"] and not skip_corrupt):
            del shards[k]
    todo = [k for k in range(total) if k not in shards]
    tasks = {k: (k, names[k], range(k * size, min((k + 1) * size, len(source)))) for k in todo}
    done = len(source) - sum(len(images) for _, _, images in tasks.values())
    with tqdm(total=len(source), initial=done, unit="img", desc=str(out), disable=not progress) as bar:
        for k, shard in _run(source, out, list(tasks.values()), workers, skip_corrupt, bar):
            shards[k] = shard
            if "name" in shard:
                write_atomically(out / ".prepare" / f"{k:05d}.json", json.dumps(shard).encode())
    skipped = [image for k in range(total) for image in shards[k]["skipped"]]
    if skipped and not skip_corrupt:
        lines = "".join(f"\n  {image}: {reason}" for image, reason in skipped[:NAMED])
        more = f"\n  and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        raise InputError(
            f"{len(skipped)} of {len(source)} images cannot be read:{lines}{more}\n"
            "Mend them and run the same command again, or give --skip-corrupt to leave them out"
        )
    written = [shards[k] for k in range(total) if shards[k]["count"]]
    if not written:
        raise InputError(f"none of the {len(source)} images can be read; the first: {': '.join(skipped[0])}")
    index = {
        "format": FORMAT, "count": sum(shard["count"] for shard in written), "image_shape": plan["image_shape"],
        "num_classes": plan["num_classes"], "class_names": plan["class_names"], "skipped": len(skipped),
        "shards": [shards[k] for k in range(total)], "made_from": plan,
    }  # fmt: skip
    write_atomically(out / INDEX, json.dumps(index, indent=1).encode())
    return index


def _begun(out: Path, plan: dict[str, Any], names: list[str]) -> dict[int, Shard]:
    """The shards of an earlier call; `InputError` if it had other settings, or another kind of folder is there."""
    index, note = read_index(out), out / ".prepare" / "plan.json"
    before = index["made_from"] if index else json.loads(note.read_text()) if note.is_file() else None
    if before is None:
        others = sorted(p.name for p in out.iterdir() if p.name != ".prepare")
        if others:
            raise InputError(f"--out {out}: the folder is not empty, it has {others[0]}. Give another, or empty it")
        write_atomically(note, json.dumps(plan).encode())
        return {}
    different = [key for key in plan if before.get(key) != plan[key]]
    if different:
        lines = "".join(f"\n  {key}: {_short(before.get(key))} there, {_short(plan[key])} now" for key in different)
        raise InputError(
            f"--out {out}: was begun with other settings or images:{lines}\nGive these as they were to continue, "
            "another --out, or delete the folder yourself"
        )
    if index:
        return dict(enumerate(index["shards"]))
    found = {k: out / ".prepare" / f"{k:05d}.json" for k in range(len(names))}
    return {k: json.loads(path.read_text()) for k, path in found.items() if path.is_file()}


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _listed(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names)


def _whole(out: Path, shard: Shard) -> bool:
    path = out / shard["name"]
    return path.is_file() and [path.stat().st_size, sha256(path)] == [shard["bytes"], shard["sha256"]]


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Alone in `out`; `.prepare` is removed at the end if all went well."""
    scratch = out / ".prepare"
    scratch.mkdir(parents=True, exist_ok=True)
    with open(scratch / "lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out {out}: another jaxdiff data prepare is writing there; let it finish") from None
        for part in scratch.glob("*.part"):
            part.unlink()
        try:
            yield
        except BaseException:
            if not (scratch / "plan.json").is_file():  # nothing was begun: leave no trace
                shutil.rmtree(scratch)
            raise
        shutil.rmtree(scratch)


def _identity(source: Source) -> str:
    """By what a set is known again: the names of its files, or some of its images; and some of its labels."""
    inner: Any = source
    while hasattr(inner, "source"):
        inner = inner.source
    digest = hashlib.sha256()
    if isinstance(inner, FolderSource):
        digest.update("\0".join(inner.names).encode(errors="surrogateescape"))
        return digest.hexdigest()
    for i in np.linspace(0, len(source) - 1, 64).astype(int):
        try:
            digest.update(b"".join(value.tobytes() for _, value in sorted(source.gather(np.array([i])).items())))
        except UnreadableError as error:
            digest.update(error.name.encode(errors="surrogateescape"))
    return digest.hexdigest()


# --- the work, in this process or another ---------------------------------------------------------------------------

Task = tuple[int, str, range]
_worker: dict[str, Any] = {}


def _run(
    source: Source, out: Path, tasks: list[Task], workers: int, skip_corrupt: bool, bar: Any
) -> Iterator[tuple[int, Shard]]:
    """Each shard's number and what was written, as they are finished."""
    if workers == 1 or len(tasks) < 2:
        for k, name, images in tasks:
            yield k, _write(source, out, name, images, skip_corrupt, bar.update)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as JAX's, may hang
    count = context.Value("q", 0)
    started = bar.n
    with ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=_start, initargs=(source, out, skip_corrupt, count)
    ) as pool:
        pending: dict[Future[Shard], int] = {pool.submit(_work, name, images): k for k, name, images in tasks}
        try:
            while pending:
                finished, _ = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                bar.update(started + count.value - bar.n)
                for future in finished:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "a worker process was killed, perhaps for want of memory. What is finished is kept: run the same "
                "command again, with fewer --workers or --shard-images as it was"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start(source: Source, out: Path, skip_corrupt: bool, count: Any) -> None:
    """In a worker process: what it will need, and that it ends with its parent, even one that is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    _worker.update(source=source, out=out, skip_corrupt=skip_corrupt, count=count)
    end_with_parent()


def _work(name: str, images: range) -> Shard:
    def update(number: int) -> None:
        with _worker["count"].get_lock():
            _worker["count"].value += number

    return _write(_worker["source"], _worker["out"], name, images, _worker["skip_corrupt"], update)


def _write(source: Source, out: Path, name: str, images: range, skip_corrupt: bool, update: Any) -> Shard:
    """One shard, whole or not at all: without `skip_corrupt` none that lacks an image."""
    skipped: list[list[str]] = []

    def readable() -> Iterator[tuple[np.ndarray, int]]:
        for begin in range(images.start, images.stop, CHUNK):
            chunk = np.arange(begin, min(begin + CHUNK, images.stop))
            for examples in _readable(source, chunk, skipped):
                labels = examples.get("label", np.full(len(examples["image"]), -1))
                yield from zip(examples["image"], labels.tolist(), strict=True)
            update(len(chunk))

    part = out / ".prepare" / f"{name}.{os.getpid()}.part"
    try:
        count = write_records(part, readable())
        if skipped and not skip_corrupt:
            return {"skipped": skipped}
        shard = {"name": name, "count": count, "bytes": part.stat().st_size, "sha256": sha256(part)}
        os.replace(part, out / name)
    finally:
        part.unlink(missing_ok=True)
    return shard | {"skipped": skipped}


def _readable(source: Source, chunk: np.ndarray, skipped: list[list[str]]) -> Iterator[Examples]:
    try:
        yield source.gather(chunk)
        return
    except UnreadableError:
        pass
    for i in chunk:  # one of them is not readable: which?
        try:
            yield source.gather(np.array([i]))
        except UnreadableError as error:
            skipped.append([error.name, error.reason])

"""Runs at a URL: `gs://BUCKET/RUN`, `s3://BUCKET/RUN`, or whatever else fsspec has a package for.

A run is worked on in a copy, in the user's cache directory, and what is new in it is sent to the URL after every
checkpoint. There `finished.json` is written last: it lists the checkpoints and snapshots that are there whole, and no
others count. So an end amid the sending costs one checkpoint, and any other machine goes on from the one before.
"""

import dataclasses
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxdiff.files import cache_folder, write_atomically
from jaxdiff.train import integrity
from jaxdiff.train.checkpoint import gist, saved_steps
from jaxdiff.typing import InputError

FINISHED = "finished.json"
SAVED = ("checkpoints", "snapshots")  # hold folders that never change once they have their names
OWN = ("damaged", "wandb", FINISHED)  # of the copy alone
URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>/+)(?P<path>.*)")
PACKAGES = {"gs": "jaxdiff[gs]", "gcs": "jaxdiff[gs]", "s3": "jaxdiff[s3]"}
ATTEMPTS = 3  # at reading what a training may be replacing

Folders = dict[str, list[float]]
"""Of each checkpoint and snapshot, by its path in the run, the CRC-32 of its sums, and its time in seconds."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run is: a folder.

    Attributes:
      name: as the user gave it.
      folder: that everything is in.
    """

    name: str
    folder: Path

    def check(self) -> None:
        """Raise `InputError` if nothing is installed for its URL."""

    def pull(self) -> None:
        """Make the folder what is at the URL, if it is a copy of one."""

    def push(self) -> None:
        """Make the URL, if there is one, what is in the folder."""


@dataclasses.dataclass(frozen=True)
class Remote(Place):
    """The copy of a run at a URL, which is its name.

    Attributes:
      logs: whether logs and pictures are pulled too, or only what one samples from.
      writer: by which a training that sends something is known to others.
    """

    logs: bool = True
    writer: str = dataclasses.field(default_factory=lambda: secrets.token_hex(8))
    _states: dict[str, tuple[int, int]] = dataclasses.field(default_factory=dict)  # of the logs as they were sent

    @cached_property
    def _there(self) -> tuple[Any, str]:
        """The file system, and the run's path in it."""
        import fsspec

        scheme = self.name.partition("://")[0]
        try:
            system, path = fsspec.core.url_to_fs(self.name, **({"auto_mkdir": True} if scheme == "file" else {}))
        except ImportError as error:
            package = PACKAGES.get(scheme)
            mend = (
                f"pip install '{package}' (in a clone '.{package.removeprefix('jaxdiff')}')"
                if package
                else "Install that"
            )
            raise InputError(f"{self.name}: {error}. {mend}, or give a folder") from error
        except Exception as error:  # each package raises its own
            raise InputError(
                f"{self.name}: no place for a run ({gist(error)}). Expected gs://BUCKET/RUN, s3://..."
            ) from error
        return system, path.rstrip("/")

    def check(self) -> None:
        """Raise `InputError` if nothing is installed for such URLs."""
        _ = self._there

    def pull(self) -> None:
        """Make the copy what is at the URL; but what it has and could not send, or what is no longer there at all, a
        training's keeps.

        Raises:
          InputError: the URL cannot be read, or nothing is installed for its kind.
        """
        with self._saying("read"):
            for attempt in range(ATTEMPTS):
                there, sent = self._read(), self._sent()
                if there is None and self.logs and self._folders():  # all that is left of the run
                    return
                unsent = set(self._folders()) - set(sent["folders"] if sent else ())
                if unsent and (there or sent or {}).get("writer") == (sent or {}).get("writer"):
                    return
                try:
                    return self._mirror(there, sent)
                except FileNotFoundError:  # a training has replaced it meanwhile
                    if attempt + 1 == ATTEMPTS:
                        raise
                    time.sleep(1)

    def push(self) -> None:
        """Send what is new, then `finished.json`, then delete there what is no longer here.

        Raises:
          InputError: the URL cannot be written, or another training writes to it.
        """
        with self._saying("written"):
            system, root = self._there
            there, sent = self._read(), self._sent()
            if there and there["writer"] not in (self.writer, (sent or {}).get("writer")):
                raise InputError(f"{self.name}: another training is writing there; give another --run")
            folders, before = self._folders(), there["folders"] if there else {}
            if there is None:
                self._states.clear()
            for name in folders:
                if before.get(name, [None])[0] != folders[name][0]:
                    paths = [path for path in sorted((self.folder / name).rglob("*")) if path.is_file()]
                    system.put([str(path) for path in paths], [self._url(path) for path in paths])
            for path in self._logs():
                state = path.stat().st_size, path.stat().st_mtime_ns
                if self._states.get(str(path)) != state:
                    system.pipe_file(self._url(path), path.read_bytes())  # at once: it may grow meanwhile
                    self._states[str(path)] = state
            finished = json.dumps({"writer": self.writer, "folders": folders}).encode()
            system.pipe_file(f"{root}/{FINISHED}", finished)
            write_atomically(self.folder / FINISHED, finished)
            for name in set(before) - set(folders):
                system.rm(f"{root}/{name}", recursive=True)

    @contextmanager
    def _saying(self, done: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # each package raises its own
            raise InputError(f"{self.name}: cannot be {done} ({gist(error)})") from error

    def _read(self) -> Any:
        """What `finished.json` says at the URL; None where there is none."""
        system, root = self._there
        system.invalidate_cache()
        try:
            return json.loads(system.cat_file(f"{root}/{FINISHED}"))
        except FileNotFoundError:
            return None

    def _sent(self) -> Any:
        """What it said when the copy was last the same as the URL."""
        path = self.folder / FINISHED
        return json.loads(path.read_text()) if path.is_file() else None

    def _folders(self) -> Folders:
        found = {}
        for kind in SAVED:
            for step in saved_steps(self.folder / kind):
                path = self.folder / kind / str(step)
                sums = path / integrity.NAME
                found[f"{kind}/{step}"] = [
                    zlib.crc32(sums.read_bytes()) if sums.is_file() else 0, path.stat().st_mtime
                ]  # fmt: skip
        return found

    def _logs(self) -> list[Path]:
        """Everything else."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [path for path in found if _is_log(path.relative_to(self.folder).parts)]

    def _url(self, path: Path) -> str:
        return f"{self._there[1]}/{path.relative_to(self.folder).as_posix()}"

    def _mirror(self, there: Any, sent: Any) -> None:
        system, root = self._there
        folders: Folders = there["folders"] if there else {}
        here = self._folders()
        for name in list(here):
            if folders.get(name, [None])[0] != here[name][0]:
                shutil.rmtree(self.folder / name)
                del here[name]
        for name in sorted(set(folders) - set(here)):
            self._fetch(name, folders[name][1])
        if there != sent:
            names = [name.removeprefix(f"{root}/") for name in system.find(root)] if self.logs else ["run.json"]
            names = [name for name in names if _is_log(tuple(name.split("/")))] if there else []
            for path in self._logs():
                if path.relative_to(self.folder).as_posix() not in names:
                    path.unlink()
            for name in names:
                write_atomically(self.folder / name, system.cat_file(f"{root}/{name}"))
        if there:
            write_atomically(self.folder / FINISHED, json.dumps(there).encode())
        else:
            (self.folder / FINISHED).unlink(missing_ok=True)

    def _fetch(self, name: str, saved: float) -> None:
        """A folder, whole or not at all."""
        system, root = self._there
        path, part = self.folder / name, self.folder / f".part-{secrets.token_hex(4)}"
        try:
            files = system.find(f"{root}/{name}")
            if not files:
                raise FileNotFoundError(f"{root}/{name}")
            targets = [part / file.removeprefix(f"{root}/{name}/") for file in files]
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
            system.get(files, [str(target) for target in targets])
            os.utime(part, (saved, saved))
            path.parent.mkdir(exist_ok=True)
            try:
                part.rename(path)
            except OSError:  # another process, which reads too, was faster
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _is_log(parts: tuple[str, ...]) -> bool:
    return parts[0] not in (*SAVED, *OWN) and not any(part.startswith(".") for part in parts)


def place(run: str, *, reading: bool = False) -> Place:
    """Where a run is, by what the user gave: a folder, or a URL. Nothing is asked for yet.

    Args:
      run: the folder or the URL.
      reading: for a copy apart from that of a training.

    Raises:
      InputError: an address without a bucket and a folder in it.

    >>> place("runs/digits").folder.as_posix()
    'runs/digits'
    >>> place("gs://bucket/digits").folder.name
    'gs_bucket_digits-454529c6'
    """
    match = URL.match(run)
    if match is None:
        return Place(run, Path(run))
    if not match["path"].strip("/").count("/") or match["slashes"] != "//":
        raise InputError(f"--run {run}: expected a folder, or {match['scheme']}://BUCKET/RUN")
    url = run.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", url) + f"-{zlib.crc32(url.encode()):08x}"
    return Remote(url, cache_folder() / ("reading" if reading else "training") / name, logs=not reading)

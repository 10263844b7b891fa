"""One line for all requests, of the page and of the API: so many are worked on, so many may wait. Of one event loop."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from types import TracebackType

from anyio import to_thread

from jaxdiff.app.limits import BusyError
from jaxdiff.app.model import Frame, Job
from jaxdiff.typing import InputError


class Line:
    """First come, first served.

    Args:
      at_once: that are worked on.
      waiting: that may wait besides.
    """

    def __init__(self, *, at_once: int, waiting: int) -> None:
        self.at_once, self.places = at_once, at_once + waiting
        self.tickets: list[Ticket] = []

    @property
    def full(self) -> bool:
        """Whether nobody else may join."""
        return len(self.tickets) >= self.places

    def join(self) -> "Ticket":
        """A place at the end, to be used as a context, which gives it up.

        Raises:
          BusyError: there is none.
        """
        if self.full:
            raise BusyError(f"{len(self.tickets)} requests are here already; come again in a while")
        return Ticket(self)


class Ticket:
    """A place in a line."""

    def __init__(self, line: Line) -> None:
        self.line, self.moved = line, asyncio.Event()
        line.tickets.append(self)

    @property
    def ahead(self) -> int:
        """Requests that will be begun before this one; 0 if none is, but there is no room yet; -1: it is its turn."""
        return self.line.tickets.index(self) - self.line.at_once

    async def wait(self, *, every: float = 0.5) -> AsyncIterator[int]:
        """How many are ahead, again and again, until it is its turn."""
        while True:
            self.moved.clear()  # before it is looked: what moves while somebody reads this is not missed
            if (ahead := self.ahead) < 0:
                return
            yield ahead
            with suppress(TimeoutError):
                await asyncio.wait_for(self.moved.wait(), every)

    async def __aenter__(self) -> "Ticket":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.line.tickets.remove(self)
        for ticket in self.line.tickets:
            ticket.moved.set()


async def worked(job: Job, *, seconds: float) -> AsyncGenerator[Frame, None]:
    """The frames of a job, each made in a thread when it is asked for: who asks no more has stopped it.

    The time is counted from the first step's end, for that one may compile. One who is cancelled in a step waits for
    its end, as a thread cannot be stopped: nobody else may take the place meanwhile.

    Raises:
      InputError: what the job raises; it takes longer.
    """
    frames, end = job.frames(), float("inf")
    while True:
        step = asyncio.ensure_future(to_thread.run_sync(next, frames, None))
        try:
            frame = await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.wait({step})
            raise
        if frame is None:
            return
        if frame.done == 1:
            end = time.monotonic() + seconds
        yield frame
        if time.monotonic() > end and frame.done < job.steps:
            raise InputError(
                f"stopped after {seconds:g} s, {frame.done} of {job.steps} steps: ask for fewer steps or pictures"
            )

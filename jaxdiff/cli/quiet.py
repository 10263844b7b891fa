"""What other libraries say in pages, of a save, a restore or a solver that fails, and we in a line."""

import logging
import sys

LOGGERS = ("absl", "asyncio", "jax._src.callback")  # orbax's, its futures', and what raises in compiled programs


def failed_saves() -> None:
    """Let what goes wrong with a checkpoint be told by `Checkpoints` alone, until this process ends.

    Writes that are under way when one of a save fails call back to a loop that is closed by then; Python prints each
    such call as a traceback.
    """
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook

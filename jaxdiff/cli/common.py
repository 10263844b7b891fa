"""What both commands say."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxdiff import pretrained
from jaxdiff.train import NonFiniteLossError
from jaxdiff.typing import InputError, Schedule


def load_pretrained(path: Path, options: Mapping[str, str]) -> pretrained.Pretrained:
    """The network of another library, with options in words: "64" is a number, "true" a bool."""

    def value(word: str) -> Any:
        try:
            return json.loads(word.lower())
        except ValueError:
            return word

    return pretrained.load(path, **{name: value(word) for name, word in options.items()})


def warn_of_signal(schedule: Schedule) -> None:
    """Sampling starts from noise; a schedule that ends with signal left never showed the model such an x_1."""
    snr = float(schedule.alpha(jnp.float32(1.0)) / schedule.sigma(jnp.float32(1.0)))
    if snr > 0.1:
        print(
            f"warning: this schedule ends at t = 1 with alpha / sigma = {snr:.2f}, not with pure noise, which pictures "
            "start from: expect them to be off (too grey, too alike)",
            file=sys.stderr,
        )


def say_errors(command: Callable[[], None], *, stopped: str) -> None:
    """Run a command: a user's error is one message and exit code 2; Ctrl-C is `stopped` and 130."""
    try:
        command()
    except (InputError, NonFiniteLossError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        sys.exit(130)

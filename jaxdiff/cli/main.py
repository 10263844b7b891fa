"""The command `jaxdiff`: what is done besides training and sampling, such as `jaxdiff data show`."""

from collections.abc import Sequence

from tyro.extras import SubcommandApp

from jaxdiff.cli.common import say_errors
from jaxdiff.cli.ema import ema

app = SubcommandApp()
app.command(ema)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of jaxdiff."""
    say_errors(lambda: app.cli(args=argv, prog="jaxdiff"), stopped="stopped")

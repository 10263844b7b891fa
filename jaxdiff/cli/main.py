"""The command `jaxdiff`: what is done besides training and sampling, such as `jaxdiff data show`."""

from collections.abc import Sequence

from tyro.extras import SubcommandApp

from jaxdiff.cli.anomaly import anomaly
from jaxdiff.cli.app import app as web_app
from jaxdiff.cli.augment import augment
from jaxdiff.cli.checkpoint import checkpoint
from jaxdiff.cli.common import say_errors
from jaxdiff.cli.data import data
from jaxdiff.cli.edit import edit, interpolate, transfer, variations
from jaxdiff.cli.ema import ema
from jaxdiff.cli.evaluate import evaluate
from jaxdiff.cli.export import export
from jaxdiff.cli.inpaint import inpaint
from jaxdiff.cli.plot import plot
from jaxdiff.cli.restore import denoise, restore
from jaxdiff.cli.statistics import statistics
from jaxdiff.cli.super_resolution import super_resolution

app = SubcommandApp()
app.command(data, name="data", help="Prepare a set of images for training, or look at it.")
app.command(checkpoint, name="checkpoint", help="List, verify or export a run's checkpoints, or print their config.")
app.command(ema)
app.command(evaluate)
app.command(export)
app.command(name="app")(web_app)
app.command(statistics)
for task in (inpaint, restore, super_resolution, denoise, variations, transfer, edit, interpolate, anomaly, augment):
    app.command(task)
app.command(plot, name="plot", help="Draw metrics, losses, bits per dimension, the process, or nearest neighbours.")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line of jaxdiff."""
    say_errors(lambda: app.cli(args=argv, prog="jaxdiff"), stopped="stopped")

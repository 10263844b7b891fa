"""The command lines of train.py, sample.py and `jaxdiff`."""

from jaxdiff.cli.main import main
from jaxdiff.cli.sample import sample_main
from jaxdiff.cli.train import train_main

__all__ = ["main", "sample_main", "train_main"]

"""The command lines of train.py and sample.py."""

from jaxdiff.cli.sample import sample_main
from jaxdiff.cli.train import train_main

__all__ = ["sample_main", "train_main"]

"""Training: one pure step, run on any devices; a loop; checkpoints. It gets functions and iterators, it knows neither
networks nor data."""

from jaxdiff.train.feed import Feed
from jaxdiff.train.loop import DataError, NonFiniteLossError, fit
from jaxdiff.train.parallel import pmapped, sharded
from jaxdiff.train.state import TrainState, init_state
from jaxdiff.train.step import train_step

__all__ = [
    "DataError", "Feed", "NonFiniteLossError", "TrainState", "fit", "init_state", "pmapped", "sharded", "train_step",
]  # fmt: skip

"""Training: one pure step, run on any devices; a loop; checkpoints. It gets functions and iterators, it knows neither
networks nor data."""

from jaxdiff.train.loop import NonFiniteLossError, fit
from jaxdiff.train.parallel import pmapped
from jaxdiff.train.state import TrainState, init_state
from jaxdiff.train.step import train_step

__all__ = ["NonFiniteLossError", "TrainState", "fit", "init_state", "pmapped", "train_step"]

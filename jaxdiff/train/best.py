"""Which checkpoints are the best."""

import math
from typing import Any


def worth(metrics: Any, name: str) -> float:
    """By which the best checkpoints are known: the lower a metric the more; of one that is not there or finite, least.

    >>> worth({"eval_loss": 0.25}, "eval_loss"), worth({"eval_loss": math.nan}, "eval_loss")
    (-0.25, -inf)
    """
    value = metrics.get(name)
    return -math.inf if value is None or not math.isfinite(value) else -float(value)

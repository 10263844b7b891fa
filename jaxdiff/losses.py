"""Training losses: named, per-example terms. Whoever trains takes the mean, once."""

import jax.numpy as jnp

from jaxdiff.parameterization import kind_weight, target
from jaxdiff.process import q_sample
from jaxdiff.typing import Array, Model, Schedule


def simple(
    x0: Array, t: Array, eps: Array, *, model: Model, schedule: Schedule, kind: str, as_kind: str | None = None
) -> dict[str, Array]:
    """The simple loss: the mean squared error of what the network predicts, all times alike,

        loss = mean over the data's dimensions of (y_target - model(x_t, t))^2,    x_t = alpha_t x_0 + sigma_t eps

    or, with `as_kind`, the same error measured in another kind (`parameterization.kind_weight`).

    Args:
      x0: data `[B, ...]`, images in [-1, 1].
      t: times in (0, 1], `[B]` (see `weighting`).
      eps: standard normal noise, the shape of `x0`.
      model: `(x_t, t) -> y`.
      schedule: gives alpha and sigma.
      kind: what the model predicts, a key of `parameterization.KINDS`.
      as_kind: the kind whose error counts; default `kind`. A score is trained as "eps", which is denoising score
        matching with lambda = sigma^2: its own error grows without bound towards the data.

    Returns:
      `{"loss": [B]}`, float32, not yet averaged over examples.

    >>> from jaxdiff.schedules import Flow
    >>> eps = jnp.full((2, 3), 2.0)
    >>> terms = simple(jnp.ones((2, 3)), jnp.full((2,), 0.5), eps,
    ...                model=lambda x, t: jnp.zeros_like(x), schedule=Flow(), kind="eps")
    >>> terms["loss"].tolist()
    [4.0, 4.0]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 14.
    """
    x_t = q_sample(x0, t, eps, schedule=schedule)
    error = model(x_t, t) - target(x0, eps, t, kind=kind, schedule=schedule)
    loss = jnp.mean(jnp.square(error.astype(jnp.float32)), axis=range(1, x0.ndim))
    if as_kind is not None and as_kind != kind:
        loss = loss * kind_weight(t, kind=kind, as_kind=as_kind, schedule=schedule)
    return {"loss": loss}

"""Training losses: named, per-example terms. Whoever trains takes the mean, once.

Flow matching (arXiv 2210.02747) is `simple` with `kind="velocity"` on `schedules.Flow()`: the target dx_t/dt is
eps - x_0. Its optimal-transport coupling is `coupling.assign`. EDM's loss is `simple` with `kind="F"`.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiff.likelihood_terms import vlb_term
from jaxdiff.parameterization import Kind, kind_weight, target, to_prediction
from jaxdiff.process import Variance, q_sample
from jaxdiff.schedules import half_log_snr, require
from jaxdiff.typing import Array, Denoiser, InputError, Model, Prediction, Schedule
from jaxdiff.weighting import Weight

Distance = Callable[[Array], Array]
"""How large an error is: `error [B, ...] float32 -> [B]`."""


def _mean(x: Array) -> Array:
    return jnp.mean(x, axis=range(1, x.ndim))


def square(error: Array) -> Array:
    """The mean of `error^2` over the data's dimensions."""
    return _mean(jnp.square(error))


def absolute(error: Array) -> Array:
    """The mean of `|error|` over the data's dimensions: L1."""
    return _mean(jnp.abs(error))


def huber(delta: Array | float = 1.0) -> Distance:
    """The mean of `error^2` where `|error| < delta`, and of `delta (2 |error| - delta)` beyond.

    It is twice Huber's function: `square`, with the same scale, for small errors.

    >>> huber(1.0)(jnp.array([[0.5], [3.0]])).tolist()
    [0.25, 5.0]
    """

    def distance(error: Array) -> Array:
        size = jnp.abs(error)
        return _mean(jnp.where(size < delta, jnp.square(error), delta * (2 * size - delta)))

    return distance


def pseudo_huber(c: Array | float | None = None) -> Distance:
    """`sqrt(|error|^2 + c^2) - c`, with the norm over all of an example's dimensions.

    Args:
      c: default 0.00054 sqrt(number of dimensions).

    >>> pseudo_huber(4.0)(jnp.full((1, 9), 1.0)).tolist()
    [1.0]

    Source: Song & Dhariwal 2023 (arXiv 2310.14189), section 3.3.
    """

    def distance(error: Array) -> Array:
        bend = jnp.asarray(0.00054 * math.sqrt(error[0].size) if c is None else c, error.dtype)
        return jnp.sqrt(jnp.sum(jnp.square(error), axis=range(1, error.ndim)) + bend**2) - bend

    return distance


def simple(
    x0: Array,
    t: Array,
    eps: Array,
    *,
    model: Model,
    schedule: Schedule,
    kind: Kind,
    as_kind: Kind | None = None,
    weight: Weight | None = None,
    distance: Distance = square,
) -> dict[str, Array]:
    """The simple loss: the mean squared error of what the network predicts, all times alike,

        loss = mean over the data's dimensions of (y_target - model(x_t, t))^2,    x_t = alpha_t x_0 + sigma_t eps

    or, with `as_kind`, the same error measured in another kind (`parameterization.kind_weight`), or weighted.

    Args:
      x0: data `[B, ...]`, images in [-1, 1].
      t: times in (0, 1], `[B]` (see `time_sampling`).
      eps: standard normal noise, the shape of `x0`.
      model: `(x_t, t) -> y`.
      schedule: gives alpha and sigma.
      kind: what the model predicts, a key of `parameterization.KINDS` or a row.
      as_kind: the kind whose error counts; default `kind`. A score is trained as "eps", which is denoising score
        matching with lambda = sigma^2: its own error grows without bound towards the data.
      weight: how much each time counts, such as `weighting.min_snr`; the kind is then of no consequence, so no
        `as_kind`.
      distance: of an error, `[B, ...] -> [B]`; `square`, `absolute`, `huber(delta)` or `pseudo_huber(c)`. The weights
        are those of squares.

    Returns:
      `{"loss": [B]}`, float32, not yet averaged over examples.

    Raises:
      InputError: both `as_kind` and `weight`; a model that returns another shape than x0's.

    >>> from jaxdiff.schedules import Flow
    >>> eps = jnp.full((2, 3), 2.0)
    >>> terms = simple(jnp.ones((2, 3)), jnp.full((2,), 0.5), eps,
    ...                model=lambda x, t: jnp.zeros_like(x), schedule=Flow(), kind="eps")
    >>> terms["loss"].tolist()
    [4.0, 4.0]

    Source: Ho et al. 2020 (arXiv 2006.11239), eq. 14.
    """
    if weight is not None and as_kind is not None:
        raise InputError("simple: give as_kind or weight, not both; a weight is the same for every kind")
    x_t = q_sample(x0, t, eps, schedule=schedule)
    y = model(x_t, t)
    require(y.shape == x0.shape, f"the model returned {y.shape} for x_t {x0.shape}: it must predict one value for each")
    error = y - target(x0, eps, t, kind=kind, schedule=schedule)
    loss = distance(error.astype(jnp.float32))
    if as_kind is not None:
        weight = partial(kind_weight, as_kind=as_kind)
    if weight is not None:
        loss = loss * weight(t, kind=kind, schedule=schedule).astype(jnp.float32)
    return {"loss": loss}


def vlb(
    x0: Array, t: Array, eps: Array, *, denoise: Denoiser, schedule: Schedule, variance: Variance, T: int
) -> dict[str, Array]:
    """One step's term of the variational bound, times T: of t uniform over the steps, the mean is their sum, in
    bits/dim. (`likelihood_terms.prior_term` is not in it: it has nothing to learn.)

    Args:
      x0: data `[B, ...]`, images on the 256 levels of [-1, 1].
      t: times `[B]`, `(k + 1) / T` (`time_sampling.uniform_steps`).
      eps: standard normal noise, the shape of `x0`.
      denoise: with `log_var`, if the variance is a learned one.
      schedule: gives alpha and sigma.
      variance: of the reverse steps, see `process.reverse_log_var`.
      T: the number of steps of the chain.

    Returns:
      `{"loss": [B]}`, float32.

    >>> from jaxdiff import schedules, testing
    >>> schedule = schedules.linear(10)
    >>> denoise = testing.gaussian_denoiser(mean=1.0, std=0.0, schedule=schedule)  # knows the data
    >>> x, t = jnp.ones((1, 4)), jnp.full((1,), 0.5)
    >>> vlb(x, t, x, denoise=denoise, schedule=schedule, variance="fixed_small", T=10)["loss"].tolist()
    [0.0]

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 4-7.
    """
    x_t = q_sample(x0, t, eps, schedule=schedule)
    term = vlb_term(x0, x_t, jnp.maximum(t - 1 / T, 0), t, denoise(x_t, t), schedule=schedule, variance=variance)
    return {"loss": T * term.astype(jnp.float32)}


def hybrid(
    x0: Array,
    t: Array,
    eps: Array,
    *,
    model: Model,
    schedule: Schedule,
    kind: Kind,
    T: int,
    variance: Variance = "learned_range",
    vlb_weight: Array | float = 0.001,
    mean_loss: Callable[..., dict[str, Array]] = simple,
) -> dict[str, Array]:
    """The loss of networks that learn the variance too: `L_simple + vlb_weight L_vlb`.

    The bound sees the predicted mean with its gradient stopped: it teaches the variance alone, `simple` the mean. L_vlb
    is `vlb`, T times the sampled step's term (what code calls the rescaled loss; at T = 1000 and the default weight the
    two factors are 1, which is why code also has it without them).

    Args:
      x0: data `[B, ..., C]`, images on the 256 levels of [-1, 1].
      t: times `[B]`, `(k + 1) / T`.
      eps: standard normal noise, the shape of `x0`.
      model: `(x_t, t) -> [B, ..., 2 C]`: the prediction, then `Prediction.log_var`.
      schedule: gives alpha and sigma.
      kind: what the first half is.
      T: the number of steps of the chain.
      variance: "learned_range" or "learned".
      vlb_weight: the paper's lambda.
      mean_loss: L_simple, or a variation such as `partial(simple, weight=weighting.min_snr)`.

    Returns:
      `{"loss", "simple", "vlb"}`, each `[B]`, float32; `vlb` in bits/dim.

    >>> from jaxdiff import schedules
    >>> x0, t = jnp.zeros((2, 4, 1)), jnp.full((2,), 0.5)
    >>> def model(x, t):  # of two channels
    ...     return jnp.zeros((2, 4, 2))
    >>> terms = hybrid(x0, t, x0, model=model, schedule=schedules.linear(), kind="eps", T=1000)
    >>> sorted(terms), terms["simple"].tolist()
    (['loss', 'simple', 'vlb'], [0.0, 0.0])

    Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 16.
    """
    require(
        variance.startswith("learned"),
        f"hybrid: variance {variance!r} learns nothing; expected learned_range or learned",
    )
    y, log_var = jnp.split(model(q_sample(x0, t, eps, schedule=schedule), t), 2, axis=-1)
    mse = mean_loss(x0, t, eps, model=lambda x_t, t: y, schedule=schedule, kind=kind)["loss"]

    def denoise(x_t: Array, t: Array) -> Prediction:
        fixed = jax.lax.stop_gradient(y)
        return to_prediction(x_t, fixed, t, kind=kind, schedule=schedule)._replace(log_var=log_var)

    bound = vlb(x0, t, eps, denoise=denoise, schedule=schedule, variance=variance, T=T)["loss"]
    return {"loss": mse + vlb_weight * bound, "simple": mse, "vlb": bound}


def uncertainty(
    terms: dict[str, Array], t: Array, *, log_var: Callable[[Array], Array], schedule: Schedule
) -> dict[str, Array]:
    """Weight the loss by how uncertain it is at its noise level: `loss / exp(u) + u`, `u = log_var(log_snr(t))`.

    Trained together with the model, u becomes the logarithm of the expected loss: all noise levels count alike.

    Args:
      terms: of a loss, such as `simple(..., weight=weighting.edm)`.
      t: the times of its examples, `[B]`.
      log_var: `log_snr [B] -> u [B]`, a small network with its parameters bound; EDM's c_noise is -log_snr / 8.
      schedule: gives alpha and sigma.

    Returns:
      the terms with another "loss", and the given one as "unweighted": that is what to watch.

    >>> from jaxdiff.schedules import Flow
    >>> terms = {"loss": jnp.full((1,), 3.0)}
    >>> terms = uncertainty(terms, jnp.full((1,), 0.5), log_var=lambda log_snr: log_snr, schedule=Flow())
    >>> terms["loss"].tolist(), terms["unweighted"].tolist()
    ([3.0], [3.0])

    Source: Karras et al. 2024, EDM2 (arXiv 2312.02696), section 2 and appendix B.
    """
    u = log_var(2 * half_log_snr(t, schedule=schedule))
    return {**terms, "loss": terms["loss"] * jnp.exp(-u) + u, "unweighted": terms["loss"]}


SHARE = ":share"


def by_time(terms: dict[str, Array], t: Array, *, buckets: int = 4) -> dict[str, Array]:
    """The loss by where in time it was measured: `buckets` equal parts of [0, 1], as further terms.

    Bucket (a, b] has the terms "loss/t<a>-<b>", which is `loss 1[a < t <= b]`, and "loss/t<a>-<b>:share", `1[a < t <=
    b]`; t = 0 is in the first. They are per example like all others: take their means, over batches, devices and steps,
    and then their quotients (`over_shares`), which are the mean loss of the examples in the bucket.

    Args:
      terms: of a loss, with "loss" `[B]`.
      t: the times of its examples, `[B]`.
      buckets: how many.

    Raises:
      InputError: fewer than one bucket.

    >>> terms = by_time({"loss": jnp.array([3.0, 5.0, 1.0])}, jnp.array([0.2, 0.5, 1.0]), buckets=2)
    >>> terms["loss/t0.00-0.50"].tolist(), terms["loss/t0.00-0.50:share"].tolist()
    ([3.0, 5.0, 0.0], [1.0, 1.0, 0.0])
    >>> over_shares({name: float(term.mean()) for name, term in terms.items()})
    {'loss': 3.0, 'loss/t0.00-0.50': 4.0, 'loss/t0.50-1.00': 1.0}
    """
    require(buckets >= 1, f"by_time: expected at least one bucket, got {buckets}")
    place = jnp.clip(jnp.ceil(t * buckets) - 1, 0, buckets - 1)
    digits = max(2, len(str(buckets - 1)))
    found = dict(terms)
    for k in range(buckets):
        name = f"loss/t{k / buckets:.{digits}f}-{(k + 1) / buckets:.{digits}f}"
        found[name] = jnp.where(place == k, terms["loss"], 0)
        found[name + SHARE] = (place == k).astype(terms["loss"].dtype)
    return found


def over_shares(means: dict[str, float]) -> dict[str, float]:
    """Means of terms of which some were of a part of the examples: NAME / NAME:share, where there is such a share.

    What no example was part of is left out, and so are the shares.

    >>> over_shares({"loss": 2.0, "loss/a": 0.5, "loss/a:share": 0.25, "loss/b": 0.0, "loss/b:share": 0.0})
    {'loss': 2.0, 'loss/a': 2.0}
    """
    found = {}
    for name, value in means.items():
        share = means.get(name + SHARE, 1.0)
        if not name.endswith(SHARE) and share > 0:
            found[name] = value / share
    return found

"""Guidance from several predictions of the same x_t: one is extrapolated away from another.

Where it needs a conditional and an unconditional prediction, both come from one call of a denoiser of two halves.
Linear combinations whose weights sum to 1 keep `x_t = alpha x0 + sigma eps`, so they are taken of x0 and eps alike.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.guidance.base import Scale, scale_at, value_at
from jaxdiff.parameterization import Kind, from_prediction, to_prediction
from jaxdiff.schedules import as_float, expand, safe_sqrt
from jaxdiff.typing import Array, Denoiser, InputError, Prediction, Schedule

_ADVICE = (
    "guidance calls the denoiser with a batch of 2 B, conditional on the first half and unconditional on the second: "
    "bind the network to labels concatenate([labels, null]), where null is the label it was trained with in place of "
    "hidden ones (a model without a null label must first be trained with label dropout)"
)


def classifier_free(denoise: Denoiser, *, scale: Scale) -> Denoiser:
    """Classifier-free guidance from one batched call of two halves:

        y = y_uncond + scale (y_cond - y_uncond)        for x0 and eps alike

    Scale 0 is unconditional, 1 conditional, above 1 guided. (The paper's w is scale - 1.)

    Args:
      denoise: a denoiser of a batch of 2 B: conditional on the first half, unconditional on the second. Bind the
        network to labels `concatenate([labels, null])` to get it.
      scale: a number, one per example `[B]`, or a function of time (`interval`); a traced value, so that another
        scale does not recompile.

    Returns:
      a denoiser of a batch of B; `log_var` is the conditional one.

    Raises:
      InputError: the denoiser returned another batch than 2 B.

    >>> both = lambda x, t: Prediction(*(2 * [jnp.concatenate([jnp.ones((1, 1)), jnp.zeros((1, 1))])]))
    >>> float(classifier_free(both, scale=1.5)(jnp.zeros((1, 1)), jnp.float32(0.5)).x0[0, 0])
    1.5

    Source: Ho & Salimans 2022 (arXiv 2207.12598), eq. 6.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        conditional, unconditional = two_halves(denoise, x_t, t)
        return _extrapolate(conditional, unconditional, scale_at(scale, t, x_t))

    return guided


def rescaled(
    denoise: Denoiser, *, scale: Scale, schedule: Schedule, phi: Array | float = 0.7, kind: Kind = "v"
) -> Denoiser:
    """Classifier-free guidance whose output gets back, by a share phi, the contrast of the conditional one:

        y' = (phi std(y_cond) / std(y) + 1 - phi) y,        y = y_uncond + scale (y_cond - y_uncond)

    with std over each example; it prevents the over-exposure of large scales.

    Args:
      denoise: a denoiser of two halves, as for `classifier_free`.
      scale: as for `classifier_free`.
      schedule: gives alpha and sigma.
      phi: in [0, 1]; 0 is `classifier_free`; a number or `[B]`.
      kind: which prediction is rescaled, a key of `parameterization.KINDS` or a row. The paper's networks predict v,
        which is finite at both ends of every schedule.

    >>> from jaxdiff.schedules import Flow
    >>> both = lambda x, t: Prediction(x, x)
    >>> guided = rescaled(both, scale=3.0, schedule=Flow())(jnp.array([[1.0, -1.0]]), jnp.float32(0.5))
    >>> guided.x0.tolist()  # the halves agree
    [[1.0, -1.0]]

    Source: Lin et al. 2023 (arXiv 2305.08891), section 3.4.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        conditional, unconditional = two_halves(denoise, x_t, t)
        mixed = _extrapolate(conditional, unconditional, scale_at(scale, t, x_t))
        y_cond, y = (from_prediction(p, t, kind=kind, schedule=schedule) for p in (conditional, mixed))
        wanted, found = _deviation(y_cond), _deviation(y)
        ratio = jnp.where(found > 0, wanted / jnp.where(found > 0, found, 1), 1)
        share = scale_at(phi, t, ratio)
        y = (share * ratio + 1 - share).astype(y.dtype) * y
        return to_prediction(x_t, y, t, kind=kind, schedule=schedule)._replace(log_var=conditional.log_var)

    return guided


def cfg_plus_plus(denoise: Denoiser, *, scale: Scale) -> Denoiser:
    """CFG++: guided data, but the unconditional noise to go back with:

        x0 = x0_uncond + scale (x0_cond - x0_uncond),        eps = eps_uncond

    The two halves do *not* add up to x_t, on purpose. It means something only to a step that reads both of them and
    nothing else, `alpha_s x0 + sigma_s eps`: `samplers.DDIM` with eta = 0. A step from x0 and x_t alone (DDPM, most
    multistep solvers) sees plain classifier-free guidance of this scale.

    Args:
      denoise: a denoiser of two halves, as for `classifier_free`.
      scale: the paper's lambda, in [0, 1]: from unconditional sampling to full strength.

    >>> both = lambda x, t: Prediction(*(2 * [jnp.concatenate([jnp.ones((1, 1)), jnp.zeros((1, 1))])]))
    >>> p = cfg_plus_plus(both, scale=0.5)(jnp.zeros((1, 1)), jnp.float32(0.5))
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (0.5, 0.0)

    Source: Chung et al. 2024 (arXiv 2406.08070), Algorithm 2.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        conditional, unconditional = two_halves(denoise, x_t, t)
        return _extrapolate(conditional, unconditional, scale_at(scale, t, x_t))._replace(eps=unconditional.eps)

    return guided


def adaptive_projected(
    denoise: Denoiser, *, scale: Scale, eta: Array | float = 0.0, r: Array | float = float("inf")
) -> Denoiser:
    """Adaptive projected guidance without momentum: of the update `d = x0_cond - x0_uncond`, shortened to length r,
    the part parallel to `x0_cond`, which saturates colours, counts only eta times,

        x0 = x0_cond + (scale - 1) min(1, r / |d|) (d_orthogonal + eta d_parallel)

    and eps follows. eta = 1 and r = inf is `classifier_free`. Momentum needs a memory: see `APGMomentum`.

    Args:
      denoise: a denoiser of two halves, as for `classifier_free`.
      scale: as for `classifier_free`.
      eta: the weight of the parallel part, usually in [0, 1]; a number or `[B]`.
      r: the largest Euclidean norm of an example's d, positive; a number or `[B]`.

    >>> halves = lambda x, t: Prediction(jnp.array([[2.0, 0.0], [0.0, -1.0]]), x)
    >>> adaptive_projected(halves, scale=3.0)(jnp.zeros((1, 2)), jnp.float32(0.5)).x0.tolist()
    [[2.0, 2.0]]

    Source: Sadat et al. 2024 (arXiv 2410.02416), section 4.
    """

    def guided(x_t: Array, t: Array) -> Prediction:
        conditional, unconditional = two_halves(denoise, x_t, t)
        d, d_eps = conditional.x0 - unconditional.x0, conditional.eps - unconditional.eps
        return add_projected(conditional, d, d_eps, t, scale=scale, eta=eta, r=r)

    return guided


def add_projected(
    conditional: Prediction, d: Array, d_eps: Array, t: Array, *, scale: Scale, eta: Array | float, r: Array | float
) -> Prediction:
    """The update of `adaptive_projected` by d in x0 and by `d_eps = -(alpha / sigma) d` in eps.

    As the two are parallel, one linear map serves both, and nothing is divided by sigma.
    """
    x0, squares = conditional.x0, _dot(conditional.x0, conditional.x0)
    shrink = 1 / jnp.maximum(1, _norm(d) / scale_at(r, t, squares))
    less = scale_at(eta, t, squares) - 1

    def update(y: Array) -> Array:
        parallel = _dot(y, x0) / jnp.where(squares > 0, squares, 1) * as_float(x0)
        return ((scale_at(scale, t, squares) - 1) * shrink * (as_float(y) + less * parallel)).astype(y.dtype)

    return Prediction(x0 + update(d), conditional.eps + update(d_eps), conditional.log_var)


def paired(conditional: Denoiser, unconditional: Denoiser) -> Denoiser:
    """A denoiser of two halves from two denoisers, for the guidance above: two networks, or one bound to two prompts.

    `log_var` is that of `conditional`, in both halves.

    >>> half = lambda value: lambda x, t: Prediction(jnp.full_like(x, value), x)
    >>> paired(half(1.0), half(2.0))(jnp.zeros((2, 1)), jnp.float32(0.5)).x0.tolist()
    [[1.0], [2.0]]
    """

    def both(x_t: Array, t: Array) -> Prediction:
        x, times = jnp.split(x_t, 2), [t, t] if jnp.ndim(t) == 0 else jnp.split(t, 2)
        first, second = conditional(x[0], times[0]), unconditional(x[1], times[1])
        second = second._replace(log_var=first.log_var)
        joined: Prediction = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
        return joined

    return both


def auto(good: Denoiser, worse: Denoiser, *, scale: Scale) -> Denoiser:
    """Autoguidance: away from a worse version of the model (smaller, or trained less), of the same conditioning:

        y = y_worse + scale (y_good - y_worse)        for x0 and eps alike

    The other ways to guide work too: `rescaled(paired(good, worse), ...)`.

    Args:
      good: the denoiser to improve.
      worse: one with the same faults, but more of them.
      scale: 1 is `good`; above 1 guided. As for `classifier_free`.

    >>> say = lambda value: lambda x, t: Prediction(jnp.full_like(x, value), x)
    >>> float(auto(say(1.0), say(0.5), scale=2.0)(jnp.zeros((1, 1)), jnp.float32(0.5)).x0[0, 0])
    1.5

    Source: Karras et al. 2024 (arXiv 2406.02507), section 3.
    """
    return classifier_free(paired(good, worse), scale=scale)


def product(denoisers: Sequence[Denoiser], *, weights: Sequence[Scale] | Array, schedule: Schedule) -> Denoiser:
    """A product of experts, `p(x_t) ~ prod_i p_i(x_t)^w_i`: the scores are added,

        eps = sum_i w_i eps_i,        x0 = sum_i w_i x0_i + (1 - sum_i w_i) x_t / alpha

    Conditions that are independent given x share the prior p_0, which must be counted once,
    `p_0 prod_i (p_i / p_0)^w_i`: compose `[uncond, a, b]` with weights `[1 - w_a - w_b, w_a, w_b]`, that is,
    `eps_uncond + sum_i w_i (eps_i - eps_uncond)`. Then the weights sum to 1, and x_t / alpha drops out.

    At every t > 0 this is the product of the noised experts, not the noised product. The two meet at t = 0, so
    Langevin steps at the last t are exact, and samplers that only follow the path are approximate: badly so where the
    weights sum to more than 1. With two experts N(0, s^2) of weight 1, deterministic samplers from sigma / alpha = S
    shrink x / alpha by s^2 / (s^2 + S^2), to far less than the product's standard deviation s / sqrt(2); DDPM and the
    reverse SDE make about s / sqrt(3).

    Args:
      denoisers: the experts.
      weights: one per expert, each a number, `[B]`, or a function of time; negative ones divide.
      schedule: gives alpha and sigma.

    Returns:
      a denoiser; `log_var` is that of the first expert. At alpha = 0, where weights that do not sum to 1 leave x0
      undefined, it is `sum_i w_i x0_i`.

    Raises:
      InputError: no denoisers, or not one weight for each.

    >>> from jaxdiff.schedules import Flow
    >>> half = lambda x, t: Prediction(x / 2, 3 * x / 2)
    >>> p = product([half, half], weights=[1.0, 1.0], schedule=Flow())(jnp.ones((1, 1)), jnp.float32(0.5))
    >>> float(p.x0[0, 0]), float(p.eps[0, 0])
    (-1.0, 3.0)

    Source: Liu et al. 2022 (arXiv 2206.01714), section 3; on the samplers Du et al. 2023 (arXiv 2302.11552).
    """
    if not denoisers or len(denoisers) != len(weights):
        raise InputError(f"product: expected one weight per denoiser, got {len(denoisers)} and {len(weights)} weights")

    def composed(x_t: Array, t: Array) -> Prediction:
        predictions = [denoise(x_t, t) for denoise in denoisers]
        w = [value_at(weight, t) for weight in weights]
        x0 = sum(expand(v, x_t) * p.x0 for v, p in zip(w, predictions, strict=True))
        eps = sum(expand(v, x_t) * p.eps for v, p in zip(w, predictions, strict=True))
        alpha = schedule.alpha(t)
        rest = jnp.where(alpha > 0, (1 - sum(w)) / jnp.where(alpha > 0, alpha, 1), 0)
        return Prediction(x0 + expand(rest, x_t) * x_t, jnp.asarray(eps), predictions[0].log_var)

    return composed


def two_halves(denoise: Denoiser, x_t: Array, t: Array) -> tuple[Prediction, Prediction]:
    """The conditional and the unconditional prediction, from one call of a doubled batch."""
    twice = t if jnp.ndim(t) == 0 else jnp.concatenate([t, t])
    try:
        both = denoise(jnp.concatenate([x_t, x_t]), twice)
    except (TypeError, ValueError) as error:  # such as labels [B] that meet 2 B pictures inside the network
        because = f"If that is for the batch of {2 * x_t.shape[0]}: {_ADVICE}"
        raise InputError(f"{str(error).rstrip('.')}. {because}") from error
    if both.x0.shape[0] != 2 * x_t.shape[0]:
        raise InputError(f"the denoiser returned {both.x0.shape[0]} for a batch of {2 * x_t.shape[0]}; {_ADVICE}")
    halves = [jax.tree.map(lambda y, i=i: jnp.split(y, 2)[i], both) for i in range(2)]
    return halves[0], halves[1]


def _extrapolate(conditional: Prediction, unconditional: Prediction, w: Array) -> Prediction:
    x0 = unconditional.x0 + w * (conditional.x0 - unconditional.x0)
    eps = unconditional.eps + w * (conditional.eps - unconditional.eps)
    return Prediction(x0, eps, conditional.log_var)


def _dot(a: Array, b: Array) -> Array:
    """The inner product of each example, [B, 1, ...], in float32 or better."""
    return jnp.sum(as_float(a) * as_float(b), axis=tuple(range(1, a.ndim)), keepdims=True)


def _norm(a: Array) -> Array:
    return safe_sqrt(_dot(a, a))


def _deviation(a: Array) -> Array:
    """The standard deviation of each example, times the root of its size."""
    return _norm(as_float(a) - jnp.mean(as_float(a), axis=tuple(range(1, a.ndim)), keepdims=True))

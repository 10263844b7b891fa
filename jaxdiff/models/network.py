"""What all networks have."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.linear import default_embed_init

from jaxdiff.typing import Array, InputError


class Network(nn.Module, kw_only=True):
    """A network `(x [B, ..., C], c_noise [B], cond) -> [B, ..., out_channels]`, float32 out (float64 of that `dtype`).

    Attributes:
      num_classes: None, or the number of labels, which are added to the embedding of c_noise.
      out_channels: None for those of x; twice as many for a learned variance.
      dropout: rate, on where a `key` is given.
      dtype: of the computation; parameters, statistics of norms and the output are float32 whatever it is (but for
        float64, which is for comparisons: then all but the parameters is).
      remat: what of its blocks the backward pass computes again; see `layers.rematerialised`.
      null_label: label `num_classes` is the null label of unconditional prediction; else there is none.
    """

    num_classes: int | None = None
    out_channels: int | None = None
    dropout: float = 0.0
    dtype: Any = jnp.float32
    remat: str = "none"
    null_label: bool = True

    def conditions(self, x: Array, c_noise: Array, cond: Mapping[str, Array] | None) -> tuple[Array, Array | None]:
        """x with a conditioning image as further channels, and the labels, of `cond`.

        Raises:
          InputError: labels for a network without classes, none for one with, or others than it has; anything in `cond`
            but `label` and `image`; anything that is not one for each example.
        """
        name, batch = type(self).__name__, x.shape[:1]
        if x.ndim < 3:
            raise InputError(f"{name}: x is [B, ..., C], a batch of sequences, images or videos; got {x.shape}")
        if jnp.shape(c_noise) != batch:
            raise InputError(f"{name}: c_noise is [B], one for each of x {x.shape}; got {jnp.shape(c_noise)}")
        if not isinstance(cond, Mapping | None) or set(cond or {}) - {"label", "image"}:
            found = sorted(cond) if isinstance(cond, Mapping) else type(cond).__name__
            raise InputError(f"{name}: cond is a dictionary of 'label' and 'image'; got {found}")
        cond = cond or {}
        if (self.num_classes is not None) != ("label" in cond):
            expected = "labels" if self.num_classes is not None else "no labels (num_classes is None)"
            raise InputError(f"{name}: this network takes {expected}; cond has {sorted(cond) or 'nothing'}")
        if "image" in cond:
            image = jnp.asarray(cond["image"])
            if image.shape[:-1] != x.shape[:-1]:
                raise InputError(f"{name}: cond['image'] {image.shape} is not of the size of x {x.shape}")
            x = jnp.concatenate([x, image.astype(x.dtype)], axis=-1)
        return x, self._checked(cond["label"], batch) if "label" in cond else None

    def with_label(
        self, emb: Array, labels: Array | None, *, init: nn.initializers.Initializer = default_embed_init
    ) -> Array:
        """The embedding `[B, width]` plus a row of "label" for each label, if there are any. With `null_label` there is
        a row more, the last."""
        if labels is None or self.num_classes is None:
            return emb
        rows = nn.Embed(
            self.num_classes + self.null_label, emb.shape[-1], dtype=emb.dtype, embedding_init=init, name="label"
        )
        return jnp.asarray(emb + rows(labels))

    def _checked(self, labels: Array, batch: tuple[int, ...]) -> Array:
        # Known ones can be looked at in numpy, within a trace too.
        known = None if isinstance(labels, jax.core.Tracer) else np.asarray(labels)
        labels = jnp.asarray(labels)
        last = (self.num_classes or 0) - (not self.null_label)
        expected = f"{type(self).__name__}: labels are integers [B] from 0 to {last}"
        if labels.shape != batch or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise InputError(f"{expected}, one for each of {batch[0]} examples; got {labels.dtype} {labels.shape}")
        if known is not None and ((known < 0) | (known > last)).any():
            raise InputError(f"{expected}; got {known.tolist()}")
        return labels

"""Linear decoding of behaviour from latents, cross-validated over blocks of time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from geodistill.errors import GeodistillError

PENALTIES = (1.0, 1e2, 1e3, 1e4)
FOLDS = 5
INNER_FOLDS = 3


class Decoded(NamedTuple):
    """What was decoded.

    r2: (k,), 1 at most; below 0 if the mean is the better prediction
    predicted: (n, k), NaN in bins that were left out
    """

    r2: NDArray[np.float64]
    predicted: NDArray[np.float64]


def decode(latents: NDArray, behaviour: NDArray, blocks: NDArray) -> Decoded:
    """Predict behaviour from latents by ridge regression, and return R² of each dimension with the predictions.

    R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)², where ŷ of a bin comes from a regression on other blocks alone: bins that follow
    one another are alike, and bins drawn at random would tell on each other. The penalty of a regression is the best of
    `PENALTIES`, by cross-validation over the blocks that it is fitted on.

    Args:
        latents: (n, d), of each bin.
        behaviour: (n, k); bins where it is not finite are left out.
        blocks: (n,) the block of time of each bin.

    Raises GeodistillError for fewer than three blocks, and for a constant dimension.

    Example: `decode(latents, speed[:, None], bins // 500).r2`
    """
    there = np.isfinite(behaviour).all(axis=1)
    latents, behaviour, blocks = latents[there], behaviour[there], blocks[there]
    groups = len(np.unique(blocks))
    if groups < 3:
        raise GeodistillError(
            f"There are {groups} blocks of time to decode from, and cross-validation needs three.",
            "Lower data.sessions.block_seconds, or raise data.test_share.",
        )
    total = np.square(behaviour - behaviour.mean(axis=0)).sum(axis=0)
    if not (total > 0).all():
        raise GeodistillError("A dimension of the behaviour is constant in this split.", "Leave this column out.")
    scale = latents.std(axis=0)
    latents = (latents - latents.mean(axis=0)) / np.where(scale > 0, scale, 1)
    predicted = np.empty_like(behaviour, dtype=np.float64)
    folds = GroupKFold(min(FOLDS, groups))
    for fitted, held_out in folds.split(latents, groups=blocks):
        inner = GroupKFold(min(INNER_FOLDS, len(np.unique(blocks[fitted]))))
        search = GridSearchCV(Ridge(), {"alpha": PENALTIES}, cv=inner)
        search.fit(latents[fitted], behaviour[fitted], groups=blocks[fitted])
        predicted[held_out] = search.predict(latents[held_out]).reshape(len(held_out), -1)
    every = np.full((len(there), behaviour.shape[1]), np.nan)
    every[there] = predicted
    return Decoded(1 - np.square(behaviour - predicted).sum(axis=0) / total, every)

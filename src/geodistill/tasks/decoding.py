"""Linear decoding of behaviour from latents, cross-validated over blocks of time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold

from geodistill.errors import GeodistillError

PENALTIES = (1.0, 1e2, 1e3, 1e4)
FOLDS = 5
INNER_FOLDS = 3


def decode(latents: NDArray, behaviour: NDArray, blocks: NDArray) -> NDArray[np.float64]:
    """Return R² of each dimension of behaviour, predicted from latents by ridge regression.

    R² = 1 − Σ (y − ŷ)² / Σ (y − ȳ)², where ŷ of a bin comes from a regression on other blocks alone: bins that follow
    one another are alike, and bins drawn at random would tell on each other. The penalty of a regression is the best of
    `PENALTIES`, by cross-validation over the blocks that it is fitted on.

    Args:
        latents: (n, d), of each bin.
        behaviour: (n, k); bins where it is not finite are left out.
        blocks: (n,) the block of time of each bin.

    Returns k values, 1 at most; below 0 where the mean is the better prediction.
    Raises GeodistillError for fewer than three blocks, and for a constant dimension.

    Example: `decode(latents, speed[:, None], bins // 500)`
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
    return 1 - np.square(behaviour - predicted).sum(axis=0) / total

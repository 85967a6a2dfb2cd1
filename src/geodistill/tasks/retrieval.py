"""How well a student's embeddings stand for its teacher's: retrieval of the paired row, and similarity structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
RANKED_TOGETHER = 1024  # rows whose similarities to all others are in memory at once
MOST_COMPARED = 1000  # rows whose pairwise similarities are compared: half a million pairs


@dataclass(frozen=True)
class Alignment:
    """The rotation, with the two means, that carries a student's space onto its teacher's.

    An objective such as Procrustes, Gram or CKA leaves the student's space free up to a rotation, so rows of both sides
    are compared after the best one, whatever the objective was.
    """

    student_mean: Array
    teacher_mean: Array
    rotation: Array

    @classmethod
    def fit(cls, student: Array, teacher: Array) -> Alignment:
        """Fit Q = argmin ‖S Q − T‖_F over Q (d_s, d_t) with orthonormal rows or columns, S and T centred.

        With SᵀT = U Σ Vᵀ it is Q = U Vᵀ (Schönemann 1966). If the widths differ, it is the rotation of the narrower
        space into the wider one.

        Args:
            student: rows (n, d_s), which should not be those that are measured on.
            teacher: rows (n, d_t) of the same inputs.
        """
        means = student.mean(axis=0), teacher.mean(axis=0)
        left, _, right = np.linalg.svd((student - means[0]).T @ (teacher - means[1]), full_matrices=False)
        return cls(*means, left @ right)

    def apply(self, student: Array, teacher: Array) -> tuple[Array, Array]:
        """Return centred rows of both sides in the teacher's space, each of unit length."""
        return _unit((student - self.student_mean) @ self.rotation), _unit(teacher - self.teacher_mean)


def ranks(student: Array, teacher: Array) -> NDArray[np.int64]:
    """Return for each student row (n, d) the rank of its own teacher row among all n, from 1, by cosine similarity.

    Rows are of unit length. Equal similarities rank before the own row, so that a student whose rows are all alike
    retrieves nothing.
    """
    found = [(each >= each[own][:, None]).sum(axis=1) for each, own in _similarities(student, teacher)]
    return np.concatenate(found).astype(np.int64)


def nearest(student: Array, teacher: Array) -> NDArray[np.int64]:
    """Return for each student row (n, d) the place of the teacher row that is most similar by cosine.

    Rows are of unit length. Of equal similarities another row than the own one is nearest, as in `ranks`.
    """
    found = []
    for similarity, own in _similarities(student, teacher):
        paired = similarity[own]
        similarity[own] = -np.inf
        found.append(np.where(paired > similarity.max(axis=1), own[1], similarity.argmax(axis=1)))
    return np.concatenate(found).astype(np.int64)


def _similarities(student: Array, teacher: Array) -> Iterator[tuple[Array, tuple[Any, Any]]]:
    """Yield the cosines of some student rows with all teacher rows, and where in them the own ones are."""
    for start in range(0, len(student), RANKED_TOGETHER):
        similarity = student[start : start + RANKED_TOGETHER] @ teacher.T
        places = np.arange(len(similarity))
        yield similarity, (places, start + places)


def similarity_structure(student: Array, teacher: Array) -> float:
    """Return Spearman's ρ between the cosine similarities of all pairs of student rows and of teacher rows.

    Args: rows (n, d_s) and (n, d_t), centred and of unit length; of more than `MOST_COMPARED` some, evenly spread.

    Returns a value in [−1, 1]; 0 if all similarities of a side are equal. A rotation of either side changes nothing.
    """
    places = np.unique(np.linspace(0, len(student) - 1, min(len(student), MOST_COMPARED)).astype(int))
    above = np.triu_indices(len(places), k=1)
    pairs = [(rows[places] @ rows[places].T)[above] for rows in (student, teacher)]
    if any(np.ptp(each) == 0 for each in pairs if each.size) or not pairs[0].size:
        return 0.0
    return float(stats.spearmanr(*pairs).statistic)


def _unit(rows: Array) -> Array:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length == 0, 1, length)

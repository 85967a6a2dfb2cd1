"""Which layers a feature term compares if it says `layers: auto`: pairs that the features of both models suggest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from geodistill.distillation.feature_terms import Probe
from geodistill.distillation.layer_geometry import Batch, all_layers, run_layers
from geodistill.errors import GeodistillError
from geodistill.features import KINDS
from geodistill.features.layers import AUTO
from geodistill.geometry.chance import chance_of_spectra
from geodistill.geometry.layer_map import describe_pairs, left_to_go, monotone_map
from geodistill.geometry.layer_moments import LayerMoments
from geodistill.geometry.reference import floor_of_spectrum
from geodistill.losses.terms import resolve_term
from geodistill.recipe import FeatureTerm, Term

MOST_ROWS = 8192  # many times the width of small models; more would cost time in proportion


class LayerMap(NamedTuple):
    """A map of layers: [student, teacher] pairs, and the reason of each."""

    pairs: list[tuple[int, int]]
    reasons: list[str]


@dataclass(frozen=True)
class ChosenLayers:
    """The pairs that were chosen for one feature term.

    term: its dotted path in the recipe, such as objective.features.0
    pairs: [student, teacher] layers; the other way round in an objective of the teacher
    reasons: of each pair, one sentence
    """

    term: str
    pairs: list[list[int]]
    reasons: list[str]

    @property
    def note(self) -> str:
        """The choice in one sentence."""
        pairs = ", ".join(f"{first} ↔ {second}" for first, second in self.pairs)
        return f"The layers of '{self.term}' were chosen before the training: {pairs}."


def advise_layers(left: Sequence[Sequence[float]], layers: tuple[Sequence[int], Sequence[int]]) -> LayerMap:
    """Pair each student layer with a teacher layer, in order, so that D_P² is nearest to its floor over all pairs.

    `left` (L_s, L_t) is the share of the way from chance to the floor that D_P² still has to go (`left_to_go`). Layer
    0, the embeddings or the stem, is left out on both sides.
    """
    own, others = ([place for place, layer in enumerate(side) if layer != 0] for side in layers)
    inner = [[left[i][j] for j in others] for i in own]
    chosen = monotone_map(inner)
    names = [layers[0][i] for i in own], [layers[1][j] for j in others]
    pairs = [(names[0][row], names[1][column]) for row, column in enumerate(chosen)]
    reasons = describe_pairs((list(map(str, names[0])), list(map(str, names[1]))), inner, chosen)
    return LayerMap(pairs, reasons)


def steps_left(moments: LayerMoments) -> list[list[float]]:
    """Return for each pair of layers the share of the way from chance to the floor that D_P² still has to go."""
    own, others = moments.spectra()
    widths, _ = moments.widths
    return [
        [
            left_to_go(
                moments.procrustes(i, j),
                floor_of_spectrum(theirs, widths[i]).procrustes,
                chance_of_spectra(ours, theirs, moments.rows, draws=1).procrustes,
            )
            for j, theirs in enumerate(others)
        ]
        for i, ours in enumerate(own)
    ]


def choose_pairs(
    term: FeatureTerm,
    student: nn.Module,
    teacher: nn.Module,
    batches: Iterable[Batch],
    *,
    probes: tuple[Probe, Probe] = (None, None),
    swapped: bool = False,
) -> LayerMap:
    """Choose the pairs of one feature term; see `choose_layers`.

    Args:
        term: resolved, so that it names its rows.
        student, teacher: on one device.
        batches: at most `MOST_ROWS` rows are read, and the batch that reaches them.
        probes: a tiny batch of each side, for a model of which none can be made up.
        swapped: the term trains the teacher, so the layers of the teacher come first in each pair.
    """
    numbers = [layers[1:] for layers in all_layers(student, teacher, probes)]
    moments = LayerMoments()
    for batch in run_layers(student, teacher, batches, (numbers[0], numbers[1])):
        own, others = batch.rows(measured_rows(term), term.special_tokens)
        moments.add(*((others, own) if swapped else (own, others)))
        if moments.rows >= MOST_ROWS:
            break
    if moments.rows < 2:
        raise GeodistillError(
            f"There are {moments.rows} rows, and 'layers: auto' needs two.", "Give more data, or name the pairs."
        )
    first, second = reversed(numbers) if swapped else numbers
    return advise_layers(steps_left(moments), (first, second))


def measured_rows(term: FeatureTerm) -> str:
    """Return the kind of rows that the layers of a term are compared by: the term's, or for maps, which differ in size
    from layer to layer, their means."""
    return "mean" if KINDS[str(term.rows)].of_maps else str(term.rows)


def choose_layers(
    terms: Sequence[Term], student: nn.Module, teacher: nn.Module, batches: Sequence[Batch]
) -> list[Term]:
    """Replace `layers="auto"` of feature terms by pairs of layers that the features of both models suggest.

    Each student layer gets a teacher layer, in order, such that D_P² is as near to its floor as possible: the sum over
    the pairs of the share of the way from chance to the floor that is left is the least. The models are measured as
    they are now, so the layers of a student with random weights say little.

    Args:
        terms: of an objective.
        student: the student before it is trained.
        teacher: the teacher, on the same device.
        batches: training batches that both models read, a list; what the teacher alone reads carries its prefix. About
            8,192 rows of them are read.

    Returns:
        The same terms, with pairs of layer numbers if `layers` was "auto".

    Raises:
        GeodistillError: a model whose layers have no numbers, or fewer than two rows.

    Example:
        terms = choose_layers([FeatureTerm(loss="procrustes", layers="auto")], student, teacher, batches)
    """
    chosen: list[Term] = []
    for term in terms:
        if isinstance(term, FeatureTerm) and term.layers == AUTO:
            pairs = choose_pairs(resolve_term(term), student, teacher, batches).pairs
            term = term.model_copy(update={"layers": pairs})
        chosen.append(term)
    return chosen

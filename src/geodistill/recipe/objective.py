"""The sections `objective`: the terms of a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from geodistill.applies import Rule, Section, only_with
from geodistill.errors import GeodistillError

LayerPair = tuple[int, int]
ModulePair = tuple[str, str]


class LabelTerm(Section):
    """The loss of the labels, as the student's head computes it.

    Attributes:
        weight: of the term in the sum.

    Example:
        LabelTerm(weight=0.5)
    """

    weight: float = Field(1.0, ge=0)


class LogitTerm(Section):
    """T² · divergence(teacher, student) at temperature T (Hinton et al. 2015); mean squared error for a regression.

    Attributes:
        weight: of the term in the sum.
        temperature: T.
        divergence: forward_kl, reverse_kl, jensen_shannon, skewed_forward_kl, skewed_reverse_kl or total_variation.
        beta: of jensen_shannon.
        skew: of the skewed divergences.

    Raises:
        GeodistillError: an option that would change nothing, when the term is bound to models or a recipe is read.

    Example:
        LogitTerm(weight=0.5, temperature=2.0)
    """

    weight: float = Field(1.0, ge=0)
    temperature: float = Field(2.0, gt=0)
    divergence: str = Field("forward_kl", description="a name of geodistill.losses.divergences.DIVERGENCES")
    beta: float = Field(0.5, gt=0, lt=1, description="jensen_shannon: nearer forward_kl below ½, reverse_kl above")
    skew: float = Field(0.1, ge=0, lt=1, description="skewed_*: the share of the first side in what it is compared to")


class FeatureTerm(Section):
    """One feature loss between rows of paired layers.

    Attributes:
        loss: a name of `geodistill.losses.LOSSES`, such as procrustes.
        weight: of the term in the sum.
        rows: which rows of a layer are compared; by default the kind that the loss names.
        special_tokens: let [CLS], [SEP] and similar tokens count, for the rows tokens and mean.
        layers: last, uniform, skip, or auto, which the features of both models decide before the training; or
            [student, teacher] pairs of layer numbers or of module paths.

    All other keywords are options of the loss.

    Raises:
        GeodistillError: an unknown loss, kind of rows or option, when the term is bound to models or a recipe is read.

    Example:
        FeatureTerm(loss="procrustes", weight=5.0, layers="uniform", normalize="rows")
    """

    model_config = ConfigDict(extra="allow")
    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ("special_tokens",),
            lambda term: term.rows in (None, "tokens", "mean"),
            only_with("rows: tokens or rows: mean"),
        ),
    )

    loss: str = Field(description="a name of geodistill.losses.LOSSES")
    weight: float = Field(1.0, ge=0)
    rows: str | None = Field(None, description="a kind of rows; by default the one that the loss names")
    special_tokens: bool = Field(True, description="let [CLS], [SEP] and similar tokens count for 'tokens' and 'mean'")
    layers: Literal["last", "uniform", "skip", "auto"] | list[LayerPair] | list[ModulePair] = Field(
        "last", description="a layer map, [student, teacher] layer pairs (0 embeddings, -1 last), or module path pairs"
    )

    @property
    def options(self) -> dict[str, Any]:
        """The options of the loss, as they are given."""
        return dict(self.model_extra or {})


Term: TypeAlias = LabelTerm | LogitTerm | FeatureTerm


class ObjectiveRecipe(Section):
    """loss = label + logits + Σ features, each with its weight; a term that is absent is off."""

    label: LabelTerm | None = None
    logits: LogitTerm | None = None
    features: list[FeatureTerm] = Field(default_factory=list)

    @model_validator(mode="after")
    def something(self) -> ObjectiveRecipe:
        if self.label is None and self.logits is None and not self.features:
            raise ValueError("an objective needs at least one of 'label', 'logits' and 'features'")
        return self

    @property
    def terms(self) -> list[Term]:
        """All terms in one list."""
        return [*(term for term in (self.label, self.logits) if term is not None), *self.features]

    @classmethod
    def of(cls, terms: Sequence[Term]) -> ObjectiveRecipe:
        """Return the objective that has these terms.

        Raises GeodistillError for no terms, for what is no term, and for several label or logit terms.
        """
        if not isinstance(terms, Sequence) or not terms:
            raise GeodistillError("There are no terms, so there is no loss.", EXAMPLE_TERMS)
        kinds: dict[type, list[Any]] = {LabelTerm: [], LogitTerm: [], FeatureTerm: []}
        for term in terms:
            kind = next((each for each in kinds if isinstance(term, each)), None)
            if kind is None:
                raise GeodistillError(f"{term!r} is no term of a loss.", EXAMPLE_TERMS)
            kinds[kind].append(term)
        for kind in (LabelTerm, LogitTerm):
            if len(kinds[kind]) > 1:
                raise GeodistillError(
                    f"There are {len(kinds[kind])} terms of the kind {kind.__name__}, and a loss has one at most.",
                    "Leave all but one out; feature terms alone may be several.",
                )
        label, logits = (next(iter(kinds[kind]), None) for kind in (LabelTerm, LogitTerm))
        return cls(label=label, logits=logits, features=kinds[FeatureTerm])


EXAMPLE_TERMS = "Give a list such as terms=[LabelTerm(weight=0.5), FeatureTerm(loss='procrustes')]."

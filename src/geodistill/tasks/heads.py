"""What head the data needs, and whether a trained head is of the data's problem and knows the data's labels."""

from __future__ import annotations

from typing import Any, Protocol

from transformers import PretrainedConfig

from geodistill.data.labels import Problem
from geodistill.distillation.students.head_labels import LabelMatch, match_labels, output_names, quoted
from geodistill.errors import GeodistillError
from geodistill.losses.logits import ProblemType


class Labelled(Protocol):
    """What a head has to know of examples: `Examples` of texts, or `ImageExamples`."""

    @property
    def problem(self) -> Problem: ...

    @property
    def label_names(self) -> list[str]: ...

    @property
    def width(self) -> int: ...


# What transformers calls the kind of head that a problem needs.
PROBLEM_TYPES: dict[str, ProblemType] = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
IN_WORDS: dict[str, str] = {
    "single_label_classification": "a classification with one label an example",
    "multi_label_classification": "a classification with any number of labels an example",
    "regression": "a regression",
}
REMEDY = (
    "Use data and a model of one kind, give the teacher a new head (teacher.training), or set data.problem=unlabelled "
    "if labels play no part."
)


def head_settings(examples: Labelled) -> dict[str, Any]:
    """Return the config entries of a head for these examples."""
    if examples.problem == "unlabelled":
        return {}
    settings: dict[str, Any] = {"num_labels": examples.width, "problem_type": PROBLEM_TYPES[examples.problem]}
    if names := examples.label_names:
        numbers = {name: number for number, name in enumerate(names)}
        settings.update(num_labels=len(names), id2label=dict(enumerate(names)), label2id=numbers)
    return settings


def match_head(config: PretrainedConfig, examples: Labelled, name: str | None = None) -> LabelMatch:
    """Match the labels of the data to the head that a model's config describes.

    `name` is the model's, for messages; by default where it was loaded from, or its family.

    Raises GeodistillError for a head of another problem type, and for labels that cannot be matched (`match_labels`).
    """
    if examples.problem == "unlabelled":
        return LabelMatch([])
    name = name or config.name_or_path or config.model_type
    notes = check_problem(config, examples, name)
    if not examples.label_names:
        if config.num_labels != examples.width:
            raise GeodistillError(
                f"The model '{name}' has {config.num_labels} outputs, and the labels of the data are {examples.width} "
                "numbers each.",
                REMEDY,
            )
        return LabelMatch(list(range(examples.width)), notes=notes)
    outputs = output_names(config)
    match = match_labels(outputs, examples.label_names, name)
    notes += match.notes
    if lacking := [output for number, output in enumerate(outputs) if number not in match.numbers]:
        if examples.problem == "regression":
            raise GeodistillError(f"The data lacks values of outputs of '{name}': {quoted(lacking)}.", REMEDY)
        if examples.problem == "multi_label":
            notes.append(f"The data lacks these labels of '{name}', which count as absent: {quoted(lacking)}.")
    return LabelMatch(match.numbers, match.by_place, notes)


def check_problem(config: PretrainedConfig, examples: Labelled, name: str) -> list[str]:
    """Raise GeodistillError when a head is of another problem type than the data; return what has to be told.

    A config that does not say its problem type is one of a regression if it has one output.
    """
    wanted = PROBLEM_TYPES[examples.problem]
    said = config.problem_type or ("regression" if config.num_labels == 1 else None)
    if said is not None and said != wanted:
        raise GeodistillError(
            f"The model '{name}' is for {IN_WORDS[said]} ({_reason(config)}), and the data is "
            f"{IN_WORDS[wanted]} (data.problem).",
            REMEDY,
        )
    if said is None and wanted != PROBLEM_TYPES["classification"]:
        return [f"The config of '{name}' has no problem_type; its head is taken for {IN_WORDS[wanted]}."]
    return []


def _reason(config: PretrainedConfig) -> str:
    return "problem_type in its config" if config.problem_type else "it has one output"

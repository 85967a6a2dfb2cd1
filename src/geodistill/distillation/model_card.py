"""The README.md of a student: what it was made from and how good it is, in the form that the Hugging Face hub reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from scipy.stats import binomtest
from transformers import PreTrainedModel

from geodistill.display import decimal, one_line, render
from geodistill.files import write_text
from geodistill.quantization import quantized_modules
from geodistill.recipe import MADE, Recipe

TEMPLATE = "distillation/templates/model_card.md.jinja"
KINDS = {
    "ForSequenceClassification": ("text-classification", "AutoModelForSequenceClassification"),
    "ForImageClassification": ("image-classification", "AutoModelForImageClassification"),
    "ForCausalLM": ("text-generation", "AutoModelForCausalLM"),
    "LMHeadModel": ("text-generation", "AutoModelForCausalLM"),
}
"""By what the class of a student ends in: the hub's name of its task, and the class of transformers that loads it."""
MEASURES = {"procrustes": "D_P²", "gram": "D_FG²", "cka": "CKA"}
LEVEL = 0.95


@dataclass(frozen=True)
class StudentFacts:
    """What a run knows of its student.

    recipe: of the run
    results: what results.json holds, or will hold
    """

    recipe: Recipe
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def objective(self) -> str:
        """The objective as YAML."""
        content = self.recipe.objective.model_dump(mode="json", exclude_none=True)
        return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).rstrip()

    @property
    def examples(self) -> int | None:
        """How many examples the student was scored on; None if that is not known."""
        parts = self.results["read"]["task"].get("parts") or {}
        return (parts.get(self.results["split"]) or {}).get("rows")

    @property
    def scores(self) -> list[list[str]]:
        """For each metric its name and the values of student, teacher and constant predictor."""
        constant = (self.results["constant"] or {}).get("metrics", {})
        others = self.results["teacher"]["metrics"], constant
        return [
            [
                name,
                self._with_interval(name, value),
                *(decimal(each[name], 4) if name in each else "" for each in others),
            ]
            for name, value in self.results["metrics"].items()
        ]

    @property
    def geometry(self) -> list[list[str]]:
        """For each pair of layers its name, and each measure with its floor and its chance level."""
        return [
            [
                f"{pair['student_layer']} ↔ {pair['teacher_layer']}",
                *(", ".join(decimal(pair[name][key]) for key in ("value", "floor", "chance")) for name in MEASURES),
            ]
            for pair in self.results["geometry"]
            if all(pair.get(name) for name in MEASURES)
        ]

    @property
    def limits(self) -> list[str]:
        """What was noted of the student, its teacher and the data."""
        return [one_line(note) for note in [*self.results["notes"], *self.results["teacher"]["notes"]]]

    def _with_interval(self, name: str, value: float | None) -> str:
        """The value of a metric; of accuracy with Wilson's interval, which the number of examples gives."""
        said, n = decimal(value, 4), self.examples
        if name != "accuracy" or not n or value is None or not 0 <= value <= 1:
            return said
        interval = binomtest(round(value * n), n).proportion_ci(LEVEL, method="wilson")
        return f"{said} ({interval.low:.4f} to {interval.high:.4f})"


def write_model_card(student: PreTrainedModel, folder: Path, facts: StudentFacts | None = None) -> None:
    """Write README.md of a student into its folder: front matter for the hub, and what is known of the student.

    A licence is left out, because nothing says which one the weights have.
    """
    kind = type(student).__name__.removeprefix("Quantized")
    known = next((value for ending, value in KINDS.items() if kind.endswith(ending)), None)
    # The hub has no name for the task of a model of recordings.
    of_us = type(student).__module__.startswith("geodistill.")
    tag, auto_class = known or (None if of_us else "feature-extraction", "AutoModel")
    layers = Counter(
        (
            type(module).plain.__name__,
            f"{module.weight_quantizer.bits} bits",
            "float" if module.input_quantizer is None else f"{module.input_quantizer.bits} bits",
        )
        for module in quantized_modules(student).values()
    )
    card = render(
        TEMPLATE,
        matter=Markup(yaml.safe_dump(front_matter(tag, facts, quantized=bool(layers)), sort_keys=False).rstrip()),
        facts=facts,
        objective=Markup(facts.objective) if facts else "",
        measures=list(MEASURES.values()),
        level=f"{LEVEL:.0%}",
        quantized=[(kind, number, weights, inputs) for (kind, weights, inputs), number in layers.items()],
        auto_class=auto_class,
        of_us=of_us,
    )
    # Quotes need no escape in a text, and a card is read as a text too.
    write_text(folder / "README.md", card.replace("&#39;", "'").replace("&#34;", '"'))


def front_matter(tag: str | None, facts: StudentFacts | None, *, quantized: bool) -> dict[str, Any]:
    """Return what the hub reads of a card; a key that is not known is left out."""
    known: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": tag}
    if facts is not None:
        student, teacher = facts.recipe.student.model, facts.recipe.teacher.model
        base = student or teacher  # a student without a model is made from its teacher
        known |= {"base_model": base if is_hub_name(base) else None}
        source = facts.recipe.data.source
        known |= {"datasets": [source] if is_hub_name(source) and not source.startswith("glue/") else None}
    known["tags"] = ["geodistill", "knowledge-distillation", *(["quantization"] if quantized else [])]
    return {key: value for key, value in known.items() if value is not None}


def is_hub_name(name: str) -> bool:
    """Whether a name can only be one of the hub: OWNER/NAME, and neither a path of this machine nor one of ours."""
    ours = name.startswith(("bundled:", *MADE))
    return not ours and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).exists()

"""What a comparison will run: variants × sweep points × seeds, each a complete recipe with a folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodistill.errors import GeodistillError, suggest
from geodistill.files import fingerprint_of
from geodistill.recipe import CompareRecipe, Recipe
from geodistill.runs.recipe_file import check_recipe, merge, split_override, value_at, with_overrides

SCORED_BY = ("task", "data", "teacher", "generation", "compare")  # what all runs of a comparison share


@dataclass(frozen=True)
class Job:
    """One run: a variant at a sweep point with a seed."""

    variant: str
    sweep: dict[str, Any]
    seed: int
    recipe: Recipe
    folder: Path

    @property
    def shape(self) -> str:
        """What decides how the student is made."""
        return self.recipe.student.model_dump_json()

    @property
    def beginning(self) -> tuple[str, int]:
        """What decides the student that the job begins with; variants with the same one share it."""
        return self.shape, self.seed

    @property
    def build(self) -> str:
        """What decides the size and the speed of the student."""
        quantization = next(iter(self.recipe.quantizations.values()), None)
        return fingerprint_of(self.shape, quantization and quantization.model_dump(mode="json"))


def split_sweeps(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """Tell plain overrides from sweeps: `path=a,b,c` is a sweep over three values, a list in brackets is one value."""
    plain, sweeps = [], {}
    for override in overrides:
        dotted, _, text = override.partition("=")
        if "," in text and text.strip()[:1] not in ("[", "{", '"', "'"):
            sweeps[dotted] = [split_override(f"{dotted}={value.strip()}")[1] for value in text.split(",")]
        else:
            plain.append(override)
    return plain, sweeps


def default_comparison(recipe: Recipe) -> CompareRecipe:
    """Put plain fine-tuning and logits alone beside the recipe's own objective."""
    logits = recipe.objective.logits.model_dump() if recipe.objective.logits else {}
    return CompareRecipe(
        baseline="KD",
        variants={
            "labels": {"objective": {"label": {}}},
            "KD": {"objective": {"label": {}, "logits": logits}},
            "recipe": {},
        },
    )


def comparison_of(recipe: Recipe) -> CompareRecipe:
    """Return what a recipe compares: the variants that it names, or else the default ones with its seeds and jobs.

    A baseline that the recipe names is kept, so that one that is no variant is refused.
    """
    default = default_comparison(recipe)
    if recipe.compare is None:
        return default
    if recipe.compare.variants:
        return recipe.compare
    return recipe.compare.model_copy(update={"variants": default.variants})


def plan_jobs(recipe: Recipe, folder: Path, sweeps: Mapping[str, Sequence[Any]] | None = None) -> list[Job]:
    """Return all runs, seed by seed, so that an interrupted comparison is a fair one of fewer seeds.

    A sweep touches a variant only if the swept field's section is there: `objective.features.0.weight` leaves a
    variant without feature terms unchanged, and runs it once.

    Raises GeodistillError for a baseline that is no variant, a variant that is no valid recipe or that would be scored
    in another way, and a sweep that touches none.
    """
    comparison = comparison_of(recipe)
    if comparison.baseline not in comparison.variants:
        raise GeodistillError(
            f"The baseline '{comparison.baseline}' is none of the variants.",
            suggest(comparison.baseline, comparison.variants),
        )
    for path in [*(key for partial in comparison.variants.values() for key in partial), *(sweeps or {})]:
        if path.split(".")[0] in SCORED_BY:
            raise GeodistillError(
                f"The runs of a comparison are scored alike, on one task, data set and teacher, but '{path}' would "
                "change that between the runs.",
                "Set it for the whole recipe, and make one comparison for each value.",
            )
    training = {name: partial.get("training") for name, partial in comparison.variants.items()}
    seeded = [name for name, section in training.items() if isinstance(section, Mapping) and "seed" in section]
    if seeded or "training.seed" in (sweeps or {}):
        where = f"the variant '{seeded[0]}' sets 'training.seed'" if seeded else "'training.seed' is swept"
        raise GeodistillError(f"Every variant is run with every seed, but {where}.", "Set compare.seeds.")
    for what, values in {"compare.seeds": comparison.seeds, **(sweeps or {})}.items():
        if twice := [value for place, value in enumerate(values) if value in values[:place]]:
            raise GeodistillError(f"'{what}' holds {twice[0]} twice.", "Name each value once.")
    base = recipe.model_dump(mode="json", exclude={"compare"})
    jobs, swept = [], set()
    for seed, (name, partial) in itertools.product(comparison.seeds, comparison.variants.items()):
        content = merge(base, partial)
        touching = {path: values for path, values in (sweeps or {}).items() if _has_parent(content, path)}
        swept |= set(touching)
        for values in itertools.product(*touching.values()):
            point = dict(zip(touching, values, strict=True))
            full = with_overrides(content, {**point, "training.seed": seed})
            checked = check_recipe(full, source=f"the variant '{name}'")
            jobs.append(Job(name, point, seed, checked, folder / "runs" / _slug(name, point, seed)))
    if untouched := set(sweeps or {}) - swept:
        raise GeodistillError(
            f"No variant has the swept field '{sorted(untouched)[0]}'.",
            "Sweep a field that a variant sets, or add the variant.",
        )
    return jobs


def _has_parent(content: Mapping[str, Any], dotted: str) -> bool:
    parent, _, last = dotted.rpartition(".")
    place = value_at(content, parent) if parent else content
    return isinstance(place, Mapping) or (isinstance(place, list) and last.isdigit() and int(last) < len(place))


def _slug(name: str, sweep: Mapping[str, Any], seed: int) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    # Different names can give the same words, so a few digits of the name and the sweep point tell them apart.
    return f"{words}-{fingerprint_of(name, dict(sweep))[:6]}-seed{seed}"

"""The sections `generation` and `compare`: how students are scored, and which are compared."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from geodistill.applies import Rule, Section, only_with


class GenerationRecipe(Section):
    """How responses are drawn when a model that follows instructions is scored; the defaults are MiniLLM's protocol."""

    rules = (
        Rule(
            ("temperature", "top_p", "top_k"),
            lambda generation: generation.sample,
            only_with("generation.sample=true"),
        ),
    )

    max_new_tokens: int = Field(256, ge=1)
    sample: bool = Field(True, description="draw tokens; else the likeliest is taken, and one seed is enough")
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: not cut")
    seeds: list[int] = Field(default_factory=lambda: [10, 20, 30, 40, 50], min_length=1)
    batch_size: int = Field(16, ge=1)
    limit: int | None = Field(None, ge=1, description="score at most so many examples of each split, spread over it")


class CompareRecipe(Section):
    """What to compare: variants × seeds, each variant a partial recipe laid over the rest."""

    seeds: list[int] = Field(default_factory=lambda: [1, 2, 3], min_length=1)
    baseline: str = Field("KD", description="the variant that the others are tested against")
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict, description="name → partial recipe")
    jobs: int | None = Field(None, ge=1, description="runs side by side; by default one for each core, at most 4")

"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from geodistill.applies import Rule, refuse_what_does_not_apply


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def nothing_in_vain(self) -> Section:
        refuse_what_does_not_apply(self, self.rules)
        return self

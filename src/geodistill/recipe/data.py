"""The section `data`: where the examples come from, and how they are read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from geodistill.applies import Rule, Section, only_with

Augmentation = Literal["none", "crop", "crop_flip"]
PromptKind = Literal["alpaca", "chat", "plain"]


class ColumnsRecipe(Section):
    """Which column each side reads, if they read different inputs of the same thing: texts, images or arrays."""

    student: str = Field(description="column that the student reads")
    teacher: str = Field(description="column that the teacher reads; it may be the same")


class SessionsRecipe(Section):
    """How recordings of spikes and field potentials are binned, cut and split."""

    bin_ms: float = Field(10.0, gt=0, description="length of a time bin in milliseconds")
    bins: int = Field(100, ge=2, description="bins of a segment, which is what a model reads at once")
    block_seconds: float = Field(10.0, gt=0, description="whole blocks of time are train, validation or test")
    unseen: list[str] = Field(
        default_factory=list, description="sessions that nothing is trained on but their own patch embeddings"
    )
    adaptation_steps: int = Field(
        100, ge=1, description="of the patch embeddings of unseen sessions, before they are scored"
    )
    lfp: str | None = Field(None, description="ElectricalSeries of an NWB file; the only one if absent")
    behaviour: list[str] | None = Field(None, description="what is decoded, by name; all if absent")


class DataRecipe(Section):
    """Where the examples come from: a bundled set, a hub name, GLUE, a local file or a folder of files."""

    rules = (
        Rule(
            ("configuration",),
            lambda data: not data.source.startswith(("bundled:", "glue/")),
            only_with("the hub name of a data set"),
        ),
    )

    source: str = Field("bundled:trec", description="bundled:NAME, a hub name, glue/TASK, a file or a folder")
    configuration: str | None = Field(None, description="configuration name of a hub data set")
    text: str | None = Field(None, description="column with the sentence; found by its usual names when absent")
    text_pair: str | None = Field(None, description="column with the second sentence of a pair")
    label: str | list[str] | None = Field(
        None,
        description="column with the label, or several of 0 and 1 or of numbers; found by its usual names if absent",
    )
    columns: ColumnsRecipe | None = Field(None, description="the column that each side reads, of paired inputs")
    sessions: SessionsRecipe = Field(default_factory=SessionsRecipe, description="of recordings")
    image: str | None = Field(None, description="column with the image; found by its usual names when absent")
    augmentation: Augmentation = Field(
        "none", description="how training images are varied; flips are for pictures that mean the same mirrored"
    )
    instruction: str | None = Field(
        None, description="column with the instruction; found likewise, as are the next three"
    )
    input: str | None = Field(None, description="column with what the instruction is about; may be empty")
    output: str | None = Field(None, description="column with the response, or a list of equally good ones")
    messages: str | None = Field(None, description="column with a conversation; its last answer is the response")
    prompt: PromptKind = Field("alpaca", description="chat: by the tokenizer's own template")
    responses: Literal["data", "teacher"] = Field(
        "data", description="what a student learns: the data's responses, or such as its teacher writes"
    )
    problem: Literal["auto", "classification", "multi_label", "regression", "unlabelled"] = "auto"
    metrics: list[str] | None = Field(
        None, description="reported metrics, the first is the main one; by task if absent"
    )
    train_split: str = "train"
    validation_split: str = "validation"
    test_split: str = "test"
    validation_share: float = Field(0.1, gt=0, lt=1, description="cut from train when there is no validation split")
    test_share: float = Field(0.2, gt=0, lt=1, description="cut from train when there is no test split")
    seed: int = Field(0, description="seed of the splits and of the limit; not the training seed")
    limit: int | None = Field(None, ge=1, description="at most so many rows of each split")
    max_length: int | None = Field(
        None, ge=4, description="tokens, longer texts are truncated; 128, and 512 for instructions with their response"
    )
    max_prompt_length: int = Field(256, ge=1, description="tokens; an instruction with a longer prompt is dropped")

"""The typed recipe: everything that a run is made from, and nothing that it computes.

A recipe is a YAML file; every field here is a key of it, and may be overridden on the command line by its dotted path
(`training.epochs=3`, `objective.features.0.weight=5`). An unknown key is refused, and the nearest valid one is named.

Names of losses, rows, divergences and tasks are plain strings here. The dicts of them live on higher floors, where the
names and the options of a loss are checked: `geodistill.runs.recipe_file.check_names`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, field_validator, model_validator

from geodistill.aliases import OWN_FIELDS, TRAINER_NAMES
from geodistill.applies import Rule, only_with, refuse_what_does_not_apply
from geodistill.errors import GeodistillError

Augmentation = Literal["none", "crop", "crop_flip"]
PromptKind = Literal["alpaca", "chat", "plain"]
WeightKind = Literal["float32", "bfloat16", "8bit", "4bit"]
TASK_STAGE = "task"
NEW_MODEL = "new:"
"""What the name of a model with random weights begins with, such as new:resnet20."""
PYTHON_MODEL = "python:"
"""What the name of an image model begins with that a function makes: python:PACKAGE.MODULE:CALLABLE."""
MADE = (NEW_MODEL, PYTHON_MODEL)
NEW_MODELS = {"images": "new:resnet8", "neural": "new:lfp"}
"""The tasks that have new models by name, and one of the names."""
Bits = Annotated[int, Field(ge=2, le=8)]
LayerPair = tuple[int, int]
ModulePair = tuple[str, str]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def nothing_in_vain(self) -> Section:
        refuse_what_does_not_apply(self, self.rules)
        return self


class ColumnsRecipe(Section):
    """Which column each side reads, where both read different inputs of the same thing; of texts, images or arrays."""

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


class TrainingRecipe(Section):
    """How long and how fast to train.

    `arguments` passes fields of DistillationConfig through, which are those of transformers.TrainingArguments and a few
    more: those that have no key of their own here.
    """

    rules = (
        Rule(
            ("warmup",),
            lambda training: training.schedule != "constant" or training.warmup == 0,
            only_with("another schedule, such as constant_with_warmup"),
        ),
    )

    epochs: float = Field(
        3.0, ge=0, description="0: no training, for a stage of quantised weights: they are rounded after training"
    )
    max_steps: int = Field(-1, description="stops early after so many steps when positive")
    batch_size: int = Field(32, ge=1, description="examples per device and micro-batch")
    evaluation_batch_size: int = Field(128, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    exact_accumulation: bool = Field(
        False, description="take feature terms of all micro-batches of a step together, at one more student forward"
    )
    global_batch: bool = Field(True, description="take feature terms of the whole batch over all ranks")
    learning_rate: float = Field(5e-5, gt=0)
    rates: dict[str, PositiveFloat] = Field(
        default_factory=dict, description="pattern of parameter names → learning rate; the first that matches counts"
    )
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps over which the rate rises")
    schedule: str = Field("linear", description="a transformers learning-rate schedule: linear, cosine, constant, …")
    max_gradient_norm: float = Field(1.0, ge=0)
    bf16: bool | Literal["auto"] = Field(
        False, description="train in bfloat16; auto: where it is multiplied in hardware. A teacher's default is auto"
    )
    fp16: bool | Literal["auto"] = Field(
        False, description="train in float16; auto: on a CUDA device, unless bf16 is chosen"
    )
    seed: int = 0
    logging_steps: int = Field(20, ge=1)
    evaluate_each_epoch: bool = Field(False, description="score the validation split after each epoch as well")
    save_steps: int | None = Field(None, ge=1, description="write a checkpoint every so many steps; none when absent")
    arguments: dict[str, Any] = Field(default_factory=dict, description="other fields of geodistill.DistillationConfig")

    @model_validator(mode="after")
    def one_precision(self) -> TrainingRecipe:
        if self.bf16 is True and self.fp16 is True:
            raise ValueError("'bf16' and 'fp16' are both true: keep one of them, or set both to auto")
        return self

    @field_validator("arguments")
    @classmethod
    def one_place_for_each_setting(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name in arguments:
            if name in TRAINER_NAMES:
                key = TRAINER_NAMES[name]
                raise GeodistillError(
                    f"'{name}' has a key of its own.", f"Set '{key}' in the training section instead."
                )
            if name in OWN_FIELDS:
                raise GeodistillError(f"A run decides '{name}' by itself.", OWN_FIELDS[name])
        return arguments


class TeacherRecipe(Section):
    """The teacher: given fine-tuned, or fine-tuned first when `training` is there."""

    rules = (
        Rule(
            ("revision",),
            lambda teacher: not teacher.model.startswith(("bundled:", *MADE)),
            only_with("a hub name as model"),
        ),
        Rule(
            ("cache_dtype", "cache_variance", "cache_limit_gb", "cache_top_k"),
            lambda teacher: teacher.cache,
            only_with("teacher.cache=true"),
        ),
    )

    model: str = Field(
        "bundled:minilm-l6", description="bundled:NAME, a folder, a hub name; new:NAME, or python:… for an image model"
    )
    revision: str | None = None
    trust_remote_code: bool = Field(False, description="run the code that comes with `model`; of no other side")
    training: TrainingRecipe | None = Field(None, description="fine-tune the teacher on the data first, so")
    weights: WeightKind = Field(
        "float32", description="how the teacher is held in memory; 8bit and 4bit through bitsandbytes"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the teacher's forward pass")
    cache: bool = Field(True, description="run the teacher over the data once and read its signals from disk after")
    cache_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    cache_variance: float | None = Field(
        None, gt=0, le=1, description="keep cached rows in the principal axes that hold this share of their variance"
    )
    cache_limit_gb: float = Field(8.0, gt=0, description="refuse to write a larger cache")
    cache_top_k: int | None = Field(None, ge=1, description="of a token's logits keep the largest and the rest's mass")

    @field_validator("training", mode="before")
    @classmethod
    def in_bfloat16_where_that_is_faster(cls, training: Any) -> Any:
        return {"bf16": "auto", **training} if isinstance(training, Mapping) else training


class LoraRecipe(Section):
    """Low-rank adapters on a pretrained student; they are merged into it at the end."""

    rank: int = Field(8, ge=1)
    alpha: int = Field(16, ge=1, description="adapters act with alpha / rank")
    targets: list[str] | None = Field(None, description="names of linear layers; all of the backbone's when absent")
    dropout: float = Field(0.0, ge=0, lt=1)


class StudentRecipe(Section):
    """The student: exactly one of `model`, `teacher_layers` or (`width` and `layers`)."""

    rules = (
        Rule(
            ("revision",),
            lambda student: student.model is not None and not student.model.startswith(("bundled:", *MADE)),
            only_with("a hub name as student.model"),
        ),
        Rule(
            ("heads", "intermediate", "initialization"),
            lambda student: student.width is not None or student.layers is not None,
            only_with("a new student, of student.width and student.layers"),
        ),
        Rule(
            ("trust_remote_code",),
            lambda student: student.model is not None,
            "Leave it out: a student that is made out of its teacher has the teacher's code, for which there is "
            "teacher.trust_remote_code.",
        ),
    )

    model: str | None = Field(
        None, description="bundled:NAME, a folder, a hub name; new:NAME, or python:… for an image model"
    )
    revision: str | None = None
    trust_remote_code: bool = Field(False, description="run the code that comes with `model`; of no other side")
    teacher_layers: int | list[int] | None = Field(None, description="copy the first so many, or these, teacher layers")
    width: int | None = Field(None, ge=1, description="hidden size of a new student of the teacher's family")
    layers: int | None = Field(None, ge=1)
    heads: int | None = Field(None, ge=1, description="by default one for each 64 of width")
    intermediate: int | None = Field(None, ge=1, description="by default 4 × width")
    initialization: Literal["pca", "random"] = Field("pca", description="of a new student's embeddings")
    training: TrainingRecipe | None = Field(None, description="fine-tune the student on the labels first, so")
    lora: LoraRecipe | None = Field(None, description="train adapters and a classification head, all else stays")

    @model_validator(mode="after")
    def one_way(self) -> StudentRecipe:
        new = self.width is not None or self.layers is not None
        ways = (self.model is not None) + (self.teacher_layers is not None) + new
        if ways != 1:
            raise ValueError("give exactly one of 'model', 'teacher_layers', or 'width' with 'layers'")
        if new and (self.width is None or self.layers is None):
            raise ValueError("a new student needs both 'width' and 'layers'")
        if new and self.lora:
            raise ValueError("'lora' adapts weights that were trained: give 'model' or 'teacher_layers' with it")
        return self


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


class QuantizationRecipe(Section):
    """How a student's layers are rounded to integers of a few bits while it trains."""

    rules = (
        Rule(
            ("biases", "symmetric", "calibration", "percentile", "calibration_examples"),
            lambda quantization: quantization.activations is not None,
            only_with("activations that are quantised"),
        ),
        Rule(
            ("percentile",),
            lambda quantization: quantization.calibration == "percentile",
            only_with("calibration: percentile"),
        ),
    )

    weights: Bits = Field(8, description="bits of the weights; they are symmetric")
    activations: Bits | None = Field(8, description="bits of what the layers read; float if null")
    embeddings: Bits | None = Field(8, description="bits of embeddings; float if null")
    first_and_last: Bits | None = Field(8, description="bits of the first and the last layer; float if null")
    biases: bool = Field(True, description="round biases to the int32 grid of the product of both steps")
    per_channel: bool = Field(True, description="one interval for each output channel of a weight, or row of a table")
    symmetric: bool = Field(False, description="signed integers for what the layers read, zero in their middle")
    include: list[str] | None = Field(None, min_length=1, description="patterns of names of layers; all if absent")
    exclude: list[str] = Field(default_factory=list, description="patterns of names of layers that stay float")
    calibration: Literal["minmax", "percentile"] = Field(
        "minmax", description="where the intervals of what layers read start"
    )
    percentile: float = Field(99.99, gt=50, lt=100, description="values beyond it, on each side, start as clipped")
    calibration_examples: int = Field(256, ge=1, description="so many training examples decide where intervals start")


class StageRecipe(Section):
    """A training stage that comes before the task itself, such as feature terms alone on unlabelled text."""

    name: str = Field(pattern=r"^\w[\w .-]*$", description="of its own; its checkpoints are in a folder of this name")
    data: DataRecipe | None = Field(None, description="the task's own data when absent, with its labels")
    objective: ObjectiveRecipe
    teacher_objective: ObjectiveRecipe | None = Field(
        None, description="train the teacher too, with the roles swapped; it is not cached meanwhile"
    )
    quantization: QuantizationRecipe | None = Field(
        None, description="put quantisers into the student when the stage begins; they stay in later ones"
    )
    training: TrainingRecipe = Field(default_factory=TrainingRecipe)


class CompareRecipe(Section):
    """What to compare: variants × seeds, each variant a partial recipe laid over the rest."""

    seeds: list[int] = Field(default_factory=lambda: [1, 2, 3], min_length=1)
    baseline: str = Field("KD", description="the variant that the others are tested against")
    variants: dict[str, dict[str, Any]] = Field(default_factory=dict, description="name → partial recipe")
    jobs: int | None = Field(None, ge=1, description="runs side by side; by default one for each core, at most 4")


CLASSIFICATION_DATA = ("text", "text_pair", "problem")
INSTRUCTION_DATA = ("instruction", "input", "output", "messages", "prompt", "responses", "max_prompt_length")
IMAGE_DATA = ("image", "augmentation")


def _of_data(*keys: str) -> tuple[str, ...]:
    """The dotted paths of keys of the task's data section and of its stages'."""
    return tuple(f"{section}.{key}" for section in ("data", "stages.data") for key in keys)


class Recipe(Section):
    rules = (
        Rule(
            _of_data(*CLASSIFICATION_DATA),
            lambda recipe: recipe.task == "classification",
            only_with("task: classification"),
        ),
        Rule(
            _of_data("label"),
            lambda recipe: recipe.task in ("classification", "images", "embeddings"),
            only_with("task: classification, task: images or task: embeddings"),
        ),
        Rule(_of_data("columns"), lambda recipe: recipe.task == "embeddings", only_with("task: embeddings")),
        Rule(_of_data(*IMAGE_DATA), lambda recipe: recipe.task == "images", only_with("task: images")),
        Rule(
            _of_data(*(f"sessions.{key}" for key in SessionsRecipe.model_fields)),
            lambda recipe: recipe.task == "neural",
            only_with("task: neural"),
        ),
        Rule(
            _of_data("max_length"),
            lambda recipe: recipe.task not in NEW_MODELS,
            "Leave it out, because it counts tokens: an image has none, and a recording has none.",
        ),
        Rule(
            (
                *_of_data(*INSTRUCTION_DATA),
                *(f"generation.{key}" for key in GenerationRecipe.model_fields),
                "teacher.cache_top_k",
            ),
            lambda recipe: recipe.task == "instructions",
            only_with("task: instructions"),
        ),
        Rule(
            ("stages.training.seed",),
            lambda recipe: False,
            "Leave it out: training.seed counts for all stages of a run.",
        ),
    )

    task: str = Field("classification", description="a name of geodistill.tasks.choose.TASKS")
    data: DataRecipe = Field(default_factory=DataRecipe)
    teacher: TeacherRecipe = Field(default_factory=TeacherRecipe)
    student: StudentRecipe
    objective: ObjectiveRecipe
    teacher_objective: ObjectiveRecipe | None = Field(
        None, description="train the teacher too, with the roles swapped; it is not cached meanwhile"
    )
    quantization: QuantizationRecipe | None = Field(
        None, description="put quantisers into the student when the stage begins; they stay in later ones"
    )
    stages: list[StageRecipe] = Field(default_factory=list)
    training: TrainingRecipe = Field(default_factory=TrainingRecipe)
    generation: GenerationRecipe = Field(default_factory=GenerationRecipe)
    compare: CompareRecipe | None = None

    @model_validator(mode="after")
    def models_of_the_task(self) -> Recipe:
        student = self.student
        sides: list[tuple[str, TeacherRecipe | StudentRecipe]] = [("teacher", self.teacher), ("student", student)]
        for name, side in sides:
            model = side.model or ""
            if self.task not in NEW_MODELS and model.startswith(MADE):
                raise GeodistillError(
                    f"'{name}.model' names a new image model, and the task is {self.task}.",
                    "Give a model that reads texts, or set task: images.",
                )
            if model.startswith(PYTHON_MODEL) and not side.trust_remote_code:
                raise GeodistillError(
                    f"'{name}.model' is '{model}', whose code is not run unless you say so.",
                    f"If you trust that code, set {name}.trust_remote_code=true.",
                )
        if self.task in NEW_MODELS and (student.model is None or student.lora is not None):
            raise GeodistillError(
                f"A student of the task '{self.task}' is not made from its teacher's layers, from a width or with "
                "adapters.",
                f"Give student.model alone: a new model such as {NEW_MODELS[self.task]}, a folder or a hub name.",
            )
        if self.task == "embeddings" and self.teacher.training is not None:
            raise GeodistillError(
                "A teacher of embeddings has no labels to be fine-tuned on.",
                "Leave teacher.training out, and give a teacher that is trained.",
            )
        if self.task == "embeddings" and self.data.label is not None and student.model is None:
            raise GeodistillError(
                "A student of embeddings with labels has a head, and its teacher has none.",
                "Give student.model, or leave data.label out.",
            )
        if self.teacher.model.startswith(NEW_MODEL) and self.teacher.training is None:
            raise GeodistillError(
                f"The teacher '{self.teacher.model}' has random weights.", "Add teacher.training to train it first."
            )
        return self

    @model_validator(mode="after")
    def weights_that_learn(self) -> Recipe:
        if self.learning_stages and self.teacher.weights != "float32":
            raise GeodistillError(
                f"The teacher learns in the stage '{self.learning_stages[0]}', and teacher.weights is "
                f"'{self.teacher.weights}', which loses small updates.",
                "Set teacher.weights=float32, or leave teacher_objective out.",
            )
        return self

    @model_validator(mode="after")
    def one_quantization(self) -> Recipe:
        found = self.quantizations
        first, section = next(iter(found.items()), (None, None))
        if self.student.lora is not None and section is not None:
            raise GeodistillError(
                f"The stage '{first}' quantises the student, and 'student.lora' leaves its weights as they are.",
                "Leave out student.lora or quantization.",
            )
        if other := next((name for name, each in found.items() if each != section), None):
            raise GeodistillError(
                f"The stages '{first}' and '{other}' quantise the student differently, and quantisers stay.",
                "Give the section once, in the first stage that is quantised; later ones may repeat it.",
            )
        return self

    @model_validator(mode="after")
    def something_to_train(self) -> Recipe:
        stages: list[tuple[str, StageRecipe | Recipe]] = [(f"stages.{stage.name}.", stage) for stage in self.stages]
        quantised, rounded = False, set()
        for path, stage in [*stages, ("", self)]:
            quantised = quantised or stage.quantization is not None
            if quantised and stage.teacher_objective is None:
                rounded.add(f"{path}training")
        if idle := [name for name, each in self.trainings.items() if each.epochs == 0 and name not in rounded]:
            raise GeodistillError(
                f"'{idle[0]}.epochs' is 0, so nothing would be trained.",
                "Give more than 0; with 0 a stage that has 'quantization' rounds a student without training it.",
            )
        return self

    @property
    def quantizations(self) -> dict[str, QuantizationRecipe]:
        """The quantisation that stages name, by the name of the stage; all are the same."""
        stages = {stage.name: stage.quantization for stage in self.stages} | {TASK_STAGE: self.quantization}
        return {name: each for name, each in stages.items() if each is not None}

    @property
    def learning_stages(self) -> list[str]:
        """The names of the stages in which the teacher learns."""
        stages = [(stage.name, stage.teacher_objective) for stage in self.stages]
        return [name for name, learns in [*stages, (TASK_STAGE, self.teacher_objective)] if learns is not None]

    @property
    def objectives(self) -> list[ObjectiveRecipe]:
        """The objectives of all stages, of the student and of a teacher that learns."""
        both = [each for stage in self.stages for each in (stage.objective, stage.teacher_objective)]
        return [each for each in [*both, self.objective, self.teacher_objective] if each is not None]

    @property
    def trainings(self) -> dict[str, TrainingRecipe]:
        """The training sections that the recipe has, by their dotted paths; a stage by its name."""
        sections = {
            "teacher.training": self.teacher.training,
            "student.training": self.student.training,
            **{f"stages.{stage.name}.training": stage.training for stage in self.stages},
            "training": self.training,
        }
        return {name: training for name, training in sections.items() if training is not None}

    @property
    def trusts_student(self) -> bool:
        """Whether the student's own code may be run: one that is made out of its teacher has the teacher's code."""
        return (self.teacher if self.student.model is None else self.student).trust_remote_code

    @field_validator("stages")
    @classmethod
    def names_of_their_own(cls, stages: list[StageRecipe]) -> list[StageRecipe]:
        names = [TASK_STAGE, *(stage.name for stage in stages)]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two stages are named '{min(twice)}' (the last one, the task itself, is '{TASK_STAGE}')")
        return stages

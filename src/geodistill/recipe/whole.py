"""A whole recipe, and what its sections have to agree on."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from geodistill.applies import Rule, Section, only_with
from geodistill.errors import GeodistillError
from geodistill.recipe.data import DataRecipe, SessionsRecipe
from geodistill.recipe.models import MADE, NEW_MODEL, NEW_MODELS, PYTHON_MODEL, StudentRecipe, TeacherRecipe
from geodistill.recipe.objective import ObjectiveRecipe
from geodistill.recipe.scoring import CompareRecipe, GenerationRecipe
from geodistill.recipe.stages import TASK_STAGE, QuantizationRecipe, StageRecipe
from geodistill.recipe.training import TrainingRecipe

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
                f"The stage '{first}' quantises the student, and 'student.lora' leaves its weights unchanged.",
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

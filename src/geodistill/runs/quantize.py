"""Quantisers in a run: put into the student when a stage names them, and started from training examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from geodistill.distillation.model import LEARNING_TEACHER_PREFIX
from geodistill.distillation.rates import match_rates
from geodistill.distillation.signals import model_inputs
from geodistill.errors import GeodistillError
from geodistill.quantization import calibrate, layer_bits, quantize
from geodistill.recipe import QuantizationRecipe, StageRecipe
from geodistill.runs.arguments import run_device, send
from geodistill.tasks.reading import Reading
from geodistill.tasks.task import EncodedExamples, batch_places, spread

CALIBRATION_BATCH = 32


def quantize_student(
    student: PreTrainedModel, recipe: QuantizationRecipe, reading: Reading, learnt: EncodedExamples
) -> None:
    """Put quantisers into a student, in place, and start them from training examples, evenly spread over the split.

    Raises GeodistillError for what `quantize` and `calibrate` refuse, such as an empty split.
    """

    def batches() -> Iterator[Mapping[str, Tensor]]:
        examples = spread(learnt, recipe.calibration_examples)
        for places in batch_places(examples, reading.reader, CALIBRATION_BATCH):
            yield model_inputs(student, reading.collate([examples[place] for place in places]))

    quantize(send(student, run_device()), recipe)
    calibrate(student, batches(), recipe)


def check_patterns(stages: Sequence[StageRecipe], student: PreTrainedModel, teacher: nn.Module) -> None:
    """Refuse patterns of layers and of parameters that match nothing, before anything is trained.

    Those of learned projections are left to the trainer, which makes them.

    Args:
        stages: of a run, in order.
        student, teacher: the models or their outlines: only names are looked at.
    """
    names = [name for name, parameter in student.named_parameters() if parameter.requires_grad]
    teachers = [LEARNING_TEACHER_PREFIX + name for name, _ in teacher.named_parameters()]
    quantised = False
    for stage in stages:
        try:
            if stage.quantization is not None and not quantised:
                names += quantizer_names(student, stage.quantization)
                quantised = True
            known = [*names, *(teachers if stage.teacher_objective is not None else [])]
            match_rates(known, {key: rate for key, rate in stage.training.rates.items() if "objective" not in key})
        except GeodistillError as error:
            raise GeodistillError(f"Stage '{stage.name}': {error.problem}", error.remedy) from error


def quantizer_names(student: PreTrainedModel, recipe: QuantizationRecipe) -> list[str]:
    """Name the parameters that quantisers would have. Raises GeodistillError for what `layer_bits` refuses."""
    ends = ["interval"] if recipe.symmetric else ["interval", "offset"]
    names = []
    for layer, bits in layer_bits(student, recipe).items():
        names.append(f"{layer}.weight_quantizer.interval")
        names += [f"{layer}.input_quantizer.{end}" for end in ends if bits.activations is not None]
    return names

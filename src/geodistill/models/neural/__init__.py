"""The neural transformer of recordings: its config, its layers, and the model with its sessions."""

from geodistill.models.neural.config import NeuralConfig
from geodistill.models.neural.model import NEURAL_NAMES, NeuralModel, new_neural_model, with_sessions

__all__ = ["NEURAL_NAMES", "NeuralConfig", "NeuralModel", "new_neural_model", "with_sessions"]

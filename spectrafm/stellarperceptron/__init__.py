"""The model: pure torch and NumPy, free of astropy."""

from .config import AugmentationConfig, FitConfig, ModelConfig
from .embedding import LogFourierEncoding, NonLinearEmbedding, SinusoidalEncoding
from .layers import (
    StellarPerceptronDecoder,
    StellarPerceptronEncoder,
    StellarPerceptronTorchModel,
    TransformerBlock,
)
from .model import Perception, StellarPerceptron
from .model_core import StellarPerceptronCore
from .nn_utils import TrainingGenerator, robust_mean_squared_error
from .patches import PatchEmbedding
from .readout import Readout
from .second_opinion import SecondOpinion
from .spectrum_components import SpectrumComponents
from .spectrum_fit import SpectrumFit
from .table_stream import TableStream
from .tokens import Tokens, TokenTable
from .trainer import Trainer
from .vocabulary import Vocabulary

__all__ = [
    "AugmentationConfig",
    "FitConfig",
    "LogFourierEncoding",
    "ModelConfig",
    "NonLinearEmbedding",
    "PatchEmbedding",
    "Perception",
    "Readout",
    "SecondOpinion",
    "SinusoidalEncoding",
    "SpectrumComponents",
    "SpectrumFit",
    "StellarPerceptron",
    "StellarPerceptronCore",
    "StellarPerceptronDecoder",
    "StellarPerceptronEncoder",
    "StellarPerceptronTorchModel",
    "TableStream",
    "TokenTable",
    "Tokens",
    "Trainer",
    "TrainingGenerator",
    "TransformerBlock",
    "Vocabulary",
    "robust_mean_squared_error",
]

"""Zipformer: a recogniser with a CTC and a transducer head, from scratch or from icefall's checkpoints.

Importing this package registers its classes with the Auto* factories, so its checkpoints load without remote code.
"""

from .configuration_zipformer import ZipformerConfig
from .features_zipformer import ZipformerFeatureExtractor
from .hypotheses import Hypothesis
from .modeling_zipformer import ZipformerForASR, ZipformerOutput
from .pipeline_asr import SpeechRecogniserPipeline
from .processing_zipformer import ZipformerProcessor, check_compatible
from .strict_model import CheckpointError

__all__ = [
    "CheckpointError",
    "Hypothesis",
    "SpeechRecogniserPipeline",
    "ZipformerConfig",
    "ZipformerFeatureExtractor",
    "ZipformerForASR",
    "ZipformerOutput",
    "ZipformerProcessor",
    "check_compatible",
]

"""FastConformer: transformers' Parakeet with CTC, RNN-T or TDT, trained and searched as the other recognisers here.

Importing this package registers its classes with the Auto* factories, so its checkpoints load without remote code.
"""

from .configuration_fastconformer import PRESETS, FastConformerConfig
from .feature_extraction_fastconformer import FastConformerFeatureExtractor
from .modeling_fastconformer import FastConformerForASR, FastConformerOutput
from .pipeline_asr import SpeechRecogniserPipeline
from .processing_fastconformer import FastConformerProcessor, check_compatible, plain_tokenizer
from .strict_model import CheckpointError

__all__ = [
    "PRESETS",
    "CheckpointError",
    "FastConformerConfig",
    "FastConformerFeatureExtractor",
    "FastConformerForASR",
    "FastConformerOutput",
    "FastConformerProcessor",
    "SpeechRecogniserPipeline",
    "check_compatible",
    "plain_tokenizer",
]

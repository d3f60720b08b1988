"""TSPC: a two-stage phoneme-centric model for Vietnamese and Vietnamese-English speech recognition.

Importing this package registers its classes with the Auto* factories, so its checkpoints load without remote code.
"""

from .audio_input import AudioInputError
from .configuration_tspc import P2TConfig, S2PConfig, TSPCConfig
from .modeling_p2t import P2TForConditionalGeneration
from .modeling_s2p import S2PForConditionalGeneration, S2POutput
from .modeling_tspc import TSPCForConditionalGeneration, TSPCGenerateOutput, TSPCOutput
from .pipeline_tspc import TSPCPipeline
from .processing_tspc import S2PProcessor, TSPCProcessor, build_phoneme_tokenizer, check_compatible, speech_inputs
from .strict_model import CheckpointError

__all__ = [
    "AudioInputError",
    "CheckpointError",
    "P2TConfig",
    "P2TForConditionalGeneration",
    "S2PConfig",
    "S2PForConditionalGeneration",
    "S2POutput",
    "S2PProcessor",
    "TSPCConfig",
    "TSPCForConditionalGeneration",
    "TSPCGenerateOutput",
    "TSPCOutput",
    "TSPCPipeline",
    "TSPCProcessor",
    "build_phoneme_tokenizer",
    "check_compatible",
    "speech_inputs",
]

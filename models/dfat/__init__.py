"""DFAT: dual-stage fusion of acoustic and text features under classical classifiers (paper, section 3.5).

Importing this package registers its classes with the Auto* factories, so its checkpoints load without remote code.
"""

from .audio_input import AudioInputError
from .classifiers_dfat import Classifiers, Member
from .configuration_dfat import DFATConfig
from .modeling_dfat import DFATForAudioClassification, DFATOutput
from .pipeline_dfat import DFATPipeline
from .processing_ser import build_feature_extractor
from .strict_model import CheckpointError
from .text_dfat import TextNetwork

__all__ = [
    "AudioInputError",
    "CheckpointError",
    "Classifiers",
    "DFATConfig",
    "DFATForAudioClassification",
    "DFATOutput",
    "DFATPipeline",
    "Member",
    "TextNetwork",
    "build_feature_extractor",
]

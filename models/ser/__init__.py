"""Speech emotion recognition: any set of speech encoders, their fusion, and heads from linear to SpeechFormer++.

Importing this package registers its classes with the Auto* factories, so its checkpoints load without remote code.
"""

from .audio_input import AudioInputError
from .configuration_ser import EncoderSpec, SERConfig
from .knn_ser import KNNDatastore
from .losses_ser import cross_entropy_sum, supervised_contrastive_sum
from .modeling_ser import SERForAudioClassification, SEROutput
from .pipeline_ser import SERPipeline
from .processing_ser import build_feature_extractor
from .speechformer_ser import SpeechFormer, stage_schedule
from .strict_model import CheckpointError

__all__ = [
    "AudioInputError",
    "CheckpointError",
    "EncoderSpec",
    "KNNDatastore",
    "SERConfig",
    "SERForAudioClassification",
    "SEROutput",
    "SERPipeline",
    "SpeechFormer",
    "build_feature_extractor",
    "cross_entropy_sum",
    "stage_schedule",
    "supervised_contrastive_sum",
]

"""emotion2vec: a speech emotion encoder, and a classifier of utterances on top of it.

Importing this package registers its classes with the Auto* factories, so its checkpoints load without remote code.
"""

from .audio_input import AudioInputError
from .configuration_emotion2vec import Emotion2VecConfig
from .feature_extraction_emotion2vec import Emotion2VecFeatureExtractor, normalise_waveforms
from .modeling_emotion2vec import (
    Emotion2VecClassifierOutput,
    Emotion2VecForAudioClassification,
    Emotion2VecModel,
    Emotion2VecModelOutput,
)
from .pipeline_audio_classification import SpeechClassificationPipeline
from .strict_model import CheckpointError

__all__ = [
    "AudioInputError",
    "CheckpointError",
    "Emotion2VecClassifierOutput",
    "Emotion2VecConfig",
    "Emotion2VecFeatureExtractor",
    "Emotion2VecForAudioClassification",
    "Emotion2VecModel",
    "Emotion2VecModelOutput",
    "SpeechClassificationPipeline",
    "normalise_waveforms",
]

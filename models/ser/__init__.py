"""Speech emotion recognition: any set of speech encoders, their fusion, and heads from linear to SpeechFormer++."""

from .speechformer_ser import SpeechFormer, stage_schedule

__all__ = ["SpeechFormer", "stage_schedule"]

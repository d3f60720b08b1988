"""The kinds of model that the suite trains, publishes and describes: one row a kind."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["s2p", "p2t", "tspc", "zipformer", "fastconformer", "whisper", "ser", "emotion2vec", "dfat"]
Task = Literal["automatic-speech-recognition", "text2text-generation", "audio-classification"]

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
_PHONEME_TOKENIZER = tuple(f"phoneme_tokenizer/{name}" for name in _TOKENIZER)


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What publishing has to know about a kind of model."""

    model_types: tuple[str, ...]
    """`model_type` of its configs."""
    task: Task
    """Pipeline that serves it."""
    summary: str
    """First line of its card."""
    files: tuple[str, ...]
    """Files beside config, weights, code and card without which nobody could use it."""
    head: tuple[str, ...] = ()
    """Tensors of what answers, without which the model would be an encoder."""
    own_code: bool = True
    """Whether its folder carries Python files, because transformers has no such model."""
    phonemes: bool = False
    """Whether it has a phoneme register."""
    code_switching: bool = False
    """Whether it is made for English words in Vietnamese speech."""


KINDS: dict[Kind, ModelKind] = {
    "s2p": ModelKind(
        ("tspc_s2p",),
        "automatic-speech-recognition",
        "Speech to phonemes (S2P): the first stage of a Vietnamese–English code-switching speech recogniser.",
        ("generation_config.json", "processor_config.json", *_TOKENIZER),
        phonemes=True,
        code_switching=True,
    ),
    "p2t": ModelKind(
        ("tspc_p2t",),
        "text2text-generation",
        "Phonemes to text (P2T): the second stage of a Vietnamese–English code-switching speech recogniser.",
        ("generation_config.json", *_TOKENIZER, *_PHONEME_TOKENIZER),
        phonemes=True,
        code_switching=True,
    ),
    "tspc": ModelKind(
        ("tspc",),
        "automatic-speech-recognition",
        "Speech recognition of Vietnamese with English words in it (code-switching).",
        ("generation_config.json", "processor_config.json", *_TOKENIZER, *_PHONEME_TOKENIZER),
        phonemes=True,
        code_switching=True,
    ),
    "zipformer": ModelKind(
        ("zipformer",),
        "automatic-speech-recognition",
        "Speech recognition of Vietnamese: a Zipformer encoder with a transducer and a CTC output.",
        ("processor_config.json", *_TOKENIZER),
    ),
    "fastconformer": ModelKind(
        ("fastconformer",),
        "automatic-speech-recognition",
        "Speech recognition of Vietnamese: a FastConformer encoder with a CTC or transducer output.",
        ("processor_config.json", *_TOKENIZER),
    ),
    "whisper": ModelKind(
        ("whisper",),
        "automatic-speech-recognition",
        "Speech recognition of Vietnamese: a Whisper, fine-tuned on general speech and then on the domain.",
        ("generation_config.json", "processor_config.json", *_TOKENIZER),
        own_code=False,
    ),
    "ser": ModelKind(
        ("amvi_ser",),
        "audio-classification",
        "Speech emotion recognition: pre-trained speech encoders, joined, under one classifier.",
        ("preprocessor_config.json",),
        head=("head.classifier.weight", "head.classifier.bias"),
    ),
    "emotion2vec": ModelKind(
        ("emotion2vec",),
        "audio-classification",
        "Speech emotion recognition: an emotion2vec encoder with a classifier of utterances.",
        ("preprocessor_config.json",),
        head=("classifier.weight", "classifier.bias"),
    ),
    "dfat": ModelKind(
        ("amvi_dfat",),
        "audio-classification",
        "Speech emotion recognition: features of a speech encoder and of the transcript under classical classifiers.",
        ("preprocessor_config.json", "classifiers/digests.json"),
        head=("member_weights",),
    ),
}


def kind_of(model_type: str | None) -> Kind | None:
    """The kind of a config's `model_type`; None for a model that is not of this suite."""
    return next((kind for kind, about in KINDS.items() if model_type in about.model_types), None)

"""Emotion classifiers behind one interface: our models, and any other that classifies recordings.

Whatever `pipeline("audio-classification")` can load is a classifier here, so a model of others hears the same rows and
is scored exactly as ours are.
"""

import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_scripts.audio import SAMPLING_RATE_HZ, AudioError, read_audio
from trainers.pins import require_pin, split_pin
from trainers.recognisers import pick_device

logger = logging.getLogger(__name__)
TASK = "audio-classification"
# model type → the package that registers its classes, and its pipeline there
_OURS = {
    "amvi_ser": ("models.ser", "SERPipeline"),
    "emotion2vec": ("models.emotion2vec", "SpeechClassificationPipeline"),
    "amvi_dfat": ("models.dfat", "DFATPipeline"),
}


class ClassifierError(ValueError):
    """A model that cannot be loaded or cannot classify recordings; the message names it and says what to do."""


@dataclass
class Classifier:
    """A loaded audio-classification pipeline.

    labels: its classes, in the order of their ids. reads_text: whether it wants the transcript beside the audio.
    """

    name: str
    pipe: Any
    labels: list[str]
    reads_text: bool = False

    @property
    def model_type(self) -> str:
        return self.pipe.model.config.model_type

    @property
    def has_datastore(self) -> bool:
        """Whether its probabilities are mixed with those of neighbours among the training rows."""
        return getattr(self.pipe.model, "datastore", None) is not None

    @property
    def keeps_batches_apart(self) -> bool:
        """Whether a row's result does not depend on the rows beside it.

        A stock front end without attention mask lets its model hear the padding.
        """
        extractor = self.pipe.feature_extractor
        return self.model_type in _OURS or extractor is None or bool(getattr(extractor, "return_attention_mask", True))


@dataclass
class Classified:
    """Probabilities in the order of the rows, and the time they took.

    probabilities_NC: float64, a row sums to 1; NaN for a row that could not be read. skipped: index of such a row →
    why. `seconds` is wall time with reading and resampling, without loading of the model; `audio_s` what was heard.
    """

    probabilities_NC: np.ndarray
    seconds: float
    audio_s: float
    skipped: dict[int, str] = field(default_factory=dict)

    @property
    def rtf(self) -> float:
        return self.seconds / self.audio_s if self.audio_s else 0.0


def read_model_type(path: str, *, trust_remote_code: bool = False) -> str:
    """The `model_type` of a folder or Hub id: cheap, so that a misspelt name costs a second.

    Raises:
        ClassifierError: no such model, or one whose code may run but is not pinned.
    """
    from transformers import PreTrainedConfig

    repo, pin = split_pin(path)
    try:
        if trust_remote_code:
            require_pin(path)
        model_type = PreTrainedConfig.get_config_dict(repo, **pin)[0].get("model_type")
        if model_type is None:
            raise ValueError("no config.json with a model_type is there")
    except (OSError, ValueError) as error:
        hint = "name a model folder (with config.json) or a Hub id"
        raise ClassifierError(f"cannot load {path}: {_first_line(error)}; {hint}") from error
    return model_type


def load_classifier(
    path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    knn: bool = True,
) -> Classifier:
    """Load a folder or Hub id (`id@revision` for one version). Our own model types never run code of the repository.

    Args:
        device: "auto" is the first GPU, else the CPU.
        dtype: "auto" keeps the checkpoint's; else "float32", "bfloat16" or "float16".
        trust_remote_code: allow a model of others to run Python files of its repository, which must be pinned.
        knn: False leaves out the k-NN datastore of a folder that has one.

    Raises:
        ClassifierError: not found, not loadable, no classifier, or a head without weights.
    """
    model_type = read_model_type(path, trust_remote_code=trust_remote_code)
    repo, pin = split_pin(path)
    options: dict[str, Any] = {"device": pick_device(device), "dtype": dtype, **pin}
    try:
        if model_type in _OURS:
            pipe = _own_pipeline(repo, model_type, knn, options)
        else:
            pipe = _stock_pipeline(repo, trust_remote_code, options)
    except _LOADING_ERRORS as error:
        raise ClassifierError(f"cannot load {path} as an audio classifier: {_first_line(error)}") from error
    except Exception as error:  # each package of ours has a CheckpointError, which shares no base with the others'
        if type(error).__name__ != "CheckpointError":
            raise
        raise ClassifierError(f"cannot load {path} as an audio classifier: {_first_line(error)}") from error
    names = pipe.model.config.id2label or {}
    labels = [str(names[index]) for index in sorted(names)]
    if len(labels) < 2:
        raise ClassifierError(f"{path} has {len(labels)} classes; a classifier tells two or more apart")
    reads_text = bool(
        getattr(pipe.model.config, "text_vocab_size", None) or getattr(pipe.model.config, "reads_text", False)
    )
    return Classifier(path, pipe, labels, reads_text)


_LOADING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError)


def _own_pipeline(repo: str, model_type: str, knn: bool, options: Mapping[str, Any]) -> Any:
    from transformers import pipeline

    package, name = _OURS[model_type]
    pipeline_class = getattr(importlib.import_module(package), name)  # importing registers the classes too
    extra: dict[str, Any] = {} if knn or model_type != "amvi_ser" else {"model_kwargs": {"knn": False}}
    return pipeline(TASK, model=repo, pipeline_class=pipeline_class, trust_remote_code=False, **options, **extra)


def _stock_pipeline(repo: str, trust_remote_code: bool, options: Mapping[str, Any]) -> Any:
    """The pipeline of a model of others, none of whose weights are made up.

    Raises:
        ValueError: the checkpoint lacks tensors, as that of an encoder lacks a head.
    """
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

    from models.ser.strict_model import OPTIONAL_ENCODER_TENSORS, plain_weights, short

    pin = {key: options[key] for key in ("revision",) if key in options}
    with plain_weights(repo):
        model, info = AutoModelForAudioClassification.from_pretrained(
            repo, trust_remote_code=trust_remote_code, dtype=options["dtype"], output_loading_info=True, **pin
        )
    missing = {name for name in info["missing_keys"] if name.rpartition(".")[2] not in OPTIONAL_ENCODER_TENSORS}
    if missing:
        raise ValueError(
            f"{len(missing)} tensors are missing ({short(missing)}): it was never trained as a classifier"
        )
    if getattr(model.config, "custom_pipelines", None):  # its pipeline class is found by name alone
        return pipeline(TASK, model=repo, trust_remote_code=trust_remote_code, **options)
    extractor = AutoFeatureExtractor.from_pretrained(repo, trust_remote_code=trust_remote_code, **pin)
    return pipeline(TASK, model=model, feature_extractor=extractor, device=options["device"])


def classify(
    classifier: Classifier,
    rows: Sequence[Mapping[str, Any]],
    *,
    batch_size: int = 8,
    progress: Callable[[int], Any] | None = None,
    knn: bool = True,
) -> Classified:
    """Probabilities of every class for rows of the schema, longest first so that a batch holds like lengths.

    Recordings longer than what the model hears at once are cut by its own pipeline.

    Args:
        rows: with `audio` (encoded, as the loaders give it), `duration_s`, and `text` where the model reads it. A row
            that cannot be read is skipped, its probabilities are NaN and `skipped` says why.
        progress: called with 1 after each utterance.
        knn: False asks a model with a k-NN datastore for its own probabilities.
    """
    order = sorted(range(len(rows)), key=lambda index: -(rows[index].get("duration_s") or 0.0))
    heard: list[int] = []
    skipped: dict[int, str] = {}
    audio_s = 0.0

    def inputs() -> Iterator[dict[str, Any]]:
        nonlocal audio_s
        for index in order:
            row = rows[index]
            try:
                audio = read_audio(row.get("audio") or {})
            except AudioError as error:
                skipped[index] = str(error)
                logger.warning("row %s is skipped: %s", row.get("id", index), error)
                continue
            heard.append(index)
            audio_s += len(audio) / SAMPLING_RATE_HZ
            yield {"raw": audio, "sampling_rate": SAMPLING_RATE_HZ} | (
                {"text": row.get("text") or ""} if classifier.reads_text else {}
            )

    options: dict[str, Any] = {"batch_size": batch_size if classifier.keeps_batches_apart else 1}
    if classifier.model_type not in _OURS:
        options["top_k"] = len(classifier.labels)  # the stock pipeline would give five
    elif classifier.has_datastore:
        options["knn"] = knn
    column = {label: index for index, label in enumerate(classifier.labels)}
    probabilities_NC = np.full((len(rows), len(column)), np.nan)
    start = time.perf_counter()
    for number, answer in enumerate(classifier.pipe(inputs(), **options)):
        line_C = np.zeros(len(column))
        for entry in answer:
            line_C[column[str(entry["label"])]] = entry["score"]
        probabilities_NC[heard[number]] = line_C / line_C.sum()
        if progress:
            progress(1)
    return Classified(probabilities_NC, time.perf_counter() - start, audio_s, skipped)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

"""A config of an emotion classifier made real: processor, model, collator, metrics, Trainer and card facts.

The functions are those that `trainers.training.Assembly` describes, for the systems fusion and emotion2vec.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from models.ser import KNNDatastore
from trainers.building import Stage, add_lora, speech_inputs_of
from trainers.checks import ConfigError
from trainers.collators import SAMPLING_RATE_HZ
from trainers.metrics.classes import class_scores
from trainers.rows import Rows, rank
from trainers.ser import SERTrainer
from trainers.ser_arguments import SERRunConfig
from trainers.ser_building import build
from trainers.ser_collator import SERCollator
from trainers.ser_rows import label_facts

__all__ = [
    "add_adapters",
    "build_collator",
    "build_metrics",
    "build_processor_and_model",
    "card_facts",
    "finish_model",
    "main_metric",
    "make_trainer",
    "needs_texts",
    "prepare_rows",
]

logger = logging.getLogger(__name__)


# Processor and model


def needs_texts(config: SERRunConfig) -> bool:
    """Whether a tokenizer of transcripts is trained."""
    fusion = config.model.fusion
    return config.reads_text and fusion.path is None and config.tokenizer.path is None


def build_processor_and_model(config: SERRunConfig, texts: Sequence[str] = ()) -> Stage:
    """See `trainers.ser_building.build`."""
    return build(config, texts)


def add_adapters(stage: Stage, config: SERRunConfig, base_folder: Path, *, save: bool) -> Any:
    """LoRA on the speech encoders; what reads them is trained in full. See `trainers.building.add_lora`."""
    model: Any = stage.model
    if config.system == "emotion2vec":
        layers, whole = r"emotion2vec\.layers\..*", ["classifier"]
    else:
        layers = r"encoders\.\w+\.model\..*"
        # By the ends of their names: encoders have parts called projection as well.
        whole = [f"projection.{name}" for name, _ in (model.projection or torch.nn.Module()).named_children()]
        whole += ["fusion", "head"]
    whole = [name for name in whole if any(True for _ in model.get_submodule(name).parameters())]
    return add_lora(stage, config, base_folder, layers, save=save, whole=whole)


def finish_model(config: SERRunConfig, trainer: SERTrainer) -> dict[str, float]:
    """Give the finished model its neighbours, the training rows as they are; its scores with them, and without.

    beta, the number of neighbours and the temperature are chosen on the validation rows, so the scores with them are
    a little too good.
    """
    if not config.knn.enabled:
        return {}
    settings, model = config.knn, trainer.model
    known = trainer.embed(trainer.train_dataset)
    store = KNNDatastore(known.embeddings_NE, known.labels_N, model.label_names)
    if trainer.eval_dataset is None:
        temperatures = settings.temperatures or [store.temperature]
        (store.beta,), (store.k,), (store.temperature,) = settings.betas, settings.neighbours, temperatures
        model.datastore = store
        return {}
    heard = trainer.embed(trainer.eval_dataset)
    options = {"betas": settings.betas, "neighbours": settings.neighbours, "temperatures": settings.temperatures}
    found = store.tune(heard.embeddings_NE, heard.logits_NC, heard.labels_N, **options)
    model.datastore = store
    final_NC = store.interpolate(heard.logits_NC.softmax(1), heard.embeddings_NE)
    scores: dict[str, float] = {}
    if trainer.compute_metrics is not None:
        final = EvalPrediction(predictions=final_NC.numpy(), label_ids=heard.labels_N.numpy())
        scores = {f"eval_{name}": value for name, value in trainer.compute_metrics(final).items()}
    scores |= {f"knn_{name}": float(found[name]) for name in ("beta", "k", "temperature")}
    scores["eval_uar_without_knn"] = float(found["uar_model"])
    trainer.log(dict(scores))
    if rank() == 0:
        words = "neighbours: beta %g, k %d, temperature %.3g; UAR %.2f %%, %.2f %% without"
        uars = 100 * found["uar"], 100 * found["uar_model"]
        logger.info(words, found["beta"], found["k"], found["temperature"], *uars)
    return scores


# Rows


def build_collator(config: SERRunConfig, stage: Stage, *, augment: bool = True) -> SERCollator:
    """The collator of a run; see `trainers.building.speech_inputs_of`."""
    inputs = speech_inputs_of(config, stage.processor.feature_extractor, augment=augment)
    numbers = {name: number for number, name in stage.model.config.id2label.items()}
    class_ids = [numbers[name] for name in config.labels]
    if config.system == "emotion2vec":
        return SERCollator(inputs, class_ids)
    specs = stage.model.config.encoder_specs
    windows = [spec.config.get("max_source_positions", 1500) for spec in specs if spec.kind == "whisper"]
    if windows:
        inputs.max_samples = min(windows) * SAMPLING_RATE_HZ // 50
    names = [spec.name for spec in specs]
    return SERCollator(inputs, class_ids, encoders=names, tokenizer=stage.processor.tokenizer)


def prepare_rows(config: SERRunConfig, stage: Stage, rows: Rows, collator: SERCollator) -> None:
    """Weighs the classes and attaches cached features, where the config asks for them; the model is on its device."""
    weights = class_weights(config, rows.train)
    if config.system == "fusion" and weights is not None:
        stage.model.config.class_weights = weights
    if collator.tokenizer is not None:
        _log_transcripts(rows)
    if not config.cache.features:
        return
    from trainers.ser_cache import FeatureCache

    cache = FeatureCache(config.cache.folder)
    # The front end as it is: nothing is augmented beside a cache.
    rows.train = cache.attach(rows.train, stage.model, collator.inputs)
    if rows.validation is not None:
        rows.validation = cache.attach(rows.validation, stage.model, collator.inputs)


def class_weights(config: SERRunConfig, rows: Any) -> list[float] | None:
    """Factors of the classes, in the order of the config; their mean over the rows is 1."""
    if config.class_weights == "none":
        return None
    counts = np.bincount(np.asarray(rows["label"]), minlength=len(config.labels)).astype(np.float64)
    factors = 1.0 / counts if config.class_weights == "balanced" else np.array(config.class_weights, dtype=np.float64)
    factors *= counts.sum() / (factors * counts).sum()
    if rank() == 0:
        shown = ", ".join(f"{name} {factor:.3f}" for name, factor in zip(config.labels, factors, strict=True))
        logger.info("class weights: %s", shown)
    return factors.tolist()


def _log_transcripts(rows: Rows) -> None:
    """How many utterances have a transcript, and a stop where none has: the model would learn to do without."""
    parts: list[tuple[str, Any]] = [("data.train", rows.train), ("data.validation", rows.validation)]
    for key, part in parts:
        if part is None:
            continue
        written = sum(bool((text or "").strip()) for text in part["text"])
        if not written and key == "data.train":
            none = "the model reads transcripts, but no row has one: name their column in `columns` of the source"
            raise ConfigError(key, none)
        if rank() == 0:
            logger.info("%s: %d of %d utterances have a transcript", key, written, len(part))


# Evaluation


def build_metrics(config: SERRunConfig, stage: Stage, rows: Any) -> Callable[[Any], dict[str, float]]:
    """UAR, accuracy, macro F1 and the recall of each class, of what the model said of `rows`, in data set order.

    Beside the overall figures `uar_<corpus>` for each corpus, where there are several that have every class.
    """
    names, classes = list(config.labels), np.asarray(rows["label"])
    corpora = np.array([str(corpus) for corpus in rows["corpus"]])
    said, known = [names[label] for label in classes], dict(stage.model.config.id2label)
    whole = [corpus for corpus in sorted(set(corpora)) if len(set(classes[corpora == corpus])) == len(names)]

    def compute(evaluated: Any) -> dict[str, float]:
        if len(evaluated.predictions) != len(said):
            raise ValueError(f"{len(evaluated.predictions)} predictions for {len(said)} utterances")
        guessed = [known[int(label)] for label in np.argmax(evaluated.predictions, axis=1)]
        scores = dict(class_scores(said, guessed, names))
        for name in names:
            own = [index for index, label in enumerate(said) if label == name]
            scores[f"recall_{name}"] = sum(guessed[index] == name for index in own) / max(len(own), 1)
        for corpus in whole if len(set(corpora)) > 1 else []:
            own = np.flatnonzero(corpora == corpus).tolist()
            part = class_scores([said[index] for index in own], [guessed[index] for index in own], names)
            scores[f"uar_{corpus}"] = part["uar"]
        return scores

    return compute


def main_metric(config: SERRunConfig) -> str:
    """The metric that picks the best checkpoint where the config names none."""
    return "uar" if config.training.predict_with_generate else "loss"


# Trainer and card


def make_trainer(config: SERRunConfig, stage: Stage, **common: Any) -> SERTrainer:
    """The Trainer of the run, from the arguments that every Trainer here takes."""
    training = config.training
    weights = None
    if config.system == "emotion2vec" and (factors := class_weights(config, common["train_dataset"])) is not None:
        known: Any = stage.model.config.id2label
        by_name = dict(zip(config.labels, factors, strict=True))
        weights = [by_name.get(known[number], 0.0) for number in range(len(known))]
    return SERTrainer(
        class_weights=weights,
        optimizer_cls_and_kwargs=training.optimizer_cls_and_kwargs,
        scaled_adam=training.optim == "scaled_adam",
        eden=training.eden,
        **common,
    )


def card_facts(config: SERRunConfig, stage: Stage) -> dict[str, Any]:
    """What the card of a checkpoint says about this system alone; `training` holds lines of its table."""
    facts: dict[str, Any] = {
        **label_facts(config.labels, config.label_maps),
        "class_weights": config.class_weights if config.class_weights != "none" else None,
        "sampling": "balanced" if config.sampling.balanced else None,
        "optimiser": config.training.optim,
        "schedule": config.training.lr_scheduler_type,
    }
    if config.system == "emotion2vec":
        path = config.model.emotion2vec.path
        return {"stage": "emotion2vec", "base_model": [path] if path else [], "training": facts}
    args, model = config.model.fusion, stage.model.config
    paths = [args.path] if args.path else [source.path for source in args.encoders if source.path]
    encoders = [f"{spec.name} ({spec.features}{', frozen' if spec.frozen else ''})" for spec in model.encoder_specs]
    facts |= {
        "encoders": ", ".join(encoders),
        "fusion": model.fusion,
        "head": model.head,
        "supcon_weight": model.supcon_weight or None,
        "supcon_temperature": model.supcon_temperature if model.supcon_weight else None,
        "label_smoothing": model.label_smoothing or None,
    }
    store = getattr(stage.model, "datastore", None)
    if store is not None:
        facts |= {"knn_beta": store.beta, "knn_neighbours": store.k, "knn_temperature": store.temperature}
    return {"stage": "ser", "base_model": paths, "training": facts}

"""A config of a recogniser made real: processor, model, collator, metrics, Trainer and card facts of each system.

The functions are those that `trainers.training.Assembly` describes. A system is a module of `models` or of
transformers; what they have in common is the protocol of `trainers.transducer`, or generation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from models.fastconformer import (
    FastConformerConfig,
    FastConformerFeatureExtractor,
    FastConformerForASR,
    FastConformerProcessor,
)
from models.fastconformer import check_compatible as check_fastconformer
from models.tspc.strict_model import whole_tensors
from models.zipformer import ZipformerConfig, ZipformerFeatureExtractor, ZipformerForASR, ZipformerProcessor
from models.zipformer import check_compatible as check_zipformer
from trainers.aligned import AlignedCollator, PieceLabels
from trainers.asr_arguments import ASRConfig
from trainers.asr_rows import prepare_rows
from trainers.averaging import REFERENCE_S, AverageCallback, BatchCountCallback
from trainers.building import CHECKPOINT_ERRORS, Stage, add_lora, check_kind, load_part, speech_inputs_of
from trainers.checks import ConfigError
from trainers.collators import IGNORED
from trainers.metrics import codeswitch_error_rates, error_rates
from trainers.pins import split_pin
from trainers.seq2seq import SpeechSeq2SeqTrainer
from trainers.tokenizers import check_bpe, train_bpe
from trainers.transducer import TransducerTrainer
from trainers.whisper import WhisperCollator, build_whisper
from trainers.whisper_ctc import finished_whisper
from trainers.whisper_guards import guarded_generate, loops_per_1000

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

METRICS = ("wer", "syer", "cer", "wer_vi", "wer_en", "wer_switch")
FASTCONFORMERS = (FastConformerConfig.model_type, "parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")


# Processor and model


def needs_texts(config: ASRConfig) -> bool:
    """The training texts are always read: to train a tokenizer, or to check that one can write them."""
    return True


def build_processor_and_model(config: ASRConfig, texts: Sequence[str] = ()) -> Stage:
    """The processor and the model that a run starts with.

    Args:
        texts: training texts.

    Raises:
        ConfigError: a path that is no such model, or sizes that make none.
        TokenizerError: a tokenizer that cannot write the texts, or has no tone marks.
    """
    with whole_tensors():
        if config.system == "zipformer":
            return _zipformer(config, texts)
        if config.system == "fastconformer":
            return _fastconformer(config, texts)
        return Stage(*build_whisper(config.model.whisper, texts))


def _zipformer(config: ASRConfig, texts: Sequence[str]) -> Stage:
    args, key = config.model.zipformer, "model.zipformer"
    if args.path is not None:
        check_kind(args.path, [ZipformerConfig.model_type], f"{key}.path")
        processor = load_part(ZipformerProcessor, args.path, f"{key}.path")
        model = load_part(ZipformerForASR, args.path, f"{key}.path")
        check_bpe(processor.tokenizer, texts, name=args.path)
    else:
        tokenizer = _tokenizer(config, texts)
        fields = {
            "vocab_size": len(tokenizer),
            "blank_token_id": tokenizer.pad_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "training_loss": args.training_loss,
            "ctc_weight": args.ctc_weight,
            "transducer_weight": args.transducer_weight,
            "simple_loss_scale": args.simple_loss_scale,
            "prune_range": args.prune_range,
            "loss_warmup_batches": args.loss_warmup_batches,
            "warmup_batches": args.warmup_batches,
            "shape_gradients": args.shape_gradients,
            "default_search": args.search,
        }
        try:
            model = ZipformerForASR(ZipformerConfig.preset(args.size, **fields, **args.sizes.given()))
        except ValueError as error:
            raise ConfigError(key, str(error)) from error
        processor = ZipformerProcessor(ZipformerFeatureExtractor(model.config.num_mel_bins), tokenizer)
    _check(check_zipformer, model, processor, key)
    return Stage(processor, model)


def _fastconformer(config: ASRConfig, texts: Sequence[str]) -> Stage:
    args, key = config.model.fastconformer, "model.fastconformer"
    if args.path is not None:
        check_kind(args.path, FASTCONFORMERS, f"{key}.path")
        processor = load_part(_FastConformerProcessor, args.path, f"{key}.path")
        model = load_part(FastConformerForASR, args.path, f"{key}.path")
        check_bpe(processor.tokenizer, texts, name=args.path)
    else:
        tokenizer = _tokenizer(config, texts)
        fields: dict[str, Any] = {
            "vocab_size": len(tokenizer),
            "blank_token_id": tokenizer.pad_token_id,
            "head": args.head,
            "ctc_weight": args.ctc_weight,
            "attention_context": args.attention_context,
            "global_tokens": args.global_tokens,
            "dropout": args.dropout,
            "attention_dropout": args.dropout,
            "activation_dropout": args.dropout,
            "layerdrop": args.layerdrop,
            "sync_batch_norm": args.sync_batch_norm,
        }
        decoder = ("decoder_hidden_size", "num_decoder_layers")
        try:
            if args.encoder is not None:
                check_kind(args.encoder, FASTCONFORMERS, f"{key}.encoder")
                repo, pin = split_pin(args.encoder)
                fields |= {name: value for name, value in args.sizes.given().items() if name in decoder}
                model = FastConformerForASR.from_pretrained_encoder(repo, fields, **pin)
                extractor = FastConformerFeatureExtractor.from_pretrained(repo, **pin)
            else:
                model = FastConformerForASR(FastConformerConfig.preset(args.size, **fields, **args.sizes.given()))
                extractor = FastConformerFeatureExtractor(feature_size=model.config.num_mel_bins)
        except (OSError, ValueError, *CHECKPOINT_ERRORS) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{key}.encoder" if args.encoder else key, str(error)) from error
        processor = FastConformerProcessor(extractor, tokenizer)
    if args.freeze_encoder:
        model.freeze_encoder()
    _check(check_fastconformer, model, processor, key)
    return Stage(processor, model)


class _FastConformerProcessor:
    """Loads the processor of a FastConformer, or of a stock Parakeet."""

    @staticmethod
    def from_pretrained(path: str, **hub: Any) -> FastConformerProcessor:
        return FastConformerProcessor.from_parakeet(path, **hub)


def _tokenizer(config: ASRConfig, texts: Sequence[str]) -> Any:
    path = config.tokenizer.path
    if path is None:
        return train_bpe(texts, config.tokenizer.bpe_vocab_size)
    tokenizer = load_part(AutoTokenizer, path, "tokenizer.path")
    check_bpe(tokenizer, texts, name=path)
    return tokenizer


def _check(check: Callable[..., None], model: Any, processor: Any, key: str) -> None:
    try:
        check(model.config, feature_extractor=processor.feature_extractor, tokenizer=processor.tokenizer)
    except ValueError as error:
        raise ConfigError(key, str(error)) from error


def add_adapters(stage: Stage, config: ASRConfig, base_folder: Path, *, save: bool) -> Any:
    """LoRA on encoder and decoder of a Whisper. See `trainers.building.add_lora`."""
    return add_lora(stage, config, base_folder, r"(model\.)?(encoder|decoder)\..*", save=save)


def finish_model(config: ASRConfig, trainer: Any) -> dict[str, float]:
    """Take what only training needs from a Whisper; no score changes."""
    if config.system == "whisper":
        trainer.model = finished_whisper(trainer.model)
    return {}


# Rows


def build_collator(config: ASRConfig, stage: Stage, *, augment: bool = True) -> Any:
    """The collator of a run; see `trainers.building.speech_inputs_of`."""
    inputs = speech_inputs_of(config, stage.processor.feature_extractor, augment=augment)
    if config.system != "whisper":
        return AlignedCollator(inputs, PieceLabels(stage.processor.tokenizer, stage.model.config.vocab_size))
    return WhisperCollator(
        inputs,
        stage.processor.tokenizer,
        timestamp_share=config.model.whisper.timestamp_share,
        max_labels=stage.model.config.max_target_positions,
        seed=config.training.seed,
    )


# Evaluation


def build_metrics(config: ASRConfig, stage: Stage, rows: Any) -> Callable[[Any], dict[str, float]]:
    """Error rates of what the model recognised in `rows`, in data set order, against their text.

    Beside the overall figures `wer_<corpus>` for each corpus where there are several, and `loops`: hypotheses of 1,000
    that repeat a phrase over and over.
    """
    texts, spans, corpora = list(rows["text"]), list(rows["spans"]), list(rows["corpus"])
    several = len(set(corpora)) > 1

    def compute(evaluated: Any) -> dict[str, float]:
        if len(evaluated.predictions) != len(texts):
            raise ValueError(f"{len(evaluated.predictions)} predictions for {len(texts)} utterances")
        tokenizer = stage.processor.tokenizer
        ids = [[int(token) for token in one if token != IGNORED] for one in evaluated.predictions]
        heard = tokenizer.batch_decode(ids, skip_special_tokens=True)
        scores = error_rates(texts, heard)
        if any(spans):
            scores = {**scores, **codeswitch_error_rates(texts, heard, spans)}
        scores = {name: scores[name] for name in METRICS if name in scores}
        for corpus in sorted({str(name) for name in corpora}) if several else []:
            own = [index for index, name in enumerate(corpora) if str(name) == corpus]
            scores[f"wer_{corpus}"] = error_rates([texts[i] for i in own], [heard[i] for i in own])["wer"]
        return {**scores, "loops": loops_per_1000(heard)}

    return compute


def main_metric(config: ASRConfig) -> str:
    """The metric that picks the best checkpoint where the config names none."""
    return "wer" if config.training.predict_with_generate else "loss"


# Trainer and card


def make_trainer(config: ASRConfig, stage: Stage, **common: Any) -> Any:
    """The Trainer of the run, from the arguments that every Trainer here takes."""
    training = config.training
    options = {
        **common,
        "optimizer_cls_and_kwargs": training.optimizer_cls_and_kwargs,
        "scaled_adam": training.optim == "scaled_adam",
        "eden": training.eden,
    }
    if config.system == "whisper":
        guards = config.model.whisper.guards
        trainer: Any = SpeechSeq2SeqTrainer(**options, generate=guarded_generate if guards else None)
    else:
        search: dict[str, Any] = {"search": config.decoding.search}
        if "beam" in config.decoding.search:
            search["beam_size"] = config.decoding.beam_size
        trainer = TransducerTrainer(**options, search=search)
    if hasattr(stage.model, "set_batch_count"):
        seconds = seconds_per_step(config, common["train_dataset"], trainer.args)
        speed = REFERENCE_S / config.model.zipformer.schedule_batch_s
        trainer.add_callback(BatchCountCallback(None if seconds is None else seconds * speed))
    if config.averaging.period:
        average = config.averaging
        trainer.add_callback(AverageCallback(trainer, period=average.period, start=average.start, keep=average.keep))
    return trainer


def seconds_per_step(config: ASRConfig, rows: Any, args: Any) -> float | None:
    """Audio of one optimiser step of all ranks; None where it is not known beforehand."""
    batches = args.world_size * args.gradient_accumulation_steps
    if config.batch_budget is not None:
        return config.batch_budget * batches
    if not hasattr(rows, "__len__"):
        return None
    return float(np.mean(rows["duration_s"])) * args.per_device_train_batch_size * batches


def card_facts(config: ASRConfig, stage: Stage) -> dict[str, Any]:
    """What the card of a checkpoint says about this system alone; `training` holds lines of its table."""
    model = getattr(config.model, config.system)
    base = model.path or getattr(model, "encoder", None)
    period = config.averaging.period
    return {
        "base_model": [base] if base else [],
        "training": {
            "loss": _loss_in_words(config),
            "optimiser": config.training.optim,
            "schedule": config.training.lr_scheduler_type,
            "vocabulary_size": stage.model.config.vocab_size,
            "averaging": f"every {period} steps from {config.averaging.start:.0%} of the run on" if period else None,
        },
    }


def _loss_in_words(config: ASRConfig) -> str | None:
    """What a model that is built here minimises; None for one that brings its own loss."""
    args = getattr(config.model, config.system)
    if config.system == "whisper":
        return f"cross entropy + {args.ctc_weight:g} CTC" if args.ctc_weight else "cross entropy"
    if args.path is not None:
        return None
    if config.system == "fastconformer":
        name = {"ctc": "CTC", "rnnt": "RNN-T", "tdt": "TDT"}[args.head]
        return f"{1 - args.ctc_weight:g} {name} + {args.ctc_weight:g} CTC" if args.ctc_weight else name
    if args.training_loss == "ctc":
        return "CTC"
    if args.transducer_weight is not None:
        return f"{args.transducer_weight:g} {args.training_loss} RNN-T + {1 - args.transducer_weight:g} CTC"
    return f"{args.training_loss} RNN-T" + (f" + {args.ctc_weight:g} CTC" if args.ctc_weight else "")

"""A config of TSPC made real: processor, model, collator, caches, metrics, Trainer and card facts of a stage.

The functions are those that `trainers.training.Assembly` describes. Training and evaluation build everything through
them, so a key of the config means the same in both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from data_scripts.text.g2p import G2P
from data_scripts.text.phonemes import phoneme_symbols
from models.tspc import (
    P2TConfig,
    P2TForConditionalGeneration,
    S2PConfig,
    S2PForConditionalGeneration,
    S2PProcessor,
    TSPCForConditionalGeneration,
    TSPCProcessor,
    build_phoneme_tokenizer,
    check_compatible,
)
from models.tspc.strict_model import whole_tensors
from trainers.arguments import Config
from trainers.building import Stage, add_lora, load_part, speech_inputs_of
from trainers.checks import ConfigError
from trainers.collators import P2TCollator, PhonemeLabels, S2PCollator, TextLabels, TSPCCollator
from trainers.datasets_map import with_phoneme_counts
from trainers.encoders import encoder_from_sizes, feature_extractor_of
from trainers.metrics import codeswitch_error_rates, error_rates, phoneme_error_rate
from trainers.pins import split_pin
from trainers.rows import Rows
from trainers.seq2seq import SpeechSeq2SeqTrainer
from trainers.tokenizers import check_text_tokenizer, train_text_tokenizer

IGNORED = -100
PHONEME_FOLDER = "phoneme_tokenizer"


@dataclass
class P2TTokenizers:
    """Both tokenizers of P2T, saved as TSPC's processor saves them: text in the folder, phonemes in a sub-folder."""

    tokenizer: Any
    phoneme_tokenizer: Any

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Write both."""
        self.tokenizer.save_pretrained(folder)
        self.phoneme_tokenizer.save_pretrained(Path(folder) / PHONEME_FOLDER)

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs: Any) -> "P2TTokenizers":
        """Read both, from a folder or the Hub."""
        return cls(
            AutoTokenizer.from_pretrained(folder, **kwargs),
            AutoTokenizer.from_pretrained(folder, subfolder=PHONEME_FOLDER, **kwargs),
        )


def needs_texts(config: Config) -> bool:
    """Whether the training texts are read: p2t trains or checks its tokenizer with them."""
    return config.is_text


def build_processor_and_model(config: Config, texts: Sequence[str] = ()) -> Stage:
    """The processor and the model that a run starts with.

    Args:
        texts: training texts, for the tokenizer of a p2t that is trained from scratch or to check a pre-trained one.

    Raises:
        ConfigError: a path that is no such model, or stages that do not fit each other or the config.
        TokenizerError: a text tokenizer that cannot write the texts.
    """
    build = {"s2p": _build_s2p, "p2t": lambda c: _build_p2t(c, texts), "joint": _build_joint}[config.stage]
    with whole_tensors():
        stage = build(config)
    _check_fit(config, stage)
    if config.model.attn_implementation != "sdpa":
        stage.model.set_attn_implementation(config.model.attn_implementation)
    return stage


def _build_s2p(config: Config) -> Stage:
    args = config.model.s2p
    if args.path is not None:
        processor = load_part(S2PProcessor, args.path, "model.s2p.path")
        model = load_part(S2PForConditionalGeneration, args.path, "model.s2p.path")
        _check_register(config, processor.tokenizer, "model.s2p.path")
    else:
        tokenizer = build_phoneme_tokenizer(phoneme_symbols(config.model.register))
        fields = {
            "decoder_type": args.decoder,
            "vocab_size": len(tokenizer),
            "d_model": args.d_model,
            "decoder_layers": args.num_layers,
            "decoder_attention_heads": args.num_heads,
            "decoder_ffn_dim": args.ffn_dim,
            "dropout": args.dropout,
            "max_target_positions": args.max_phonemes,
            "encoder_window": args.encoder_window,
            "ctc_weight": args.ctc_weight,
            # Adapters come with copies of the decoder and of the output layer, which cannot stay tied.
            "tie_word_embeddings": config.lora.rank == 0,
        }
        if args.encoder is not None:
            extractor = feature_extractor_of(args.encoder)
            repo, pin = split_pin(args.encoder)
            try:
                model = S2PForConditionalGeneration.from_pretrained_encoder(repo, fields, **pin)
            except (OSError, ValueError) as error:
                raise ConfigError("model.s2p.encoder", str(error)) from error
        else:
            encoder_config, extractor = encoder_from_sizes(args.encoder_sizes)
            try:
                model = S2PForConditionalGeneration(S2PConfig(encoder_config=encoder_config, **fields))
            except ValueError as error:
                raise ConfigError("model.s2p", str(error)) from error
        processor = S2PProcessor(extractor, tokenizer)
    if args.freeze_encoder:
        model.freeze_encoder()
    return Stage(processor, model)


def _build_p2t(config: Config, texts: Sequence[str]) -> Stage:
    args = config.model.p2t
    if args.path is not None:
        tokenizers = load_part(P2TTokenizers, args.path, "model.p2t.path")
        _check_register(config, tokenizers.phoneme_tokenizer, "model.p2t.path")
        return Stage(tokenizers, load_part(P2TForConditionalGeneration, args.path, "model.p2t.path"))
    phoneme_tokenizer = build_phoneme_tokenizer(phoneme_symbols(config.model.register))
    if args.pretrained is not None:
        tokenizer = load_part(AutoTokenizer, args.pretrained, "model.p2t.pretrained")
        check_text_tokenizer(tokenizer, texts, name=args.pretrained)
        overrides = {"dropout_rate": args.dropout}
        repo, pin = split_pin(args.pretrained)
        try:
            model = P2TForConditionalGeneration.from_pretrained_t5(repo, len(phoneme_tokenizer), overrides, **pin)
        except (OSError, ValueError) as error:
            raise ConfigError("model.p2t.pretrained", str(error)) from error
    else:
        tokenizer = train_text_tokenizer(texts, args.text_vocab_size)
        model = P2TForConditionalGeneration(
            P2TConfig(
                vocab_size=len(tokenizer),
                phoneme_vocab_size=len(phoneme_tokenizer),
                d_model=args.d_model,
                d_ff=args.d_ff,
                d_kv=args.d_kv,
                num_layers=args.num_layers,
                num_decoder_layers=args.num_decoder_layers,
                num_heads=args.num_heads,
                dropout_rate=args.dropout,
            )
        )
    return Stage(P2TTokenizers(tokenizer, phoneme_tokenizer), model)


def _build_joint(config: Config) -> Stage:
    s2p_path, p2t_path = str(config.model.s2p.path), str(config.model.p2t.path)
    s2p_processor = load_part(S2PProcessor, s2p_path, "model.s2p.path")
    tokenizers = load_part(P2TTokenizers, p2t_path, "model.p2t.path")
    _check_register(config, s2p_processor.tokenizer, "model.s2p.path")
    _check_register(config, tokenizers.phoneme_tokenizer, "model.p2t.path")
    s2p = load_part(S2PForConditionalGeneration, s2p_path, "model.s2p.path")
    p2t = load_part(P2TForConditionalGeneration, p2t_path, "model.p2t.path")
    model = TSPCForConditionalGeneration.from_stages(s2p, p2t)
    model.freeze(config.model.joint.decoder)
    extractor = s2p_processor.feature_extractor
    return Stage(TSPCProcessor(extractor, tokenizers.tokenizer, tokenizers.phoneme_tokenizer), model)


def _check_register(config: Config, tokenizer: Any, key: str) -> None:
    """The tokenizer of a trained stage is that of the config's phoneme register."""
    expected = build_phoneme_tokenizer(phoneme_symbols(config.model.register)).get_vocab()
    found = tokenizer.get_vocab()
    if found != expected:
        raise ConfigError(
            "model.register",
            f"is {config.model.register}, with {len(expected)} phoneme tokens, but the model of {key} has "
            f"{len(found)} others; set the register it was trained with",
        )


def _check_fit(config: Config, stage: Stage) -> None:
    """Every id that the tokenizers can give has its row in the model's embeddings."""
    parts = {"tokenizer": stage.processor.tokenizer}
    if config.stage != "s2p":
        parts["phoneme_tokenizer"] = stage.processor.phoneme_tokenizer
    try:
        check_compatible(stage.model.config, **parts)
    except ValueError as error:
        raise ConfigError({"s2p": "model.s2p", "p2t": "model.p2t"}.get(config.stage, "model"), str(error)) from error


def add_adapters(stage: Stage, config: Config, base_folder: Path, *, save: bool) -> Any:
    """LoRA on the speech encoder of S2P; decoder and heads are trained in full. See `trainers.building.add_lora`."""
    model: Any = stage.model
    if model.config.tie_word_embeddings:
        model.config.tie_word_embeddings = False
        model.proj_out.weight = torch.nn.Parameter(model.proj_out.weight.detach().clone())
    whole = ["decoder", "proj_out"] + (["ctc_head"] if model.ctc_head is not None else [])
    return add_lora(stage, config, base_folder, r"encoder\..*", save=save, whole=whole)


def finish_model(config: Config, trainer: Any) -> dict[str, float]:
    """Nothing: the model is published as it was trained."""
    return {}


def build_collator(config: Config, stage: Stage, *, augment: bool = True) -> Any:
    """The collator of a stage.

    Args:
        augment: whether training rows are augmented as `data.augmentation` says.

    Raises:
        ConfigError: a folder of noise or rooms without readable audio.
    """
    seed = config.training.seed
    if config.stage == "p2t":
        labels = PhonemeLabels(G2P(config.model.register), stage.processor.phoneme_tokenizer)
        text = TextLabels(stage.processor.tokenizer, stage.model.config.vocab_size)
        data = config.data
        changes = {"noise": data.phoneme_noise, "shuffle": data.word_shuffle}
        return P2TCollator(labels, text, **changes, seed=seed, dialect=data.dialect)
    inputs = speech_inputs_of(config, stage.processor.feature_extractor, augment=augment)
    if config.stage == "joint":
        return TSPCCollator(inputs, TextLabels(stage.processor.tokenizer, stage.model.config.vocab_size))
    labels = PhonemeLabels(G2P(config.model.register), stage.processor.tokenizer)
    return S2PCollator(inputs, labels, stage.model.config.max_target_positions)


def prepare_rows(config: Config, stage: Stage, rows: Rows, collator: Any) -> None:
    """Counts the phonemes of text rows, by which they are batched, and attaches the caches that the config asks for.

    The model must be on its device.
    """
    for part in ("train", "validation"):
        found = getattr(rows, part)
        if found is not None and config.is_text:
            found = with_phoneme_counts(found, collator.phonemes)
        setattr(rows, part, attach_cache(config, stage, found, collator))


def attach_cache(config: Config, stage: Stage, rows: Any, collator: Any) -> Any:
    """The rows with outputs of the frozen part in place of audio, where the config asks for a cache."""
    from trainers.cache import EncoderCache, S2POutputCache

    if rows is None or not (config.cache.encoder_states or config.cache.s2p_outputs):
        return rows
    kind = EncoderCache if config.cache.encoder_states else S2POutputCache
    return kind(config.cache.folder).attach(rows, stage.model, collator.inputs)


def build_metrics(config: Config, stage: Stage, rows: Any) -> Callable[[Any], dict[str, float]]:
    """Error rates of what the model generated for `rows`, in data set order, against their text."""
    texts, spans = list(rows["text"]), list(rows["spans"])

    def of_text(predictions: Any) -> dict[str, float]:
        tokenizer = stage.processor.tokenizer
        ids = predictions.copy()
        ids[ids == IGNORED] = tokenizer.pad_token_id
        heard = tokenizer.batch_decode(ids, skip_special_tokens=True)
        scores = error_rates(texts, heard)
        if any(spans):
            scores = {**scores, **codeswitch_error_rates(texts, heard, spans)}
        return {name: scores[name] for name in TEXT_METRICS if name in scores}

    def of_phonemes(predictions: Any, labels: Any) -> dict[str, float]:
        symbols = stage.processor.tokenizer.convert_ids_to_tokens
        heard, said = (
            [symbols([int(i) for i in row if i != IGNORED]) for row in batch] for batch in (predictions, labels)
        )
        return phoneme_error_rate(said, heard, register=config.model.register)

    def compute(evaluated: Any) -> dict[str, float]:
        if len(evaluated.predictions) != len(texts):
            raise ValueError(f"{len(evaluated.predictions)} predictions for {len(texts)} utterances")
        if config.stage == "s2p":
            return of_phonemes(evaluated.predictions, evaluated.label_ids)
        return of_text(evaluated.predictions)

    return compute


TEXT_METRICS = ("wer", "syer", "cer", "wer_vi", "wer_en", "wer_switch")


def main_metric(config: Config) -> str:
    """The metric that picks the best checkpoint where the config names none."""
    if not config.training.predict_with_generate:
        return "loss"
    return f"per_{config.model.register}" if config.stage == "s2p" else "wer"


def make_trainer(config: Config, stage: Stage, **common: Any) -> SpeechSeq2SeqTrainer:
    """The Trainer of the run, from the arguments that every Trainer here takes."""
    training = config.training
    return SpeechSeq2SeqTrainer(
        optimizer_cls_and_kwargs=training.optimizer_cls_and_kwargs,
        scaled_adam=training.optim == "scaled_adam",
        eden=training.eden,
        **common,
    )


def card_facts(config: Config, stage: Stage) -> dict[str, Any]:
    """What the card of a checkpoint says about this stage alone; `training` holds lines of its table."""
    s2p, p2t = config.model.s2p, config.model.p2t
    bases = {"s2p": [s2p.path or s2p.encoder], "p2t": [p2t.path or p2t.pretrained], "joint": [s2p.path, p2t.path]}
    return {
        "base_model": [base for base in bases[config.stage] if base],
        "register": config.model.register,
        "training": {
            "decoder": config.model.joint.decoder if config.stage == "joint" else None,
            "encoder_window": s2p.encoder_window if config.stage == "s2p" else None,
        },
    }

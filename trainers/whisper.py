"""Whisper with transformers' own classes: built from a checkpoint or from scratch, and taught Vietnamese text.

The recipe of the fourth-placed team of VLSP 2025 (section 3.4 of the overview): a general mixture first, then the data
of the domain. Targets are those of the well-known recipe, prompt included:

    <|startoftranscript|><|vi|><|transcribe|><|notimestamps|> xin chào <|endoftext|>

What is saved is a stock `WhisperForConditionalGeneration`, with language and task in its generation config.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from models.tspc.strict_model import plain_weights
from trainers.checks import ConfigError
from trainers.collators import IGNORED, Batch, Row, RowError, SpeechInputs, pad_ids, row_rng
from trainers.pins import split_pin
from trainers.tokenizers import TokenizerError, check_text_tokenizer
from trainers.whisper_ctc import WhisperWithCTC
from trainers.whisper_guards import STOCK_FALLBACK

logger = logging.getLogger(__name__)

TASK = "transcribe"
FRAME_S = 0.01
# Of the encoder's states and of the time tokens; transformers has it written into its code.
STATE_S = 0.02
MAX_LABELS = 448
# Digital silence in the extractor's features, (log10 1e-10 + 4) / 4, and how far below the maximum it clamps.
SILENCE, DYNAMIC_RANGE = -1.5, 2.0
SPECIAL = (
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
"""Special tokens of a multilingual Whisper after <|endoftext|>, in the order that transformers counts on."""


def build_whisper(args: Any, texts: Sequence[str] = (), key: str = "model.whisper") -> tuple[WhisperProcessor, Any]:
    """The processor and the model that a run starts with.

    Args:
        args: `WhisperArguments`.
        texts: normalised training texts: for the tokenizer of a model from scratch, to check that of another.
        key: of `args` in the config, for messages.

    Returns:
        `(WhisperProcessor, WhisperForConditionalGeneration)`; the model in float32, frozen as `args` says.

    Raises:
        ConfigError: no Whisper there, one for English alone, or a language that it does not know.
        TokenizerError: a tokenizer that cannot write the texts.
    """
    if args.language not in LANGUAGES:
        raise ConfigError(f"{key}.language", f"{args.language!r} is no language of Whisper, such as vi or en")
    if args.path is None:
        processor, model = _from_scratch(args, texts, key)
    else:
        processor, model = _pretrained(args, key)
        if texts:
            check_text_tokenizer(processor.tokenizer, texts, name=args.path)
    set_prompt(processor.tokenizer, args.language, key)
    knows_times = args.path is not None or args.timestamp_share > 0
    fix_generation(model, processor.tokenizer, args.language, knows_times=knows_times)
    if args.freeze_encoder:
        model.freeze_encoder()
    return processor, model


def set_prompt(tokenizer: Any, language: str, key: str) -> None:
    """Make the tokenizer begin texts with the prompt of a language.

    Raises:
        ConfigError: its special tokens are not those of a multilingual Whisper, in their order.
    """
    wanted = ["<|startoftranscript|>", f"<|{language}|>", f"<|{TASK}|>", "<|notimestamps|>"]
    if set(wanted) <= set(tokenizer.get_vocab()):
        tokenizer.set_prefix_tokens(language=language, task=TASK, predict_timestamps=False)
    # transformers computes the language's id from its place in the list of languages.
    if tokenizer.convert_ids_to_tokens(tokenizer("").input_ids[:-1]) != wanted:
        raise ConfigError(f"{key}.path", f"the tokenizer cannot write {''.join(wanted)}; take a multilingual Whisper")


def _pretrained(args: Any, key: str) -> tuple[WhisperProcessor, Any]:
    repo, pin = split_pin(args.path)
    try:
        processor = WhisperProcessor.from_pretrained(repo, **pin)
        with plain_weights(args.path):
            loaded: Any = WhisperForConditionalGeneration.from_pretrained(
                repo, dtype=torch.float32, dropout=args.dropout, output_loading_info=True, **pin
            )
            model, info = loaded
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}.path", f"cannot load {args.path} as a Whisper: {error}") from error
    if info["missing_keys"]:
        raise ConfigError(f"{key}.path", f"{args.path} lacks weights of a Whisper: {sorted(info['missing_keys'])[:3]}")
    if len(processor.tokenizer) > model.config.vocab_size:
        message = (
            f"the tokenizer of {args.path} has {len(processor.tokenizer)} tokens, its model {model.config.vocab_size}"
        )
        raise ConfigError(f"{key}.path", f"{message}; they come from different checkpoints")
    return processor, model


def _from_scratch(args: Any, texts: Sequence[str], key: str) -> tuple[WhisperProcessor, Any]:
    if not texts:
        raise ConfigError(f"{key}.path", "is null, and there are no training texts to make a tokenizer of")
    tokenizer: Any = train_whisper_tokenizer(texts, args.vocab_size, args.window_s)
    end = tokenizer.eos_token_id
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=args.num_mel_bins,
        d_model=args.d_model,
        encoder_layers=args.encoder_layers,
        decoder_layers=args.decoder_layers,
        encoder_attention_heads=args.num_heads,
        decoder_attention_heads=args.num_heads,
        encoder_ffn_dim=args.ffn_dim,
        decoder_ffn_dim=args.ffn_dim,
        dropout=args.dropout,
        max_source_positions=round(args.window_s / STATE_S),
        max_target_positions=MAX_LABELS,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("<|startoftranscript|>"),
        begin_suppress_tokens=None,
    )
    model = WhisperWithCTC(config, args.ctc_weight) if args.ctc_weight else WhisperForConditionalGeneration(config)
    scale_up(model)
    extractor = WhisperFeatureExtractor(feature_size=args.num_mel_bins, chunk_length=args.window_s)
    return WhisperProcessor(extractor, tokenizer), model


@torch.no_grad()
def scale_up(model: torch.nn.Module) -> None:
    """Initialise layers for training from scratch.

    transformers draws every tensor with a deviation of 0.02: what the convolutions hear would come out fifteen times
    smaller than the positions that are added to it, and be found late or never.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, torch.nn.Linear) and not name.endswith("proj_out"):  # tied to the embeddings
            torch.nn.init.xavier_uniform_(module.weight)


def train_whisper_tokenizer(texts: Sequence[str], vocab_size: int, window_s: int = 30) -> WhisperTokenizer:
    """A byte-level BPE of the texts with the special tokens of a multilingual Whisper, in their order.

    Args:
        texts: normalised.
        vocab_size: pieces of text, from 256 bytes on; prompt and time tokens come on top.
        window_s: the last time token.

    Raises:
        TokenizerError: no texts, or too few pieces.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if vocab_size < 256:
        raise TokenizerError(f"vocab_size is {vocab_size}; the bytes alone need 256")
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learned.train_from_iterator(texts, trainer)
    pieces = json.loads(learned.to_str())["model"]
    tokenizer = WhisperTokenizer(
        vocab=pieces["vocab"],
        merges=[tuple(pair) for pair in pieces["merges"]],
        # The first word of a text is then the same piece as elsewhere; published Whispers begin with a space, too.
        add_prefix_space=True,
        pad_token="<|endoftext|>",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens([f"<|{index * STATE_S:.2f}|>" for index in range(round(window_s / STATE_S) + 1)])
    check_text_tokenizer(tokenizer, texts, name="the trained tokenizer")
    return tokenizer


def fix_generation(model: Any, tokenizer: Any, language: str, *, knows_times: bool = True) -> None:
    """Write language, task and what generation needs into the generation config, where `pipeline()` finds it.

    Args:
        knows_times: whether the model was ever taught time tokens.

    Old checkpoints name the prompt as `forced_decoder_ids`, in the model's config even, and would go on to force the
    language that they were made with, or to guess one for each clip.
    """
    ids = tokenizer.get_vocab()
    settings = model.generation_config
    # Marked as derived from the model's config it would be derived again, without all of this, by whoever loads it.
    settings._from_model_config = False
    end = tokenizer.eos_token_id
    settings.bos_token_id = settings.eos_token_id = end
    settings.pad_token_id = model.config.pad_token_id if model.config.pad_token_id is not None else end
    settings.decoder_start_token_id = model.config.decoder_start_token_id
    settings.is_multilingual = True
    settings.lang_to_id = {f"<|{code}|>": ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in ids}
    settings.task_to_id = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate")}
    settings.no_timestamps_token_id = ids["<|notimestamps|>"]
    settings.prev_sot_token_id = ids["<|startofprev|>"]
    settings.language, settings.task = f"<|{language}|>", TASK
    settings.forced_decoder_ids = None
    model.config.forced_decoder_ids = None
    # None: recordings longer than the window turn to time tokens by themselves; False refuses them.
    settings.return_timestamps = None if knows_times else False
    settings.max_length = model.config.max_target_positions
    # All of `whisper_guards.STOCK_FALLBACK` that works from here: it counts as soon as a call brings temperatures.
    settings.compression_ratio_threshold = STOCK_FALLBACK["compression_ratio_threshold"]
    if getattr(settings, "max_initial_timestamp_index", None) is None:
        settings.max_initial_timestamp_index = round(1 / STATE_S)
    if not settings.suppress_tokens:
        # Nothing of a prompt is ever part of a text.
        settings.suppress_tokens = sorted(ids[token] for token in SPECIAL if token in ids)
    if getattr(settings, "alignment_heads", None) is None:
        # As the authors of Whisper do for models whose best heads nobody has looked for.
        layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
        settings.alignment_heads = [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]


def label_length(tokenizer: Any, text: str) -> int:
    """Places of the decoder that a text takes with prompt and times; `max_target_positions` is the limit."""
    # Of <|startoftranscript|> … <|endoftext|> the decoder reads all but the last; two time tokens replace one token.
    return len(tokenizer(text).input_ids)


class WhisperCollator:
    """Audio → text, as Whisper wants them.

    Two rows, "ta" and "xin chào", and the names of their label ids:

    ```python
    {
        "input_features": tensor of shape (2, 80, 3000),  # the whole window, silence included
        "attention_mask": tensor of shape (2, 3000),      # which frames are the recording
        "labels": [["<|vi|>", "<|transcribe|>", "<|notimestamps|>", "ta", "<|endoftext|>", -100],
                   ["<|vi|>", "<|transcribe|>", "<|notimestamps|>", "xin", " chào", "<|endoftext|>"]],
    }
    ```

    The model shifts the labels to the right and puts <|startoftranscript|> in front, so it is not among them.

    Args:
        inputs (`SpeechInputs`): makes the features of the true frames, augmented in training.
        tokenizer: a `WhisperTokenizer` whose prefix tokens are set.
        timestamp_share (`float`): share of training targets with <|0.00|> and the time of the end around the text in
            place of <|notimestamps|>.
        max_labels (`int`): places of the decoder.
        seed (`int`): chooses the targets with times.

    Raises:
        RowError: a text that does not fit the decoder, or audio as `SpeechInputs` says.
    """

    def __init__(
        self,
        inputs: SpeechInputs,
        tokenizer: Any,
        *,
        timestamp_share: float = 0.0,
        max_labels: int = MAX_LABELS,
        seed: int = 0,
    ):
        self.inputs = inputs
        self.tokenizer = tokenizer
        self.timestamp_share = timestamp_share
        self.max_labels = max_labels
        self.seed = seed
        self.no_times = tokenizer.convert_tokens_to_ids("<|notimestamps|>")
        self.first_time = self.no_times + 1  # not every published tokenizer has names for them
        extractor = inputs.feature_extractor
        self.window_frames = extractor.n_samples // extractor.hop_length

    def __call__(self, rows: Sequence[Row]) -> Batch:
        batch = self.inputs(rows)
        features, mask = to_window(batch["input_features"], batch["attention_mask"], self.window_frames)
        texts = self.tokenizer([row["text"] for row in rows])["input_ids"]
        seconds = (mask.sum(1) * FRAME_S).tolist()
        labels = [self._label(*one) for one in zip(rows, texts, seconds, strict=True)]
        return {"input_features": features, "attention_mask": mask, "labels": pad_ids(labels, IGNORED)}

    def _label(self, row: Row, ids: list[int], seconds: float) -> list[int]:
        """The ids without <|startoftranscript|>."""
        if len(ids) > self.max_labels:
            raise RowError(
                f"row {row['id']!r}: {len(ids)} tokens with prompt and end, the decoder has {self.max_labels} places; "
                "take the row out or cut it in two"
            )
        timed = self.timestamp_share and "epoch" in row and row_rng(self.seed + 2, row).random() < self.timestamp_share
        if not timed:
            return ids[1:]
        start = ids.index(self.no_times)
        last = self.first_time + round(seconds / STATE_S)
        return [*ids[1:start], self.first_time, *ids[start + 1 : -1], last, ids[-1]]


def to_window(
    features_BFL: torch.Tensor, mask_BL: torch.Tensor, window_frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of true frames, extended to Whisper's window with what its extractor gives for silence.

    Equal to the extractor's own features of the padded audio, at a fraction of the cost.

    Returns:
        `(B, F, window_frames)` features and their `(B, window_frames)` mask.
    """
    bins, frames = features_BFL.shape[1:]
    hidden = features_BFL.masked_fill(mask_BL[:, None] == 0, float("-inf"))
    silence_B = (hidden.amax((1, 2)) - DYNAMIC_RANGE).clamp(min=SILENCE)
    window_BFW = silence_B[:, None, None].repeat(1, bins, window_frames)
    window_BFW[:, :, :frames] = torch.where(mask_BL[:, None] == 1, features_BFL, window_BFW[:, :, :frames])
    mask_BW = torch.nn.functional.pad(mask_BL, (0, window_frames - frames))
    return window_BFW, mask_BW

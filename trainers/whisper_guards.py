"""Guards against what Whisper does when it loses the thread: loops, text without speech, text without end.

Measured on what it hears and writes, none of them forbids a repetition that was really said:

- a recording without a sound above -60 dBFS gets no text, and the model never sees it;
- a phrase repeated more than four times in a row ends the text there. The utterance is decoded again with some
  randomness, as Whisper's authors do, and the first text without a loop is taken; failing that, the loop is cut;
- a text has a longest length that follows from the duration of its recording;
- a text that the model finds improbable, where it also finds that nobody speaks, is dropped (both thresholds of
  Whisper's authors).

`pipeline()` without this file has the last resort of the stock code: `generate_kwargs=STOCK_FALLBACK`.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import GenerateEncoderDecoderOutput
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module
from transformers.modeling_outputs import BaseModelOutput

from data_scripts.curation.rules import longest_loop

FRAME_S = 0.01
# log10 of the power of a mel bin: that of a tone of -60 dBFS, about.
SILENT_LOG_POWER = -3.6
MAX_PHRASE_TOKENS = 16
SEED = 0
STOCK_FALLBACK = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
}
"""What the stock pipeline takes as `generate_kwargs`. A generation config can hold but the threshold of compression:
temperatures are read from the call alone, and the other two without them end in an error (transformers 5.23)."""


@dataclass(frozen=True)
class Guards:
    """What is taken for a loop, for silence, for too much."""

    max_repeats: int = 4
    """How often in a row a phrase may come."""
    max_tokens_per_s: float = 30.0
    """Longest text, in tokens a second of the recording; the fastest speech has about 24 of published Whispers'."""
    spare_tokens: int = 8
    """Tokens on top of that, for short recordings."""
    temperatures: tuple[float, ...] = (0.4, 0.8)
    """Of the further tries at an utterance that looped; () cuts the loop at once."""
    no_speech_threshold: float = 0.6
    """With `logprob_threshold`: probability of <|nospeech|> above which an improbable text is dropped."""
    logprob_threshold: float = -1.0
    """Mean log-probability of the tokens of an improbable text."""

    def __post_init__(self) -> None:
        if self.max_repeats < 1:
            raise ValueError(f"max_repeats must be at least 1, got {self.max_repeats}")
        if self.max_tokens_per_s <= 0:
            raise ValueError(f"max_tokens_per_s must be above 0, got {self.max_tokens_per_s}")


@dataclass
class GuardCounts:
    """How often each guard had to step in."""

    utterances: int = 0
    silent: int = 0
    """Nothing to hear."""
    loops: int = 0
    """Texts that looped, whether mended or cut."""
    mended: int = 0
    """Loops that another try did without."""
    shortened: int = 0
    """Texts that reached their longest length."""
    no_speech: int = 0
    """Improbable texts where the model hears no speech."""

    def per_1000(self) -> dict[str, float]:
        """Each count per 1000 utterances."""
        counts = asdict(self)
        utterances = counts.pop("utterances")
        return {name: 1000 * count / utterances if utterances else 0.0 for name, count in counts.items()}


class EndOfLoops(LogitsProcessor):
    """Leaves nothing but the end to texts that loop, and to those that are as long as they may be.

    Args:
        limits_B: longest text of each utterance in tokens.
        prompt_length: tokens before the text.
        num_beams: rows of scores for each utterance.
    """

    def __init__(self, guards: Guards, limits_B: torch.Tensor, prompt_length: int, eos: int, num_beams: int = 1):
        self.guards = guards
        self.limits_R = limits_B.repeat_interleave(num_beams)
        self.prompt_length = prompt_length
        self.eos = eos

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        text_RU = input_ids[:, self.prompt_length :]
        ends_R = looping(text_RU, self.guards.max_repeats) | (text_RU.shape[1] >= self.limits_R.to(text_RU.device))
        if not ends_R.any():
            return scores
        end_only = torch.full_like(scores, float("-inf"))
        end_only[:, self.eos] = 0.0
        return torch.where(ends_R[:, None], end_only, scores)


def looping(ids_BU: torch.Tensor, max_repeats: int) -> torch.Tensor:
    """Which rows end in a phrase that comes more than `max_repeats` times in a row, (B,) bool."""
    found_B = torch.zeros(len(ids_BU), dtype=torch.bool, device=ids_BU.device)
    for size in range(1, MAX_PHRASE_TOKENS + 1):
        span = size * max_repeats  # so many tokens equal the one `size` before them
        if ids_BU.shape[1] < span + size:
            break
        found_B |= (ids_BU[:, -span:] == ids_BU[:, -span - size : -size]).all(1)
    return found_B


def without_loop(ids: list[int], max_repeats: int) -> list[int]:
    """A text that ends in a loop with its phrase said once."""
    for size in range(1, MAX_PHRASE_TOKENS + 1):
        run = 0
        while run + size < len(ids) and ids[-1 - run] == ids[-1 - run - size]:
            run += 1
        if run >= size * max_repeats:
            return ids[: len(ids) - run]
    return ids


def loops_per_1000(texts: Iterable[str], max_repeats: int = 4) -> float:
    """Texts in which a phrase of up to four words comes more than `max_repeats` times in a row, per 1000."""
    found = [longest_loop(text.split())[0] > max_repeats for text in texts]
    return 1000 * sum(found) / len(found) if found else 0.0


@torch.no_grad()
def guarded_generate(
    model: Any,
    input_features: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    guards: Guards | None = None,
    counts: GuardCounts | None = None,
    return_token_timestamps: bool = False,
    **options: Any,
) -> Any:
    """`model.generate` of a Whisper under guard; without, where the weights are spread over ranks (ZeRO-3, FSDP).

    Args:
        input_features: (B, F, window) log-mel features as the extractor gives them.
        attention_mask: (B, window), which frames are the recording; without, all are, and texts may be longer.
        counts: is added to.
        return_token_timestamps: also give the time at which each token ends.
        options: further ones of `generate`, such as `num_beams` and `max_new_tokens`. No `temperature`.

    Returns:
        (B, longest) ids without prompt, ended by <|endoftext|> and padded; with times, a dict of these `sequences` and
        of `token_timestamps`, (B, longest) seconds.

    Raises:
        ValueError: features that are longer than the window.
    """
    guards = guards or Guards()
    counts = GuardCounts() if counts is None else counts
    window = 2 * model.config.max_source_positions
    if input_features.shape[2] != window:
        raise ValueError(
            f"input_features have {input_features.shape[2]} frames, but this Whisper reads windows of {window}: cut "
            "longer recordings into pieces, and let the processor fill up shorter ones"
        )
    if attention_mask is None:
        attention_mask = torch.ones(len(input_features), window, dtype=torch.long, device=input_features.device)
    counts.utterances += len(input_features)
    if is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model):
        # Ranks that hold parts of the weights must take the same steps: no row is left out or tried again.
        mask = {"attention_mask": attention_mask, "return_token_timestamps": return_token_timestamps or None}
        return model.generate(input_features, **mask, **options)
    # Features keep the level: they are (log10 power + 4) / 4.
    heard_B = 4 * input_features.float().amax((1, 2)) - 4 > SILENT_LOG_POWER
    counts.silent += int((~heard_B).sum())
    texts: list[list[int]] = [[] for _ in input_features]
    times: list[list[float]] = [[] for _ in input_features]
    if heard_B.any():
        rows = heard_B.nonzero()[:, 0].tolist()
        guarded = _Guarded(model, input_features[heard_B], attention_mask[heard_B], guards, options)
        for number, (row, text) in enumerate(zip(rows, guarded.decode(counts), strict=True)):
            texts[row] = text
            times[row] = guarded.times(number, text) if return_token_timestamps else []
    return _padded(model, texts, times if return_token_timestamps else None, input_features.device)


class _Guarded:
    """One batch on its way through the decoder; the encoder reads it once, however often it is decoded."""

    def __init__(
        self, model: Any, features_BFL: torch.Tensor, mask_BL: torch.Tensor, guards: Guards, options: dict[str, Any]
    ):
        self.model, self.guards = model, guards
        self.mask_BL = mask_BL
        self.settings = ids = model.generation_config
        self.prompt = [ids.decoder_start_token_id, ids.lang_to_id[ids.language], ids.task_to_id[ids.task]]
        self.prompt.append(ids.no_timestamps_token_id)
        self.options = {name: value for name, value in options.items() if value is not None}
        room = model.config.max_target_positions - 5
        # Under this name for the stock code, which adds the length of the prompt.
        self.options["max_length"] = min(self.options.pop("max_new_tokens", room), room)
        seconds_B = mask_BL.sum(1) * FRAME_S
        self.limits_B = (seconds_B * guards.max_tokens_per_s).ceil().long() + guards.spare_tokens
        self.states_BTD = model.get_encoder()(features_BFL.to(model.dtype)).last_hidden_state

    def decode(self, counts: GuardCounts) -> list[list[int]]:
        """The text of each utterance."""
        everything = list(range(len(self.states_BTD)))
        found = self._generate(everything)
        looped = [row for row in everything if self._loops(found[row])]
        counts.loops += len(looped)
        for row in looped:
            other = self._try_again(row)
            counts.mended += other is not None
            found[row] = without_loop(other or found[row], self.guards.max_repeats)
        limits = self.limits_B.tolist()
        counts.shortened += sum(len(text) >= limits[row] for row, text in enumerate(found))
        unspoken = self._unspoken(found)
        counts.no_speech += len(unspoken)
        return [[] if row in unspoken else text for row, text in enumerate(found)]

    def _loops(self, text: list[int]) -> bool:
        return bool(looping(torch.tensor([text], dtype=torch.long), self.guards.max_repeats)[0])

    def _try_again(self, row: int) -> list[int] | None:
        """The first text without a loop at rising temperatures; the same whatever else is in the batch."""
        for temperature in self.guards.temperatures:
            with torch.random.fork_rng(devices=_devices(self.states_BTD)):
                torch.manual_seed(SEED)
                found = self._generate([row], temperature=temperature)[0]
            if not self._loops(found) and len(found) < self.limits_B[row]:
                return found
        return None

    def _generate(self, rows: list[int], temperature: float = 0.0) -> list[list[int]]:
        options = dict(self.options)
        if temperature:
            options["num_beams"] = 1
        num_beams = options.get("num_beams") or self.settings.num_beams or 1
        eos = self.settings.eos_token_id
        end = EndOfLoops(self.guards, self.limits_B[rows], len(self.prompt), eos, num_beams)
        ids = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=self.states_BTD[rows]),
            attention_mask=self.mask_BL[rows],
            logits_processor=LogitsProcessorList([end]),
            temperature=temperature,
            compression_ratio_threshold=float("inf"),  # that of the config is for the stock pipeline
            return_timestamps=False,
            # Else a text with a time in it is decoded on from there, for which the stock code has no states.
            force_unique_generate_call=True,
            **options,
        )
        texts = ids[:, len(self.prompt) :].tolist()
        return [text[: text.index(eos)] if eos in text else text for text in texts]

    def times(self, row: int, text: list[int]) -> list[float]:
        """When each token ends, in seconds, by the attention of one pass over the finished text.

        The stock code takes the attention of the search. In a batch it goes on after the end of a short text, and the
        time that is left over is dealt out to what was never written.
        """
        frames = int(self.mask_BL[row].sum())
        if len(text) < 2:
            return [frames * FRAME_S] * len(text)
        ids_1U = torch.tensor([[*self.prompt, *text]], device=self.states_BTD.device)
        config = self.model.config
        kernel, config._attn_implementation = config._attn_implementation, "eager"  # others keep no weights
        try:
            outputs = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=self.states_BTD[row : row + 1]),
                decoder_input_ids=ids_1U,
                output_attentions=True,
                use_cache=False,
            )
        finally:
            config._attn_implementation = kernel
        written: Any = {"sequences": ids_1U, "cross_attentions": (outputs.cross_attentions,)}
        seconds_1U = self.model._extract_token_timestamps(
            GenerateEncoderDecoderOutput(**written),
            self.settings.alignment_heads,
            num_frames=frames,
            num_input_ids=len(self.prompt),
        )
        return seconds_1U[0, len(self.prompt) : -1].tolist()

    def _unspoken(self, texts: list[list[int]]) -> set[int]:
        """Rows whose text is improbable and at whose start the model finds that nobody speaks."""
        start_BU = torch.full((len(texts), 1), self.prompt[0], device=self.states_BTD.device)
        # <|nospeech|> stands before <|notimestamps|> in every Whisper.
        silence_B = self._log_probs(slice(None), start_BU)[:, 0, self.prompt[-1] - 1].exp()
        unspoken: set[int] = set()
        for row in (silence_B > self.guards.no_speech_threshold).nonzero()[:, 0].tolist():
            ids_1U = torch.tensor([[*self.prompt, *texts[row], self.settings.eos_token_id]], device=start_BU.device)
            log_probs_UV = self._log_probs(slice(row, row + 1), ids_1U[:, :-1])[0, len(self.prompt) - 1 :]
            if log_probs_UV.gather(1, ids_1U[0, len(self.prompt) :, None]).mean() < self.guards.logprob_threshold:
                unspoken.add(row)
        return unspoken

    def _log_probs(self, rows: slice, ids_BU: torch.Tensor) -> torch.Tensor:
        """(B, U, V) of the token after each of the ids."""
        states = BaseModelOutput(last_hidden_state=self.states_BTD[rows])
        logits_BUV = self.model(encoder_outputs=states, decoder_input_ids=ids_BU, use_cache=False).logits
        return logits_BUV.float().log_softmax(-1)


def _devices(tensor: torch.Tensor) -> list[torch.device]:
    return [tensor.device] if tensor.is_cuda else []


def _padded(model: Any, texts: list[list[int]], times: list[list[float]] | None, device: torch.device) -> Any:
    eos, pad = model.generation_config.eos_token_id, model.generation_config.pad_token_id
    longest = max(map(len, texts)) + 1
    rows = [[*text, eos] + [pad] * (longest - 1 - len(text)) for text in texts]
    sequences = torch.tensor(rows, device=device)
    if times is None:
        return sequences
    last = [when[-1] if when else 0.0 for when in times]
    seconds = [[*when] + [end] * (longest - len(when)) for when, end in zip(times, last, strict=True)]
    return {"sequences": sequences, "token_timestamps": torch.tensor(seconds, device=device)}

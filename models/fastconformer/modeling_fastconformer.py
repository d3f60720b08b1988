"""FastConformer recogniser (VLSP 2025 paper, section 3.3): transformers' Parakeet with a CTC, RNN-T or TDT head.

Weights have the names of transformers' Parakeet classes, so that `from_pretrained` reads their checkpoints. What is
changed here: losses that are right for labels padded with -100, for accumulated gradients and several processes;
utterances that cannot be learned from are left out; all the searches of `recognise`; attention limited to a window.

Shape legend: B batch, L input frames, F mel bins, T output frames (80 ms), D encoder width, U labels, N = U + 1, J
joint width, V vocabulary with the blank.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.models.parakeet.modeling_parakeet import (
    ParakeetEncoderCTCHead,
    ParakeetRNNTDecoder,
    ParakeetRNNTJointNetwork,
)
from transformers.utils import ModelOutput

from .configuration_fastconformer import SEARCHES, FastConformerConfig
from .ctc_decoding import ctc_beam, ctc_greedy
from .hypotheses import Hypothesis, LanguageModel
from .modeling_encoder import Encoded, FastConformerEncoder, init_weights_as_nemo
from .pipeline_asr import SpeechRecogniserPipeline  # noqa: F401  (the import makes save_pretrained ship the file)
from .strict_model import StrictModel, copy_weights, eval_frozen_parts
from .tdt_loss import tdt_loss
from .transducer_decoding import RecurrentPredictor, transducer_beam, transducer_greedy
from .transducer_loss import Losses, Targets, ctc_loss, full_loss


@dataclass
class FastConformerOutput(ModelOutput):
    """
    Args:
        loss: scalar, with `labels`; `ctc_loss` and `transducer_loss` are its terms before weighting, detached.
        num_skipped: with `labels`, how many utterances were left out of the loss or of one of its terms: no labels,
            features that are not finite, fewer frames than CTC needs.
        logits: (B, T, V) of the CTC head, where there is one.
        last_hidden_state: (B, T, D), zero beyond the utterance.
        lengths: (B,) true frames of T.
    """

    loss: torch.Tensor | None = None
    ctc_loss: torch.Tensor | None = None
    transducer_loss: torch.Tensor | None = None
    num_skipped: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    lengths: torch.Tensor | None = None


class FastConformerJoint(ParakeetRNNTJointNetwork):
    """Parakeet's joint network; for TDT its last `len(durations)` outputs score durations."""

    def __init__(self, config: FastConformerConfig):
        super().__init__(config)  # pyright: ignore[reportArgumentType]
        self.activation = ACT2FN[config.joint_act]
        if config.head == "tdt":
            self.head = nn.Linear(config.decoder_hidden_size, config.vocab_size + len(config.durations))


class FastConformerPreTrainedModel(StrictModel, PreTrainedModel):
    config_class = FastConformerConfig
    config: FastConformerConfig
    base_model_prefix = "model"
    main_input_name = "input_features"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["FastConformerBlock", "ParakeetRNNTDecoder"]
    _supports_sdpa = True
    # The Trainer must not divide the loss again: `forward` divides by num_items_in_batch itself.
    accepts_loss_kwargs = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As NeMo, which leaves torch's defaults."""
        if isinstance(module, nn.LSTM):
            for parameter in module.parameters():
                init.uniform_(parameter, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif not init_weights_as_nemo(module):
            super()._init_weights(module)


class FastConformerForASR(FastConformerPreTrainedModel):
    """Speech in, tokens out, by the head that `config.head` names.

    For speech emotion recognition and other uses of the encoder: `encode` gives states and lengths, `pool` one vector
    per utterance, to be joined with those of other (frozen) encoders by a head outside of this class.
    """

    def __init__(self, config: FastConformerConfig):
        super().__init__(config)
        self.encoder = FastConformerEncoder(config)
        if config.has_ctc_head:
            self.ctc_head = ParakeetEncoderCTCHead(config.hidden_size, config.vocab_size, kernel_size=1)
        if config.head != "ctc":
            self.encoder_projector = nn.Linear(config.hidden_size, config.decoder_hidden_size)
            self.decoder = ParakeetRNNTDecoder(config)  # pyright: ignore[reportArgumentType]
            self.joint = FastConformerJoint(config)
        self.post_init()

    @classmethod
    def from_pretrained_encoder(
        cls, id_or_path: str | os.PathLike, config_overrides: dict[str, Any], **hub_kwargs: Any
    ) -> "FastConformerForASR":
        """A fresh head, for another vocabulary or of another kind, on the encoder of a checkpoint.

        Args:
            id_or_path: Hub id or folder of a FastConformer or of a stock Parakeet, e.g. `nvidia/parakeet-ctc-0.6b`.
            config_overrides: fields of `FastConformerConfig`, at least `vocab_size`.
            hub_kwargs: `revision`, `token`, `cache_dir`, ... as in `from_pretrained`.

        Raises:
            ValueError: no `vocab_size`, or fields that change the shape of the encoder.
        """
        if "vocab_size" not in config_overrides:
            raise ValueError("a fresh head needs vocab_size, the number of tokens of its tokenizer")
        source = cls.from_pretrained(id_or_path, **{"dtype": torch.float32, **hub_kwargs})
        model = cls(FastConformerConfig(**{**source.config.encoder_fields(), **config_overrides}))
        copy_weights(model.encoder, source.encoder.state_dict(), source=str(id_or_path))
        return model

    @property
    def frame_s(self) -> float:
        """Seconds per output frame."""
        return self.config.feature_frame_s * self.config.subsampling_factor

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        return self.encoder

    def freeze_encoder(self) -> None:
        """Stop training the encoder; it also stays in evaluation mode (no dropout, fixed statistics)."""
        self.encoder.requires_grad_(False)
        self.encoder.eval()

    def train(self, mode: bool = True) -> "FastConformerForASR":
        super().train(mode)
        eval_frozen_parts(self.encoder)
        return self

    def encode(self, input_features: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Encoded:
        """(B, L, F) features and their (B, L) mask -> states (B, T, D) and lengths (B,), a tuple.

        Raises:
            ValueError: features of another width than the model's.
        """
        if input_features.ndim != 3 or input_features.shape[2] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features have shape {tuple(input_features.shape)} but the model reads (batch, frames, "
                f"{self.config.num_mel_bins}): use the feature extractor that was saved with it"
            )
        return self.encoder(input_features, attention_mask)

    @staticmethod
    def pool(last_hidden_state: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Mean over the true frames: (B, T, D) states and (B,) lengths -> (B, D), zero where there are none."""
        return last_hidden_state.sum(1) / lengths.clamp(min=1)[:, None].to(last_hidden_state.dtype)

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **_: Any,
    ) -> FastConformerOutput:
        """States and CTC logits, and the loss when `labels` are given.

        Args:
            input_features: (B, L, F) log-mel.
            attention_mask: (B, L), 1 on true frames; padding stands on the right.
            labels: (B, U) token ids without blank, padded with -100.
            num_items_in_batch: target tokens of the global batch; the summed losses are divided by it (by the tokens
                at hand when `None`), which makes them independent of accumulation and world size.

        Raises:
            ValueError: features of another width, or labels outside of the vocabulary.
        """
        states_BTD, lengths_B = self.encode(input_features, attention_mask)
        logits_BTV = self.ctc_head(states_BTD) if self.config.has_ctc_head else None
        output = FastConformerOutput(logits=logits_BTV, last_hidden_state=states_BTD, lengths=lengths_B)
        if labels is None:
            return output
        self._check_labels(labels)
        targets = Targets.build(labels, lengths_B, blank=self.config.blank_token_id)
        count = target_count(labels, num_items_in_batch)
        ok_B, ctc_weight = targets.ok_B, 1.0 if self.config.head == "ctc" else self.config.ctc_weight
        loss = states_BTD.new_zeros((), dtype=torch.float32)
        if logits_BTV is not None:
            ctc = ctc_loss(logits_BTV, targets)
            ctc_term, ok_B = ctc.losses_B.sum() / count, ok_B & ctc.ok_B
            output.ctc_loss, loss = ctc_term.detach(), loss + ctc_weight * ctc_term
        if self.config.head != "ctc":
            transducer = self._transducer_loss(states_BTD, targets)
            term, ok_B = transducer.losses_B.sum() / count, ok_B & transducer.ok_B
            output.transducer_loss, loss = term.detach(), loss + (1 - ctc_weight) * term
        output.loss, output.num_skipped = loss, (~ok_B).sum()
        return output

    def _check_labels(self, labels_BU: torch.Tensor) -> None:
        config = self.config
        wrong = (labels_BU >= config.vocab_size) | ((labels_BU < 0) & (labels_BU != -100))
        wrong |= labels_BU == config.blank_token_id
        if wrong.any():
            found = sorted(set(labels_BU[wrong].tolist()))
            raise ValueError(
                f"labels hold {found[:5]}: tokens have ids from 0 to {config.vocab_size - 1} without the blank "
                f"({config.blank_token_id}), and padding is -100; the tokenizer and the model do not belong together"
            )

    def _joint(self, encoder: torch.Tensor, predictor: torch.Tensor) -> torch.Tensor:
        return self.joint(decoder_hidden_states=predictor, encoder_hidden_states=encoder)

    def _transducer_loss(self, states_BTD: torch.Tensor, targets: Targets) -> Losses:
        blank = self.config.blank_token_id
        encoder_BTJ = self.encoder_projector(states_BTD)
        # The prediction network starts from the blank; beyond the labels it may read anything.
        predictor_BNJ = self.decoder(nn.functional.pad(targets.labels_BU, (1, 0), value=blank))
        if self.config.head == "rnnt":
            return full_loss(encoder_BTJ, predictor_BNJ, self._joint, targets)
        return tdt_loss(encoder_BTJ, predictor_BNJ, self._joint, targets, self.config.durations)

    @torch.no_grad()
    def recognise(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        search: str | None = None,
        beam_size: int = 15,
        nbest: int = 1,
        lm: LanguageModel | None = None,
        lm_weight: float = 0.0,
        blank_penalty: float = 0.0,
        temperature: float = 1.0,
    ) -> list[list[Hypothesis]]:
        """The `nbest` readings of each utterance, best first; frames of their tokens are `frame_s` seconds each.

        Args:
            search: `"greedy"` or `"beam"`, with the head of the model; `"ctc_greedy"` or `"ctc_beam"`, with the CTC
                head. `None`: `config.default_search`.
            beam_size, nbest, lm, lm_weight: of beam search.
            blank_penalty, temperature: of the transducer's logits.

        Raises:
            ValueError: a search that the model has no head for.
        """
        states_BTD, lengths_B = self.encode(input_features, attention_mask)
        search = self._search(search or self.config.default_search)
        blank = self.config.blank_token_id
        beam: dict[str, Any] = {"beam_size": beam_size, "nbest": nbest, "lm": lm, "lm_weight": lm_weight}
        if search.startswith("ctc_"):
            log_probs_BTV = self.ctc_head(states_BTD).float().log_softmax(-1)
            if search == "ctc_greedy":
                return ctc_greedy(log_probs_BTV, lengths_B, blank=blank)
            return ctc_beam(log_probs_BTV, lengths_B, blank=blank, **beam)
        encoder_BTJ = self.encoder_projector(states_BTD)
        decoder = self.decoder
        predictor = RecurrentPredictor(decoder.embedding, decoder.lstm, decoder.decoder_projector, blank)
        options: dict[str, Any] = {"blank": blank, "blank_penalty": blank_penalty, "temperature": temperature}
        if search == "beam":
            return transducer_beam(encoder_BTJ, lengths_B, predictor, self._joint, **options, **beam)
        return transducer_greedy(
            encoder_BTJ,
            lengths_B,
            predictor,
            self._joint,
            max_symbols_per_frame=self.config.max_symbols_per_step,
            durations=self.config.durations if self.config.head == "tdt" else None,
            **options,
        )

    def _search(self, search: str) -> str:
        """The search by its full name, or a ValueError."""
        if search not in SEARCHES:
            raise ValueError(f"search is {search!r}; it must be one of: {', '.join(SEARCHES)}")
        if self.config.head == "ctc" and not search.startswith("ctc_"):
            return f"ctc_{search}"
        if search.startswith("ctc_") and not self.config.has_ctc_head:
            raise ValueError(
                f"search={search!r} needs a CTC head and this {self.config.head!r} model has none (ctc_weight is 0); "
                "use 'greedy' or 'beam'"
            )
        if search == "beam" and self.config.head == "tdt":
            raise ValueError("search='beam' is not defined for TDT; use 'greedy', or 'ctc_beam' of a hybrid model")
        return search


def target_count(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | int:
    """What the summed losses are divided by: the tokens of the whole global batch, or those at hand."""
    if num_items_in_batch is None:
        return (labels != -100).sum().clamp(min=1)
    if torch.is_tensor(num_items_in_batch):
        return num_items_in_batch.to(labels.device)
    return num_items_in_batch


AutoConfig.register("fastconformer", FastConformerConfig, exist_ok=True)
AutoModelForCTC.register(FastConformerConfig, FastConformerForASR, exist_ok=True)
FastConformerForASR.register_for_auto_class("AutoModelForCTC")

"""Zipformer recogniser: encoder, stateless decoder and joiner of a transducer, CTC head (arXiv 2310.11230).

As in the systems of VLSP 2025 (sections 3.1 and 3.2 of the report): pruned RNN-T and CTC, trained together.

Shape legend: B batch, L input frames, M mel bins, T output frames, D encoder width, U labels, N = U + 1, C tokens of
context, J joiner width, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModelForCTC, PreTrainedModel
from transformers.utils import ModelOutput

from .configuration_zipformer import SEARCHES, ZipformerConfig, one_of
from .ctc_decoding import ctc_beam, ctc_greedy
from .hypotheses import Hypothesis, LanguageModel
from .pipeline_asr import SpeechRecogniserPipeline  # noqa: F401  (the import makes save_pretrained ship the file)
from .strict_model import StrictModel
from .transducer_decoding import StatelessPredictor, transducer_beam, transducer_greedy
from .transducer_loss import (
    Losses,
    Targets,
    computable,
    ctc_loss,
    full_loss,
    keep_finite,
    prune_starts,
    pruned_loss,
    simple_loss,
)
from .zipformer_encoder import ZipformerEncoder
from .zipformer_layers import ScaledLinear, init_weights
from .zipformer_subsampling import CONTEXT_FRAMES, FEWEST_FRAMES, Subsampling
from .zipformer_training import Balancer, Whiten, set_batch_count

# Weight of attention scores beyond +-25, per such score and relative to a loss summed over the batch.
SCORE_PENALTY = 1e-4


@dataclass
class ZipformerOutput(ModelOutput):
    """
    Args:
        loss: scalar, with `labels`; the others are its terms before weighting, detached, divided as `loss` is.
        transducer_loss: pruned or full RNN-T; `simple_loss` is that of the additive joiner, with the pruned one.
        num_skipped: utterances that the loss leaves out, as it cannot be computed for them.
        last_hidden_state: (B, T, D) encoder states; `lengths` (B,) are the true ones among T.
    """

    loss: torch.Tensor | None = None
    transducer_loss: torch.Tensor | None = None
    simple_loss: torch.Tensor | None = None
    ctc_loss: torch.Tensor | None = None
    num_skipped: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    lengths: torch.Tensor | None = None


class StatelessDecoder(nn.Module):
    """Embedding, then a grouped convolution over the last `context_size` tokens; an id of -1 is "no token"."""

    def __init__(self, config: ZipformerConfig):
        super().__init__()
        self.context_size = config.context_size
        self.embedding = nn.Embedding(config.vocab_size, config.decoder_dim)
        self.balancer = Balancer(0.0, 1.0, 0.5, 1.0, probability=0.05)
        if self.context_size > 1:
            width = config.decoder_dim
            self.conv = nn.Conv1d(width, width, self.context_size, groups=width // 4, bias=False)
            self.out_balancer = Balancer(0.0, 1.0, 0.5, 1.0, probability=0.05)

    def forward(self, ids_BU: torch.Tensor, pad: bool = True) -> torch.Tensor:
        """(B, U) -> (B, U, decoder_dim), or (B, U - context_size + 1, decoder_dim) without `pad`."""
        embedded = self.embedding(ids_BU.clamp(min=0)) * (ids_BU >= 0).unsqueeze(-1)
        embedded = self.balancer(embedded)
        if self.context_size == 1:
            return embedded
        embedded = embedded.transpose(1, 2)
        if pad:
            embedded = F.pad(embedded, (self.context_size - 1, 0))
        return self.out_balancer(self.conv(embedded).transpose(1, 2).relu())


class Joiner(nn.Module):
    """Logits of encoder and decoder states together."""

    def __init__(self, config: ZipformerConfig):
        super().__init__()
        self.encoder_proj = ScaledLinear(config.hidden_size, config.joiner_dim, initial_scale=0.25)
        self.decoder_proj = ScaledLinear(config.decoder_dim, config.joiner_dim, initial_scale=0.25)
        self.output_linear = nn.Linear(config.joiner_dim, config.vocab_size)

    def forward(self, encoder: torch.Tensor, decoder: torch.Tensor) -> torch.Tensor:
        """(..., J) and (..., J), both projected and broadcasting -> (..., V) logits."""
        return self.output_linear((encoder + decoder).tanh())


class ZipformerPreTrainedModel(StrictModel, PreTrainedModel):
    config_class = ZipformerConfig
    config: ZipformerConfig
    base_model_prefix = "zipformer"
    main_input_name = "input_features"
    input_modalities = ["audio"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["ZipformerLayer", "ConvNeXt"]
    # The Trainer must not divide the loss again: `forward` divides by num_items_in_batch itself.
    accepts_loss_kwargs = True

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)


class ZipformerForASR(ZipformerPreTrainedModel):
    """Speech in, token ids out. `input_features` is Kaldi's log-mel filter bank, see `ZipformerFeatureExtractor`."""

    def __init__(self, config: ZipformerConfig):
        super().__init__(config)
        self.encoder_embed = Subsampling(config.num_mel_bins, config.subsampling_channels, config.encoder_dim[0])
        self.encoder = ZipformerEncoder(config)
        if config.has_transducer:
            self.decoder = StatelessDecoder(config)
            self.joiner = Joiner(config)
        if config.training_loss == "pruned":
            self.simple_am_proj = ScaledLinear(config.hidden_size, config.vocab_size, initial_scale=0.25)
            self.simple_lm_proj = ScaledLinear(config.decoder_dim, config.vocab_size, initial_scale=0.25)
        if config.has_ctc:
            self.ctc_dropout = nn.Dropout(0.1)
            self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.batch_count: float | None = None
        self.post_init()
        for module in self.modules():
            if isinstance(module, Balancer | Whiten):
                module.active = config.shape_gradients

    @property
    def frame_s(self) -> float:
        """Seconds per output frame."""
        return self.config.frame_shift_s * 4

    def set_batch_count(self, count: float | None) -> None:
        """Tell all schedules of training how far it is, in batches of about 600 s of audio; `None`: past them all."""
        self.batch_count = count
        set_batch_count(self, count)

    def encode(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        penalty: float | torch.Tensor = SCORE_PENALTY,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, M) features and their (B, L) mask -> ((B, T, D) states, (B,) lengths); T is about L / 4.

        Utterances shorter than the convolutions need (9 frames) count as extended with silence. Padding of more than
        the longest utterance is cut off.

        Raises:
            ValueError: features of another width than the model's.
        """
        if input_features.ndim != 3 or input_features.shape[2] != self.config.num_mel_bins:
            raise ValueError(
                f"input_features has shape {tuple(input_features.shape)}; it must be (batch, frames, "
                f"{self.config.num_mel_bins} mel bins)"
            )
        features = input_features.to(self.encoder_embed.conv1.weight.dtype)
        frames = features.shape[1]
        if attention_mask is None:
            lengths = torch.full((len(features),), frames, device=features.device)
        else:
            lengths = attention_mask.sum(1).long()
            if self.config.mask_padding:
                padding = torch.arange(frames, device=features.device) >= lengths.unsqueeze(1)
                features = features.masked_fill(padding.unsqueeze(-1), self.config.padding_value)
        if frames < FEWEST_FRAMES:
            features = F.pad(features, (0, 0, 0, FEWEST_FRAMES - frames), value=self.config.padding_value)
        lengths = (lengths.clamp(min=FEWEST_FRAMES) - CONTEXT_FRAMES) // 2
        # Where nothing is padded, nothing needs masks. (On a GPU finding out would wait for it.)
        embedded_frames = (features.shape[1] - CONTEXT_FRAMES) // 2
        unpadded = attention_mask is None or (
            features.device.type == "cpu" and bool((lengths == embedded_frames).all())
        )
        given = None if unpadded else lengths
        x = self.encoder_embed(features, given if self.config.mask_padding else None)
        return self.encoder(x, given, penalty), (lengths + 1) // 2

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> ZipformerOutput:
        """Encoder states, and the loss when `labels` are given.

        Utterances whose loss cannot be computed (no labels, more labels than frames can emit, features or states that
        are not finite) are left out and counted; they add nothing to the loss or to any gradient.

        Args:
            input_features: (B, L, M) log-mel filter bank.
            attention_mask: (B, L); 1 on true frames, padding on the right.
            labels: (B, U) token ids without blanks, -100 on padding.
            num_items_in_batch: target tokens of the global batch; the summed losses are divided by it (by the tokens
                at hand when `None`), which makes them independent of accumulation and world size.

        Raises:
            ValueError: features of another width, or labels outside of the vocabulary.
        """
        if labels is None:
            hidden, lengths = self.encode(input_features, attention_mask)
            return ZipformerOutput(last_hidden_state=hidden, lengths=lengths)
        self._check_labels(labels)
        count = (labels != -100).sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        count = torch.as_tensor(count, device=input_features.device)
        frames_B = torch.full((len(labels),), input_features.shape[1], device=labels.device)
        frames_B = frames_B if attention_mask is None else attention_mask.sum(1)
        input_features, ok_B = keep_finite(input_features, frames_B, torch.ones_like(frames_B, dtype=torch.bool))
        hidden, lengths = self.encode(input_features, attention_mask, SCORE_PENALTY / count)
        hidden, ok_B = keep_finite(hidden, lengths, ok_B)
        terms, ok_B = self._losses(hidden, lengths, labels, ok_B)
        losses = {name: losses_B.sum() / count for name, losses_B in terms.items()}
        return ZipformerOutput(
            loss=self._weighted(losses),
            transducer_loss=losses["transducer"].detach() if "transducer" in losses else None,
            simple_loss=losses["simple"].detach() if "simple" in losses else None,
            ctc_loss=losses["ctc"].detach() if "ctc" in losses else None,
            num_skipped=(~ok_B).sum(),
            last_hidden_state=hidden,
            lengths=lengths,
        )

    def _check_labels(self, labels_BU: torch.Tensor) -> None:
        wrong = (labels_BU != -100) & ((labels_BU < 0) | (labels_BU >= self.config.vocab_size))
        wrong |= labels_BU == self.config.blank_token_id
        if wrong.any():
            row, column = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"labels[{row}, {column}] is {int(labels_BU[row, column])}; labels must be tokens of the model, below "
                f"{self.config.vocab_size} and not the blank ({self.config.blank_token_id}): the tokenizer does not "
                "fit the model"
            )

    def _losses(
        self, hidden_BTD: torch.Tensor, lengths_B: torch.Tensor, labels_BU: torch.Tensor, ok_B: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Every term of the loss for each utterance, 0 where it cannot be computed, and where it can, (B,)."""
        config = self.config
        label_lengths_B = (labels_BU != -100).sum(1)
        pruned = config.prune_range if config.training_loss == "pruned" else None
        # An utterance is in all terms or in none.
        ok_B = ok_B & computable(labels_BU, label_lengths_B, lengths_B, ctc=config.has_ctc, prune_range=pruned)
        if config.has_transducer:
            ok_B = ok_B & (label_lengths_B <= lengths_B)
        targets = Targets.build(labels_BU, lengths_B, blank=config.blank_token_id, ok_B=ok_B)
        found: dict[str, Losses] = {}
        if config.has_transducer:
            decoded_BNx = self.decoder(F.pad(targets.labels_BU, (1, 0), value=config.blank_token_id))
            encoder_BTJ, decoder_BNJ = self.joiner.encoder_proj(hidden_BTD), self.joiner.decoder_proj(decoded_BNx)
            if config.training_loss == "full":
                found["transducer"] = full_loss(encoder_BTJ, decoder_BNJ, self.joiner, targets)
            else:
                simple = simple_loss(
                    self.simple_am_proj(hidden_BTD),
                    self.simple_lm_proj(decoded_BNx),
                    targets,
                    lm_scale=config.lm_scale,
                    am_scale=config.am_scale,
                )
                found["simple"] = Losses(simple.losses_B, simple.ok_B)
                starts_BT = prune_starts(simple, targets, config.prune_range)
                found["transducer"] = pruned_loss(
                    encoder_BTJ, decoder_BNJ, self.joiner, targets, starts_BT, config.prune_range
                )
        if config.has_ctc:
            found["ctc"] = ctc_loss(self.ctc_head(self.ctc_dropout(hidden_BTD)), targets)
        for losses in found.values():
            ok_B = ok_B & losses.ok_B & losses.losses_B.isfinite()
        return {name: torch.where(ok_B, losses.losses_B, 0.0) for name, losses in found.items()}, ok_B

    def _weighted(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss: winner's weights, or the runner-up's where `transducer_weight` is set."""
        config = self.config
        if not config.has_transducer:
            return losses["ctc"]
        transducer = losses["transducer"]
        if "simple" in losses:
            warmed = 1.0
            if self.training and self.batch_count is not None and config.loss_warmup_batches:
                warmed = min(1.0, self.batch_count / config.loss_warmup_batches)
            simple_scale = 1.0 - warmed * (1.0 - config.simple_loss_scale)
            transducer = simple_scale * losses["simple"] + (0.1 + 0.9 * warmed) * transducer
        if config.transducer_weight is not None:
            return config.transducer_weight * transducer + (1 - config.transducer_weight) * losses["ctc"]
        return transducer + config.ctc_weight * losses["ctc"] if config.has_ctc else transducer

    def ctc_log_probs(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        """(B, T, V) in float32 of encoder states.

        Raises:
            ValueError: the model has no CTC head.
        """
        if not self.config.has_ctc:
            raise ValueError("this Zipformer has no CTC head (config.ctc_weight is 0)")
        return self.ctc_head(hidden_BTD).float().log_softmax(-1)

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
        """The tokens of each utterance: B lists of up to `nbest` hypotheses, best first.

        Args:
            search: "greedy", "beam", "ctc_greedy" or "ctc_beam"; default `config.default_search`.
            beam_size, nbest, lm, lm_weight: of the beam searches.
            blank_penalty, temperature: of the transducer's searches.

        Raises:
            ValueError: a search that the model has no head for, or features that are not finite.
        """
        search = search or self.config.default_search
        allowed = [name for name in SEARCHES if self._has_head(name)]
        one_of("search", search, allowed)
        if not input_features.isfinite().all():
            rows = (~input_features.isfinite().flatten(1).all(1)).nonzero()[:, 0].tolist()
            raise ValueError(f"input_features of utterances {rows} hold NaN or infinity; check their audio")
        hidden_BTD, lengths_B = self.encode(input_features, attention_mask)
        blank = self.config.blank_token_id
        if search == "ctc_greedy":
            return ctc_greedy(self.ctc_log_probs(hidden_BTD), lengths_B, blank=blank)
        fusion: dict[str, Any] = {"beam_size": beam_size, "nbest": nbest, "lm": lm, "lm_weight": lm_weight}
        if search == "ctc_beam":
            return ctc_beam(self.ctc_log_probs(hidden_BTD), lengths_B, blank=blank, **fusion)
        encoder_BTJ = self.joiner.encoder_proj(hidden_BTD)
        shared: dict[str, Any] = {"blank": blank, "blank_penalty": blank_penalty, "temperature": temperature}
        find, options = (transducer_greedy, shared) if search == "greedy" else (transducer_beam, {**shared, **fusion})
        return find(encoder_BTJ, lengths_B, self._predictor(encoder_BTJ.device), self.joiner, **options)

    def _has_head(self, search: str) -> bool:
        return self.config.has_ctc if search.startswith("ctc") else self.config.has_transducer

    def _predictor(self, device: torch.device) -> StatelessPredictor:
        def projected(ids_NC: torch.Tensor) -> torch.Tensor:
            return self.joiner.decoder_proj(self.decoder(ids_NC, pad=False)[:, 0])

        return StatelessPredictor(projected, self.config.context_size, self.config.blank_token_id, device)


AutoConfig.register("zipformer", ZipformerConfig, exist_ok=True)
AutoModelForCTC.register(ZipformerConfig, ZipformerForASR, exist_ok=True)
ZipformerForASR.register_for_auto_class("AutoModelForCTC")

"""CTC beside Whisper's own loss: what helps one that is trained from scratch to find the way through an utterance."""

from functools import wraps
from typing import Any

import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from trainers.collators import IGNORED


class WhisperWithCTC(WhisperForConditionalGeneration):
    """A Whisper whose encoder also learns by CTC, while it is trained from scratch.

    Attention alone finds the way through an utterance late; CTC aligns the encoder within the first epochs. The head
    is dropped when training ends (`finished_whisper`).

    Args:
        ctc_weight: share of the CTC loss.

    Loss: (1 - w) * cross entropy + w * CTC, both per label token of the batch.
    """

    _keys_to_ignore_on_load_missing = [r"ctc_head\..*"]

    def __init__(self, config: WhisperConfig, ctc_weight: float | None = None):
        super().__init__(config)
        if ctc_weight is not None:
            config.ctc_weight = ctc_weight
        # Pieces of text come before <|endoftext|>, whose place is the blank's here.
        end: Any = config.eos_token_id
        self.ctc_head = torch.nn.Linear(config.d_model, end + 1)
        self.post_init()

    @wraps(WhisperForConditionalGeneration.forward)  # generation looks at its arguments
    def forward(self, *args: Any, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """As stock, with `ctc_loss` in the output; `attention_mask` (B, L) tells the true frames."""
        forward: Any = super().forward
        outputs = forward(*args, labels=labels, **kwargs)
        if labels is None:
            return outputs
        states_BTD = outputs.encoder_last_hidden_state
        mask_BL = kwargs.get("attention_mask")
        full = torch.full((len(labels),), states_BTD.shape[1], device=labels.device)
        lengths_B = full if mask_BL is None else (mask_BL.sum(1) + 1) // 2
        outputs["ctc_loss"] = self._ctc(self.ctc_head(states_BTD), lengths_B, labels)
        weight = self.config.ctc_weight
        outputs["loss"] = (1 - weight) * outputs.loss + weight * outputs["ctc_loss"]
        return outputs

    def _ctc(self, logits_BTV: torch.Tensor, lengths_B: torch.Tensor, labels_BU: torch.Tensor) -> torch.Tensor:
        blank = logits_BTV.shape[2] - 1
        is_text_BU = (labels_BU >= 0) & (labels_BU < blank)
        log_probs_TBV = logits_BTV.float().log_softmax(-1).transpose(0, 1)
        nll = torch.nn.functional.ctc_loss(
            log_probs_TBV,
            labels_BU[is_text_BU],
            lengths_B,
            is_text_BU.sum(1),
            blank=blank,
            reduction="sum",
            zero_infinity=True,  # more pieces than states: nothing to learn from
        )
        return nll / (labels_BU != IGNORED).sum().clamp(min=1)


def finished_whisper(model: Any) -> WhisperForConditionalGeneration:
    """The stock model in a trained one: without the CTC head and what belongs to it."""
    if not isinstance(model, WhisperWithCTC):
        return model
    config = WhisperConfig.from_dict({k: v for k, v in model.config.to_dict().items() if k != "ctc_weight"})
    stock: Any = WhisperForConditionalGeneration(config)
    stock.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("ctc_head.")})
    stock.generation_config = model.generation_config
    return stock.to(model.device, model.dtype).train(model.training)

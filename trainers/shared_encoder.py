"""An encoder that recogniser and emotion classifier have in common runs once: what the recogniser computes is kept.

A frozen branch of the classifier is shared if the recogniser holds the same encoder: kind, shape and every tensor that
the branch uses. While the recogniser works, hooks keep the input of its encoder and the layers that the branch reads.
A piece of audio is then served from them only if that input is, number by number, what the branch would have made of
the piece; so another window, another padding or a row that the recogniser left out costs a run of the branch, and
never its result.

Shape legend: B batch, N samples, F mel bins, L input frames, T encoder frames, E width, K layers of a mix.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from models.ser.encoders_ser import DEFAULT_EPS, WHISPER_HOP, normalise, whisper_log_mel
from trainers.recognisers import Recogniser

logger = logging.getLogger(__name__)
# Recognisers extend shorter pieces, and take what they added for speech.
SHORTEST_SHARED_S = 0.25
# Two front ends that do the same differ by rounding; a sample more or less of padding moves log-mels by 0.01.
INPUT_TOLERANCE = 1e-4
# What decides the result of an encoder beside its tensors.
FIELDS = {
    "whisper": (
        "d_model", "encoder_layers", "encoder_attention_heads", "activation_function", "num_mel_bins",
        "max_source_positions",
    ),
    "wav2vec2": (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "feat_extract_norm",
        "feat_extract_activation", "conv_kernel", "conv_stride", "do_stable_layer_norm", "layer_norm_eps",
    ),
}  # fmt: skip
# Nothing reads it outside of training.
UNUSED_TENSORS = ("masked_spec_embed",)


@dataclass
class RecogniserEncoder:
    """The speech encoder of a recogniser. keeps_rows_apart: padding of a batch does not change its states."""

    kind: str
    module: Any
    keeps_rows_apart: bool = True
    whole_window: bool = True


@dataclass
class Tap:
    """One branch of the classifier that is served by the recogniser's encoder; holds what the hooks have kept."""

    branch: Any
    encoder: RecogniserEncoder
    calls: list[tuple[torch.Tensor, list[torch.Tensor]]] = field(default_factory=list)

    def hooks(self) -> list[Any]:
        """Register them; each call of the encoder adds its input (B, …) and the wanted states (B, T, E)."""
        states: dict[int, torch.Tensor] = {}

        def entered(module: nn.Module, args: tuple[Any, ...]) -> None:
            states.clear()
            self.calls.append((args[0].detach(), []))

        def keep(index: int) -> Callable[..., None]:
            def kept(module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
                value = args[0] if output is None else output[0] if isinstance(output, tuple) else output
                states[index] = value.detach()
                if len(states) == len(points):
                    self.calls[-1] = (self.calls[-1][0], [states[i] for i in range(len(points))])

            return kept

        first, points = self._points()
        registered = [first.register_forward_pre_hook(entered)]
        for index, (module, is_input) in enumerate(points):
            register = module.register_forward_pre_hook if is_input else module.register_forward_hook
            registered.append(register(keep(index)))
        return registered

    def _points(self) -> tuple[nn.Module, list[tuple[nn.Module, bool]]]:
        """Where the encoder's input is seen, and (module, its input or its output) for each state of the branch."""
        spec, module = self.branch.spec, self.encoder.module
        if self.encoder.kind == "whisper":
            first, layers, final = module.conv1, module.layers, module.layer_norm
        else:
            first, layers = module.feature_extractor.conv_layers[0].conv, module.encoder.layers
            final = module.encoder.layer_norm if module.config.do_stable_layer_norm else layers[-1]
            if spec.features == "conv":
                return first, [(module.feature_projection.layer_norm, False)]
        last = spec.num_layers
        wanted = range(last + 1) if spec.features == "mix" else [spec.features]
        points = [
            (final, False) if index == last else (layers[index - 1], False) if index else (layers[0], True)
            for index in wanted
        ]
        return first, points

    def features(self, waveform_1N: torch.Tensor) -> torch.Tensor | None:
        """(1, T, E) or (1, T, K, E), what the branch would give for the piece; None where that was not computed."""
        size = waveform_1N.shape[1]
        if size < SHORTEST_SHARED_S * 16_000:
            return None
        expected: torch.Tensor | None = None
        for inputs, states in self.calls:
            if not states:
                continue
            if expected is None:
                expected = self._input(waveform_1N.to(inputs.device))
            for row, seen in enumerate(inputs):
                if expected is not None and self._is_same(expected, seen):
                    lengths = self._length(size)
                    kept = [state[row : row + 1, :lengths] for state in states]
                    return torch.stack(kept, dim=2) if self.branch.spec.features == "mix" else kept[0]
        return None

    def _input(self, waveform_1N: torch.Tensor) -> torch.Tensor | None:
        """What the branch gives to its first convolution, (F, L) or (1, N)."""
        branch = self.branch
        if branch.spec.normalise:
            waveform_1N = normalise(waveform_1N, torch.ones_like(waveform_1N), DEFAULT_EPS)
        if self.encoder.kind != "whisper":
            return waveform_1N
        window = 2 * WHISPER_HOP * branch.config.max_source_positions
        if waveform_1N.shape[1] > window:
            return None
        return whisper_log_mel(waveform_1N, branch.config.num_mel_bins, window)[0]

    def _is_same(self, expected: torch.Tensor, seen: torch.Tensor) -> bool:
        size = expected.shape[-1]
        if seen.shape[-1] < size or (seen.shape[-1] > size and not self.encoder.keeps_rows_apart):
            return False
        tolerance = max(INPUT_TOLERANCE, 2 * torch.finfo(seen.dtype).eps)
        difference = (seen[..., :size].float() - expected.to(seen.dtype).float()).abs().max()
        return bool(difference <= tolerance) and not bool(seen[..., size:].any())

    def _length(self, size: int) -> int:
        if self.encoder.kind == "whisper":
            return max(1, -(-size // (2 * WHISPER_HOP)))
        return int(self.branch._frame_counts(torch.tensor([size]))[0])


class SharedEncoders:
    """The branches of a classifier that a recogniser serves.

    Attributes:
        taps: by the name of the branch.
        reasons: why each of the other branches is not shared.
        served: pieces of audio that a branch did not have to encode, so far.
    """

    def __init__(self, taps: dict[str, Tap], reasons: dict[str, str]):
        self.taps, self.reasons, self.served = taps, reasons, 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While it lasts, what the recogniser's encoder computes is kept; nothing is afterwards."""
        handles = [handle for tap in self.taps.values() for handle in tap.hooks()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for tap in self.taps.values():
                tap.calls.clear()

    def features(self, samples: Any) -> dict[str, torch.Tensor]:
        """(N,) samples of one piece -> features of the branches for which they were computed."""
        waveform_1N = torch.as_tensor(samples, dtype=torch.float32)[None]
        found = {name: tap.features(waveform_1N) for name, tap in self.taps.items()}
        kept = {name: features for name, features in found.items() if features is not None}
        self.served += bool(kept)
        return kept


def find_shared(recogniser: Recogniser, classifier_model: Any) -> SharedEncoders:
    """Which encoders of a classifier (of `models.ser`; others have none) the recogniser runs anyway."""
    taps: dict[str, Tap] = {}
    reasons: dict[str, str] = {}
    encoder = recogniser_encoder(recogniser.pipe.model)
    branches: Sequence[Any] = getattr(classifier_model, "branches", ())
    for branch in branches:
        name = branch.spec.name
        if reason := _difference(branch, encoder):
            reasons[name] = reason
            logger.info("encoder %s of the classifier runs by itself: %s", name, reason)
        else:
            assert encoder is not None
            taps[name] = Tap(branch, encoder)
            logger.info("encoder %s of the classifier is that of %s, which runs once", name, recogniser.name)
    return SharedEncoders(taps, reasons)


def recogniser_encoder(model: Any) -> RecogniserEncoder | None:
    """The encoder of a recogniser that a classifier might use too; None for other architectures."""
    kind = model.config.model_type
    if kind in ("tspc", "tspc_s2p"):
        encoder = model.s2p.encoder if kind == "tspc" else model.encoder
        inner = encoder.config.model_type
        if inner not in FIELDS:
            return None
        return RecogniserEncoder(inner, encoder, whole_window=getattr(encoder, "window", "padded") == "padded")
    if kind == "whisper":
        return RecogniserEncoder(kind, model.get_encoder())
    if kind == "wav2vec2":
        # The stock model's first norm counts padding in.
        return RecogniserEncoder(kind, model.wav2vec2, keeps_rows_apart=False)
    return None


def _difference(branch: Any, encoder: RecogniserEncoder | None) -> str | None:
    """Why a branch cannot be served by the encoder, or None if it can."""
    spec = branch.spec
    if not spec.frozen:
        return "it was trained with the classifier"
    if encoder is None or encoder.kind != spec.kind:
        return f"the recogniser has no {spec.kind} encoder"
    if spec.normalise and spec.kind == "whisper":
        return "the classifier normalises its waveforms (normalise), as no Whisper does"
    if not encoder.whole_window:
        return "the recogniser encodes the recording alone (encoder_window is trimmed), not Whisper's whole window"
    theirs, ours = encoder.module.config, branch.config
    for name in FIELDS[spec.kind]:
        if getattr(theirs, name) != getattr(ours, name):
            return f"{name} is {getattr(ours, name)!r}, the recogniser's is {getattr(theirs, name)!r}"
    tensors = encoder.module.state_dict()
    for name, tensor in branch.model.state_dict().items():
        if name in UNUSED_TENSORS:
            continue
        other = tensors.get(name)
        if other is None or other.dtype != tensor.dtype or other.device != tensor.device:
            return f"the recogniser holds {name} in another type or not at all"
        if not torch.equal(tensor, other):
            return f"other weights ({name})"
    return None

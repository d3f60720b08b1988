"""An encoder that recogniser and emotion classifier have in common runs once: what the recogniser computes is kept.

A frozen branch of the classifier is shared if the recogniser holds the same encoder: kind, settings and every tensor
that the branch uses. While the recogniser works, hooks keep the input of its encoder and the layers that the branch
reads. A piece of audio is then served from them only if that input is, number by number, what the branch would have
made of the piece; so another window, another padding or a row that the recogniser left out costs a run of the branch,
and never its result.

Shape legend: B batch, N samples, L input frames (or samples), F mel bins, T output frames, E width, K layers of a mix.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from models.ser.configuration_zipformer import PER_STACK
from models.ser.encoders_ser import DEFAULT_EPS, WHISPER_HOP, normalise, whisper_log_mel
from models.ser.recognisers_ser import parakeet_log_mel, zipformer_log_mel
from models.ser.zipformer_subsampling import CONTEXT_FRAMES
from trainers.recognisers import Recogniser

logger = logging.getLogger(__name__)
# Recognisers extend shorter pieces with silence, and take it for speech.
SHORTEST_SHARED = 4000
# Two front ends that do the same differ by rounding, which the logarithm enlarges in a few bins of quiet frames. A
# shift of one millisecond moves log-mels by 0.02 and more in the mean.
INPUT_TOLERANCE, MEAN_TOLERANCE = 1e-3, 1e-4
# Nothing reads it outside of training.
UNUSED_TENSORS = ("masked_spec_embed",)
# Of a tap: a module, and whether its input is wanted instead of its output.
Point = tuple[nn.Module, bool]


@dataclass
class Call:
    """What one run of the recogniser's encoder showed.

    inputs: (B, L, …). lengths: (B,) true frames of L, as far as the encoder is told; None: all. states: (B, T, E) at
    each point.
    """

    inputs: torch.Tensor
    lengths: torch.Tensor | None
    states: dict[int, torch.Tensor] = field(default_factory=dict)


class Tap(ABC):
    """One branch of a classifier that may be served by the encoder of a recogniser, and what the hooks have kept.

    Subclasses know one kind of encoder each.
    """

    fields: tuple[str, ...] = ()
    """Settings that decide the result beside the tensors."""

    def __init__(self, branch: Any, encoder: Any):
        self.branch, self.encoder = branch, encoder
        self.calls: list[Call] = []

    # --- of each kind ------------------------------------------------------------------------------------------------

    def difference(self) -> str | None:
        """Why the branch cannot be served, or None."""
        theirs, ours = self.encoder.config, self.branch.config
        for name in self.fields:
            if getattr(theirs, name) != getattr(ours, name):
                return f"{name} is {getattr(ours, name)!r}, the recogniser's is {getattr(theirs, name)!r}"
        return _other_tensors(self.branch.model, self.encoder)

    def entry(self) -> nn.Module:
        """Its first argument is the input, its second one, where there is one, a mask (B, L)."""
        return self.encoder

    @abstractmethod
    def points(self) -> list[Point]:
        """Where the states of the branch are."""

    @abstractmethod
    def expected(self, waveform_1N: torch.Tensor) -> torch.Tensor:
        """(L, …) what the branch gives to its encoder for a piece."""

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """T of a piece."""

    def joined(self, states: list[torch.Tensor], num_samples: int) -> torch.Tensor:
        """(1, T', E) rows at each point -> (1, T, E) or (1, T, K, E)."""
        kept = [state[:, : self.num_frames(num_samples)] for state in states]
        return torch.stack(kept, dim=2) if self.branch.spec.features == "mix" else kept[-1]

    # --- of all ------------------------------------------------------------------------------------------------------

    def layer_points(self, layers: Sequence[nn.Module], final: nn.Module | None = None) -> list[Point]:
        """The states before, between and behind layers; `final` is a norm behind the last one."""
        last, features = self.branch.spec.num_layers, self.branch.spec.features
        wanted = range(last + 1) if features == "mix" else [features]
        behind = final or layers[-1]
        return [
            (layers[0], True) if index == 0 else (behind if index == last else layers[index - 1], False)
            for index in wanted
        ]

    def hooks(self) -> list[Any]:
        """Register them; each run of the encoder adds a `Call`."""

        def entered(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.calls.append(Call(self.laid_out(args[0].detach()), self.told_lengths(args)))

        def keep(index: int) -> Callable[..., None]:
            def kept(module: nn.Module, args: tuple[Any, ...], output: Any = None) -> None:
                value = args[0] if output is None else output[0] if isinstance(output, tuple) else output
                self.calls[-1].states[index] = value.detach()

            return kept

        registered = [self.entry().register_forward_pre_hook(entered)]
        for index, (module, is_input) in enumerate(self.points()):
            register = module.register_forward_pre_hook if is_input else module.register_forward_hook
            registered.append(register(keep(index)))
        return registered

    def laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        """The input of the encoder with time behind the batch."""
        return inputs

    def told_lengths(self, args: tuple[Any, ...]) -> torch.Tensor | None:
        """Of the rows, from the arguments of `entry`."""
        return args[1].sum(1) if len(args) > 1 and args[1] is not None else None

    def is_whole(self, call: Call, row: int, num_inputs: int) -> bool:
        """Whether the encoder took so many frames of a row for audio, and no more."""
        return num_inputs == (call.inputs.shape[1] if call.lengths is None else int(call.lengths[row]))

    def features(self, waveform_1N: torch.Tensor) -> torch.Tensor | None:
        """(1, T, E) or (1, T, K, E), what the branch would give for the piece; None where that was not computed."""
        num_samples = waveform_1N.shape[1]
        if num_samples < SHORTEST_SHARED or not self.calls:
            return None
        if self.branch.spec.kind == "whisper" and num_samples > self._window():
            return None
        expected = self.expected(waveform_1N.to(self.calls[0].inputs.device))
        for call in self.calls:
            for row, seen in enumerate(call.inputs):
                if self.is_whole(call, row, len(expected)) and _is_same(expected, seen[: len(expected)]):
                    states = [call.states[index][row : row + 1] for index in range(len(call.states))]
                    return self.joined(states, num_samples)
        return None

    def _window(self) -> int:
        return 2 * WHISPER_HOP * self.branch.config.max_source_positions


class WhisperTap(Tap):
    """Whisper's encoder, stock or that of an S2P, on the whole window."""

    fields = (
        "d_model", "encoder_layers", "encoder_attention_heads", "activation_function", "num_mel_bins",
        "max_source_positions",
    )  # fmt: skip

    def difference(self) -> str | None:
        if self.branch.spec.normalise:
            return "the classifier normalises its waveforms (normalise), as no Whisper does"
        if getattr(self.encoder, "window", "padded") != "padded":
            return "the recogniser encodes the recording alone (encoder_window is trimmed), not Whisper's whole window"
        return super().difference()

    def entry(self) -> nn.Module:
        return self.encoder.conv1  # behind what an S2P does to fill the window

    def laid_out(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.transpose(1, 2)

    def points(self) -> list[Point]:
        return self.layer_points(self.encoder.layers, self.encoder.layer_norm)

    def expected(self, waveform_1N: torch.Tensor) -> torch.Tensor:
        return whisper_log_mel(waveform_1N, self.branch.config.num_mel_bins, self._window())[0].T

    def num_frames(self, num_samples: int) -> int:
        return -(-num_samples // (2 * WHISPER_HOP))


class Wav2Vec2Tap(Tap):
    """Wav2Vec2, of an S2P or of a stock recogniser.

    The stock model is told no lengths here: its first norm counts padding in, so only a row without padding serves.
    """

    fields = (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "feat_extract_norm",
        "feat_extract_activation", "conv_kernel", "conv_stride", "do_stable_layer_norm", "layer_norm_eps",
    )  # fmt: skip

    def points(self) -> list[Point]:
        if self.branch.spec.features == "conv":
            return [(self.encoder.feature_projection.layer_norm, False)]
        inner = self.encoder.encoder
        return self.layer_points(inner.layers, inner.layer_norm if self.encoder.config.do_stable_layer_norm else None)

    def expected(self, waveform_1N: torch.Tensor) -> torch.Tensor:
        if self.branch.spec.normalise:
            waveform_1N = normalise(waveform_1N, torch.ones_like(waveform_1N), DEFAULT_EPS)
        return waveform_1N[0]

    def num_frames(self, num_samples: int) -> int:
        return int(self.branch._frame_counts(torch.tensor([num_samples]))[0])


class FastConformerTap(Tap):
    """The encoder of a FastConformer."""

    def difference(self) -> str | None:
        theirs, ours = self.encoder.config.encoder_fields(), self.branch.model.config.encoder_fields()
        if changed := [name for name in ours if ours[name] != theirs[name]]:
            return f"{changed[0]} is {ours[changed[0]]!r}, the recogniser's is {theirs[changed[0]]!r}"
        return _other_tensors(self.branch.model.encoder, self.encoder)

    def points(self) -> list[Point]:
        return self.layer_points(self.encoder.layers)

    def expected(self, waveform_1N: torch.Tensor) -> torch.Tensor:
        samples_1 = torch.tensor([waveform_1N.shape[1]], device=waveform_1N.device)
        return parakeet_log_mel(waveform_1N, samples_1, self.encoder.config.num_mel_bins)[0][0]

    def num_frames(self, num_samples: int) -> int:
        return int(self.encoder.subsampling.output_lengths(torch.tensor(num_samples // 160)))


class ZipformerTap(Tap):
    """Front-end and stacks of a Zipformer; its layers are joined from the outputs of several stacks."""

    def difference(self) -> str | None:
        theirs, ours = self.encoder.config, self.branch.model.config
        for name in (*PER_STACK, "downsampling", "num_mel_bins", "position_dim", "mask_padding", "padding_value"):
            if getattr(theirs, name) != getattr(ours, name):
                return f"{name} is {getattr(ours, name)!r}, the recogniser's is {getattr(theirs, name)!r}"
        return _other_tensors(self.branch.model, self.encoder)

    def entry(self) -> nn.Module:
        return self.encoder.encoder_embed

    def points(self) -> list[Point]:
        last, features = self.branch.spec.num_layers, self.branch.spec.features
        count = last if features == "mix" else features
        return [
            (self.encoder.encoder_embed, False),
            *((stack, False) for stack in self.encoder.encoder.stacks[:count]),
        ]

    def told_lengths(self, args: tuple[Any, ...]) -> torch.Tensor | None:
        return None  # the front-end is told less than the stacks

    def hooks(self) -> list[Any]:
        def told(module: nn.Module, args: tuple[Any, ...]) -> None:
            self.calls[-1].lengths = args[1]

        return [*super().hooks(), self.encoder.encoder.register_forward_pre_hook(told)]

    def is_whole(self, call: Call, row: int, num_inputs: int) -> bool:
        inside, wanted = self._behind_front_end(call.inputs.shape[1]), self._behind_front_end(num_inputs)
        told = inside if call.lengths is None else int(call.lengths[row])
        # Without masks, padding reaches the last frames.
        return told == wanted and (self.encoder.config.mask_padding or told == inside)

    def expected(self, waveform_1N: torch.Tensor) -> torch.Tensor:
        samples_1 = torch.tensor([waveform_1N.shape[1]], device=waveform_1N.device)
        return zipformer_log_mel(waveform_1N, samples_1, self.encoder.config.num_mel_bins)[0][0]

    def num_frames(self, num_samples: int) -> int:
        return self._behind_front_end((num_samples + 80) // 160)

    def joined(self, states: list[torch.Tensor], num_samples: int) -> torch.Tensor:
        branch = self.branch.model
        embedded, *outputs = (state[:, : self.num_frames(num_samples)] for state in states)
        features = self.branch.spec.features
        wanted = range(len(outputs) + 1) if features == "mix" else [features]
        layers = [branch.encoder.joined(outputs[:count] if count else [embedded], None) for count in wanted]
        wide = [nn.functional.pad(layer, (0, branch.size - layer.shape[-1])) for layer in layers]
        return torch.stack(wide, dim=2) if features == "mix" else wide[-1]

    @staticmethod
    def _behind_front_end(num_inputs: int) -> int:
        return (num_inputs - CONTEXT_FRAMES) // 2


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

    @torch.no_grad()
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
    for branch in getattr(classifier_model, "branches", ()):
        name, tap = branch.spec.name, _tap(recogniser.pipe.model, branch)
        if not branch.spec.frozen:
            reason = "it was trained with the classifier"
        elif tap is None:
            reason = f"the recogniser has no {branch.spec.kind} encoder"
        else:
            reason = tap.difference()
        if reason or tap is None:
            reasons[name] = str(reason)
            logger.info("encoder %s of the classifier runs by itself: %s", name, reason)
        else:
            taps[name] = tap
            logger.info("encoder %s of the classifier is that of %s, which runs once", name, recogniser.name)
    return SharedEncoders(taps, reasons)


def _tap(model: Any, branch: Any) -> Tap | None:
    """For the encoder of a recogniser, if it is of the branch's kind."""
    kind, encoder = model.config.model_type, None
    if kind in ("tspc", "tspc_s2p"):
        encoder = model.s2p.encoder if kind == "tspc" else model.encoder
        kind = encoder.config.model_type
    elif kind == "wav2vec2":
        encoder = model.wav2vec2
    elif kind in ("whisper", "fastconformer"):
        encoder = model.get_encoder()
    if kind != branch.spec.kind:
        return None
    if kind == "zipformer":
        return ZipformerTap(branch, model)
    taps: dict[str, type[Tap]] = {
        "whisper": WhisperTap, "wav2vec2": Wav2Vec2Tap, "fastconformer": FastConformerTap
    }  # fmt: skip
    return taps[kind](branch, encoder) if kind in taps else None


def _is_same(expected: torch.Tensor, seen: torch.Tensor) -> bool:
    difference = (seen.float() - expected.to(seen.dtype).float()).abs()
    tolerance = max(INPUT_TOLERANCE, 2 * torch.finfo(seen.dtype).eps)
    return bool(difference.max() <= tolerance) and bool(difference.mean() <= MEAN_TOLERANCE)


def _other_tensors(branch: nn.Module, encoder: nn.Module) -> str | None:
    """The first tensor of the branch that the encoder does not have just so."""
    tensors = encoder.state_dict()
    for name, tensor in branch.state_dict().items():
        other = tensors.get(name)
        if name in UNUSED_TENSORS:
            continue
        if other is None or other.dtype != tensor.dtype or other.device != tensor.device:
            return f"the recogniser holds {name} in another type or not at all"
        if not torch.equal(tensor, other):
            return f"other weights ({name})"
    return None

"""Log-mel or cepstral frames as an encoder without weights: SpeechFormer++'s own front end and the MFCC baseline.

Computed in float32 whatever the model's precision is, on the device of the waveforms; padding takes part in nothing.

Shape legend: B batch, N samples, T frames, W samples of a window, F mel bins or cepstra, E width with the deltas.
"""

import math
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers.audio_utils import mel_filter_bank

SAMPLING_RATE = 16_000
STYLES = ("kaldi", "plain")
PREEMPHASIS = 0.97
# Kaldi reads 16-bit numbers; its floor is float32's epsilon on that scale, that of the plain style is librosa's.
KALDI_SCALE, KALDI_FLOOR, PLAIN_FLOOR = 32768.0, torch.finfo(torch.float32).eps, 1e-10
# Frames to each side that a delta looks at: the regression of HTK and Kaldi.
DELTA_REACH = 2
NORMALISE_EPS = 1e-5


@dataclass(frozen=True)
class FilterbankSettings:
    """What `config` of an encoder of kind "filterbank" may hold.

    Args:
        style: `"kaldi"`: windows that lie inside the clip, without their mean, pre-emphasised, Povey's window, Kaldi's
            mel filters from 20 Hz on; `"plain"`: windows centred on multiples of the hop, silence around the clip,
            Hann's window, Slaney's mel filters from 0 Hz on. Both: power spectrum, natural logarithm.
        num_mel_bins: filters up to 8 kHz.
        frame_ms, hop_ms: length of a window, and from one to the next.
        num_cepstra: 0: log-mel; else so many coefficients of their orthonormal DCT (MFCC), the first one included,
            without liftering, which normalisation would undo.
        deltas: 0, 1 (slopes beside the frames) or 2 (slopes and their slopes).

    Raises:
        ValueError: a number out of range (named, with what is allowed).
    """

    style: str = "kaldi"
    num_mel_bins: int = 80
    frame_ms: float | int = 25
    hop_ms: float | int = 10
    num_cepstra: int = 0
    deltas: int = 0

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ValueError(f"style is {self.style!r}; it must be one of: {', '.join(map(repr, STYLES))}")
        for field, value in (("frame_ms", self.frame_ms), ("hop_ms", self.hop_ms)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1000:
                raise ValueError(f"{field} is {value!r}; it must be a number of milliseconds from 1 to 1000")
        for field, lowest, highest in (
            ("num_mel_bins", 1, self.fft_size // 2),
            ("num_cepstra", 0, self.num_mel_bins),
            ("deltas", 0, 2),
        ):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
                raise ValueError(f"{field} is {value!r}; it must be a whole number from {lowest} to {highest}")

    @classmethod
    def of(cls, config: dict[str, Any]) -> "FilterbankSettings":
        """From the `config` of an encoder.

        Raises:
            ValueError: a field that is not there, or out of range.
        """
        known = {field.name for field in fields(cls)}
        own = {name: value for name, value in config.items() if name != "model_type"}
        if unknown := sorted(set(own) - known):
            raise ValueError(f"no field {', '.join(unknown)}; allowed are: {', '.join(sorted(known))}")
        return cls(**own)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def frame_samples(self) -> int:
        return round(self.frame_ms * SAMPLING_RATE / 1000)

    @property
    def hop_samples(self) -> int:
        return round(self.hop_ms * SAMPLING_RATE / 1000)

    @property
    def fft_size(self) -> int:
        return 1 << (self.frame_samples - 1).bit_length()

    @property
    def width(self) -> int:
        """Numbers of a frame."""
        return (self.num_cepstra or self.num_mel_bins) * (1 + self.deltas)


@cache
def mel_filters(style: str, num_bins: int, fft_size: int) -> torch.Tensor:
    """(fft_size / 2 + 1, F)"""
    is_kaldi = style == "kaldi"
    filters = mel_filter_bank(
        fft_size // 2 + 1,
        num_bins,
        20.0 if is_kaldi else 0.0,
        SAMPLING_RATE / 2,
        SAMPLING_RATE,
        norm=None if is_kaldi else "slaney",
        mel_scale="kaldi" if is_kaldi else "slaney",
        triangularize_in_mel_space=is_kaldi,
    )
    return torch.from_numpy(filters).float()


@cache
def cosines(num_bins: int, num_cepstra: int) -> torch.Tensor:
    """(F, num_cepstra) of the orthonormal DCT-II."""
    bin_F1 = torch.arange(num_bins, dtype=torch.float64)[:, None]
    table = torch.cos(math.pi / num_bins * (bin_F1 + 0.5) * torch.arange(num_cepstra)) * math.sqrt(2 / num_bins)
    table[:, 0] *= math.sqrt(0.5)
    return table.float()


def kaldi_power(windows_BTW: torch.Tensor, fft_size: int) -> torch.Tensor:
    """Power spectrum (B, T, fft_size / 2 + 1) of windows without their mean, pre-emphasised, under Povey's window."""
    size = windows_BTW.shape[2]
    windows_BTW = windows_BTW - windows_BTW.mean(2, keepdim=True)
    before = torch.cat([windows_BTW[..., :1], windows_BTW[..., :-1]], dim=2)
    window_W = torch.hann_window(size, periodic=False, device=windows_BTW.device).pow(0.85)
    return torch.fft.rfft((windows_BTW - PREEMPHASIS * before) * window_W, n=fft_size).abs().square()


def deltas(frames_BTF: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """Slopes over `DELTA_REACH` frames to each side; beyond a clip its first and last frames go on: (B, T, F)."""
    frame_T = torch.arange(frames_BTF.shape[1], device=frames_BTF.device)
    last_B1 = (lengths_B - 1).clamp(min=0)[:, None]

    def moved(by: int) -> torch.Tensor:
        index_BT = torch.minimum((frame_T + by).clamp(min=0)[None], last_B1)
        return frames_BTF.gather(1, index_BT[..., None].expand(-1, -1, frames_BTF.shape[2]))

    reach = range(1, DELTA_REACH + 1)
    total = sum((n * (moved(n) - moved(-n)) for n in reach), torch.zeros_like(frames_BTF))
    return total / (2 * sum(n * n for n in reach))


class Filterbank(nn.Module):
    """(B, N) waveforms in [-1, 1] at 16 kHz -> (B, T, E) frames; see `FilterbankSettings`.

    Args:
        normalise: whether each of the E columns is brought to zero mean and unit variance over the clip.
    """

    def __init__(self, settings: FilterbankSettings, normalise: bool):
        super().__init__()
        self.settings, self.normalise = settings, normalise
        self.size, self.frame_rate_hz = settings.width, SAMPLING_RATE / settings.hop_samples

    def forward(self, waveforms_BN: torch.Tensor, samples_B: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Waveforms, zero behind their end, and their true samples -> one layer of frames, and the true frames (B,),
        at least one."""
        # Half precision holds neither the range of a power spectrum nor the resolution of the filters.
        with torch.autocast(waveforms_BN.device.type, enabled=False):
            frames_BTF = self._log_mel(waveforms_BN.float())
            lengths_B = self.frame_counts(samples_B)
            if self.settings.num_cepstra:
                table = cosines(self.settings.num_mel_bins, self.settings.num_cepstra)
                frames_BTF = frames_BTF @ table.to(frames_BTF.device)
            blocks = [frames_BTF]
            for _ in range(self.settings.deltas):
                blocks.append(deltas(blocks[-1], lengths_B))
            frames_BTE = torch.cat(blocks, dim=2)
            if self.normalise:
                frames_BTE = self._normalised(frames_BTE, lengths_B)
        return [frames_BTE], lengths_B

    def frame_counts(self, samples_B: torch.Tensor) -> torch.Tensor:
        """Samples -> frames."""
        settings = self.settings
        # Kaldi's windows lie inside the clip, the others reach half their length beyond both its ends.
        inside = settings.frame_samples if settings.style == "kaldi" else 0
        return (torch.div(samples_B - inside, settings.hop_samples, rounding_mode="floor") + 1).clamp(min=1)

    def _log_mel(self, waveforms_BN: torch.Tensor) -> torch.Tensor:
        settings, device = self.settings, waveforms_BN.device
        size, is_kaldi = settings.frame_samples, settings.style == "kaldi"
        if is_kaldi:
            spare = (0, max(0, size - waveforms_BN.shape[1]))
            windows_BTW = nn.functional.pad(waveforms_BN * KALDI_SCALE, spare).unfold(1, size, settings.hop_samples)
            power = kaldi_power(windows_BTW, settings.fft_size)
        else:
            around = (size // 2, size - size // 2)
            windows_BTW = nn.functional.pad(waveforms_BN, around).unfold(1, size, settings.hop_samples)
            windows_BTW = windows_BTW * torch.hann_window(size, device=device)
            power = torch.fft.rfft(windows_BTW, n=settings.fft_size).abs().square()
        filters = mel_filters(settings.style, settings.num_mel_bins, settings.fft_size).to(device)
        return (power @ filters).clamp(min=KALDI_FLOOR if is_kaldi else PLAIN_FLOOR).log()

    @staticmethod
    def _normalised(frames_BTE: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
        frame_T = torch.arange(frames_BTE.shape[1], device=frames_BTE.device)
        mask_BT1 = (frame_T < lengths_B[:, None])[..., None].float()
        count_B11 = lengths_B[:, None, None].float()
        centred = (frames_BTE - (frames_BTE * mask_BT1).sum(1, keepdim=True) / count_B11) * mask_BT1
        return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count_B11 + NORMALISE_EPS)

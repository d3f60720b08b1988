"""DeepSpeed and adapters resume exactly, too."""

import pytest
from settings import difference, steps_of
from test_kills import kill_after_step
from traced import ROOT, read_trace

DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}
BACKENDS = {
    "ZeRO-2": (2, 2, []),
    "ZeRO-3": (2, 3, []),
    "LoRA": (1, None, ["--lora.rank", "4"]),
    "LoRA, 2 ranks": (2, None, ["--lora.rank", "4"]),
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny Whisper for the adapters."""
    import torch
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("whisper")
    sizes = {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
    }
    WhisperModel(WhisperConfig(**sizes, decoder_attention_heads=2, decoder_ffn_dim=64)).save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_resume_exactly(backend, encoder, launcher, arguments, tmp_path, faults):
    ranks, zero, more = BACKENDS[backend]
    environment = {}
    if zero:
        config = str(ROOT / "configs" / "accelerate" / "deepspeed" / f"zero{zero}.json")
        environment = DEEPSPEED | {"ACCELERATE_DEEPSPEED_CONFIG_FILE": config}
        environment |= {"ACCELERATE_DEEPSPEED_ZERO3_INIT": str(zero == 3).lower()}
    else:
        more = [*more, "--model.s2p.encoder", str(encoder)]
    whole = launcher.run(
        arguments(tmp_path / "whole", *more), tmp_path / "reference", ranks=ranks, environment=environment
    )
    assert whole.codes == [0] * ranks, whole
    argv = arguments(tmp_path / "cut", *more)
    cut = launcher.run(argv, tmp_path / "trace", ranks=ranks, environment=environment, fault=kill_after_step(7))
    assert all(code != 0 for code in cut.codes), cut
    again = launcher.run(argv, tmp_path / "trace", ranks=ranks, environment=environment)
    assert again.codes == [0] * ranks, again
    found = [
        difference(
            steps_of(read_trace(tmp_path / f"reference-{rank}.jsonl")), read_trace(tmp_path / f"trace-{rank}.jsonl")
        )
        for rank in range(ranks)
    ]
    faults.check(2, f"kill -9 under {backend}", found == [None] * ranks, found)

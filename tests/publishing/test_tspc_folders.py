"""Evaluating, completing and merging models of this project."""

import io
import json

import pytest
import torch
from rich.console import Console

from data_scripts.sources import SourceArguments
from scripts.publish import main as publish_main
from trainers.card import read_card_facts
from trainers.checkpoint_folder import check_folder
from trainers.command_line import EvaluationArguments
from trainers.evaluation import evaluate, report_table
from trainers.publishing import merge_adapters
from trainers.recognisers import RecogniserError, load_recogniser, load_zero

from .loopback_hub import TOKEN


@pytest.fixture(scope="module")
def report(tiny_models, corpus, tmp_path_factory):
    models = [str(tiny_models["tspc"]), str(tiny_models["s2p"])]
    output = str(tmp_path_factory.mktemp("eval") / "m.json")
    zero = [str(tiny_models["s2p"]), str(tiny_models["p2t"])]
    return evaluate(
        EvaluationArguments(
            SourceArguments(str(corpus)), models, zero, batch_size=3, device="cpu", bootstrap_samples=20, output=output
        )
    )


def test_phonemes_are_scored_in_both_registers(report):
    tspc, s2p, zero = report["rows"]
    assert {"wer", "cer", "per_full", "per_vmd", "wer_en"} <= set(tspc["metrics"])
    assert set(s2p["metrics"]) == {"per_full", "per_vmd"}  # no text, no word error rate
    assert [row["register"] for row in report["rows"]] == ["full", "full", "full"]
    # The joined model contains this very S2P, greedy: the same phonemes, the same errors.
    for name in ("per_full", "per_vmd"):
        assert s2p["metrics"][name] == tspc["metrics"][name] == zero["metrics"][name]
    assert zero["model"].startswith("TSPC-Zero: ") and "wer_difference" in zero and "wer_difference" not in s2p


def test_the_table_fits_a_narrow_terminal(report):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(report_table(report))
    text = console.export_text()
    assert "…" not in text and "PER (vmd)" in text
    for row in report["rows"]:
        assert f"{100 * row['metrics']['per_full']['value']:.2f}" in text
    assert "–" in text.split("WER")[1].splitlines()[0]  # the phoneme model has no word error rate


def test_register_vmd_says_what_it_cannot_give(corpus, tmp_path):
    from .tiny_tspc import save_tiny_models

    folders = save_tiny_models(tmp_path, register="vmd")
    args = EvaluationArguments(
        SourceArguments(str(corpus)), [str(folders["s2p"])], device="cpu", output=str(tmp_path / "m.json")
    )
    row = evaluate(args)["rows"][0]
    assert set(row["metrics"]) == {"per_vmd"} and "cannot be mapped back" in row["note"]


def test_wrong_stages_are_refused(tiny_models):
    s2p, p2t = str(tiny_models["s2p"]), str(tiny_models["p2t"])
    with pytest.raises(RecogniserError, match="first of --zero S2P P2T: it is a 'tspc_p2t' model"):
        load_zero(p2t, s2p, device="cpu")
    with pytest.raises(RecogniserError, match="evaluate it with --zero"):
        load_recogniser(p2t, device="cpu")


def test_mismatched_vocabularies_are_refused(tiny_models, tmp_path):
    from .tiny_tspc import save_tiny_models

    other = save_tiny_models(tmp_path, register="vmd")
    with pytest.raises(RecogniserError, match="do not fit together"):
        load_zero(str(tiny_models["s2p"]), str(other["p2t"]), device="cpu")


@pytest.mark.parametrize("stage", ["s2p", "p2t", "tspc"])
def test_saved_models_are_complete(tiny_models, stage):
    assert check_folder(tiny_models[stage]) == []


def test_adapters_are_merged(tiny_models, tmp_path):
    from peft import LoraConfig, get_peft_model

    from models.tspc import S2PForConditionalGeneration

    base = S2PForConditionalGeneration.from_pretrained(tiny_models["s2p"])
    adapted = get_peft_model(base, LoraConfig(target_modules=r"encoder\..*\.(q_proj|v_proj)", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapters")
    assert "merge them first" in str(check_folder(tmp_path / "adapters")[0])
    merged = merge_adapters(tmp_path / "adapters", tmp_path / "merged")
    assert check_folder(merged) == []
    inputs = {"input_features": torch.randn(1, 80, 40), "decoder_input_ids": torch.tensor([[3, 4, 5]])}
    with torch.no_grad():
        expected = adapted.eval()(**inputs).logits
        plain = S2PForConditionalGeneration.from_pretrained(tiny_models["s2p"]).eval()(**inputs).logits
        found = S2PForConditionalGeneration.from_pretrained(merged).eval()(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, expected, atol=1e-3)
    with pytest.raises(FileExistsError, match="not empty"):
        merge_adapters(tmp_path / "adapters", merged)
    with pytest.raises(FileNotFoundError, match="no LoRA adapters"):
        merge_adapters(merged, tmp_path / "again")


def test_the_publish_script(hub, tiny_models, report, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    folder = str(tiny_models["tspc"])
    (tmp_path / "m.json").write_text(json.dumps(report))
    assert publish_main([folder, "mine", "--dry_run"]) == 0
    assert "model.safetensors" in capsys.readouterr().out and not hub.requests
    assert publish_main([folder, "mine", "--metrics", str(tmp_path / "m.json")]) == 0
    assert "published: " in capsys.readouterr().out
    card = hub.files("tester/mine")["README.md"].decode()
    assert "model-index" in card and "tester/mine" in card and folder not in card
    assert [evaluation.model for evaluation in read_card_facts(folder).evaluations] == [
        None, "s2p", "TSPC-Zero: s2p + p2t",
    ]  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", TOKEN + "x")
    assert publish_main([folder, "mine"]) == 3
    assert "not published: " in capsys.readouterr().err
    assert publish_main([str(tmp_path), "mine"]) == 2
    assert "config.json: missing" in capsys.readouterr().err

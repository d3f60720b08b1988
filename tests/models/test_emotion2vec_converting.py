import argparse
import json

import pytest
import torch
import yaml
from emotion2vec_kit import inputs, published_config, published_state, waves
from safetensors.torch import load_file

from models.emotion2vec import Emotion2VecForAudioClassification, Emotion2VecModel
from models.emotion2vec.converting_emotion2vec import (
    config_of,
    convert,
    parse_convs,
    read_checkpoint,
    read_labels,
    rename,
)
from scripts.convert_emotion2vec import main

TOKENS = "生气/angry\n开心/happy\nunuse_0\n中立/neutral\nunuse_1\n<unk>\n"


def write_published(folder, *, classes=6, wrap=lambda state: {"model": state}, **changes):
    """A folder as the authors publish it, with parts that only pre-training uses."""
    folder.mkdir(parents=True, exist_ok=True)
    published = published_config(**changes)
    state = published_state(published, classes)
    extra = {
        "modality_encoders.AUDIO.decoder.blocks.0.0.weight": torch.zeros(3),
        "_ema": {"blocks.0.attn.qkv.weight": torch.zeros(2)},
        "recon_proj.weight": torch.zeros(2, 2),
    }
    torch.save(wrap({**state, **extra}), folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(published))
    if classes:
        (folder / "tokens.txt").write_text(TOKENS, encoding="utf-8")
    return folder, published, state


def test_a_classifier_is_converted_whole(tmp_path, capsys):
    source, _, state = write_published(tmp_path / "source")
    assert main([str(source), str(tmp_path / "out")]) == 0
    assert "angry, happy, neutral, <unk> (of 6 outputs)" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"model.safetensors", "config.json", "preprocessor_config.json", "modeling_emotion2vec.py"}
    assert files >= {"pipeline_audio_classification.py", "audio_input.py", "emotion2vec_layers.py"}
    assert not [name for name in files if name.endswith((".pt", ".bin"))]
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(tensor.numel() for tensor in state.values())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_prenet_layers"] == 2 and config["num_main_layers"] == 3 and config["layer_norm_eps"] == 1e-5
    assert str(tmp_path) not in json.dumps(config)
    model = Emotion2VecForAudioClassification.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(model.emotion2vec.layers[2].attention.qkv.weight, state["blocks.0.attn.qkv.weight"])
    torch.testing.assert_close(model.classifier.weight, state["proj.weight"])
    probabilities = model(**inputs(waves(8000, 5000))).logits.softmax(-1)
    assert not probabilities[:, [2, 4]].any() and (probabilities[:, [0, 1, 3, 5]] > 0).all()
    assert model.config.id2label[0] == "angry" and model.config.label2id["<unk>"] == 5


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state},
        lambda state: {"model": {f"d2v_model.{name}": value for name, value in state.items()}},
        lambda state: state,
    ],
    ids=["state_dict", "prefix", "bare"],
)
def test_layouts_of_the_file(tmp_path, wrap):
    source, _, state = write_published(tmp_path, wrap=wrap)
    assert set(read_checkpoint(source / "model.pt")) == set(state)


def test_an_encoder_is_converted_without_a_head(tmp_path):
    source, _, _ = write_published(tmp_path / "source", classes=0, layer_norm_first=True)
    assert main([str(source), str(tmp_path / "out")]) == 0
    model = Emotion2VecModel.from_pretrained(tmp_path / "out")
    assert model.config.layer_norm_first and model.config.architectures == ["Emotion2VecModel"]
    source, _, _ = write_published(tmp_path / "classifier")
    assert main([str(source), str(tmp_path / "encoder"), "--encoder_only"]) == 0
    Emotion2VecModel.from_pretrained(tmp_path / "encoder")


def test_other_scales(tmp_path):
    published = published_config(learned_alibi_scale_per_layer=True, learned_alibi_scale_per_head=False)
    model = convert(published_state(published), published)
    assert model.alibi_scale.shape == (5, 1)
    old = published_state(published_config())
    name = "modality_encoders.AUDIO.alibi_scale"
    renamed = rename({name: old[name][0]}, config_of(published_config()))  # very old files: no axis of layers
    torch.testing.assert_close(renamed["alibi_scale"], old[name].view(1, 6))


def test_nothing_in_the_file_is_run(tmp_path, capsys):
    source, _, _ = write_published(tmp_path, wrap=lambda state: {"model": state, "args": argparse.Namespace(a=1)})
    with pytest.raises(ValueError, match=r"more than tensors \(argparse.Namespace\).*nothing was run"):
        read_checkpoint(source / "model.pt")
    (source / "model.pt").write_bytes((source / "model.pt").read_bytes()[:5000])
    assert main([str(source), str(tmp_path / "out")]) == 2
    assert "truncated" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_does_not_fit_is_named(tmp_path, capsys):
    def refused(message, change=None, **changes):
        source, _, state = write_published(tmp_path / message.replace("/", "_")[:20], **changes)
        if change:
            change(source, state)
        assert main([str(source), str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err

    def without_tensor(source, state):
        state.pop("blocks.1.mlp.fc2.bias")
        torch.save({"model": state}, source / "model.pt")

    def another_model(source, state):
        torch.save({"model": {"encoder.weight": torch.zeros(3)}}, source / "model.pt")

    refused("layers.3.mlp.fc2.bias", without_tensor)
    refused("it is not emotion2vec", another_model)
    refused("there is no tokens.txt", lambda source, state: (source / "tokens.txt").unlink())
    refused("names 2 classes but the classifier has 6", lambda s, _: (s / "tokens.txt").write_text("a\nb\n"))
    refused("the sizes of the model are read from it", lambda source, state: (source / "config.yaml").unlink())
    refused("name the file of weights with --weights", lambda source, state: (source / "model.pt").unlink())
    refused("config.yaml lacks modalities.audio", lambda s, _: (s / "config.yaml").write_text("model: {depth: 3}"))
    refused("extractor_mode: 'default'", extractor_mode="default")
    refused("conv_pos_pre_ln: True", conv_pos_pre_ln=True)
    refused(
        "layers.5.attention", lambda s, _: (s / "config.yaml").write_text(yaml.safe_dump(published_config(depth=4)))
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    assert main([str(tmp_path), str(tmp_path / "full")]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_convolutions_are_parsed_not_evaluated():
    published = "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
    assert parse_convs(published) == [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
    assert parse_convs("[(8, 10, 5), (4,3,2)]*2") == [(8, 10, 5), (4, 3, 2)] * 2
    with pytest.raises(ValueError, match="is not a sum"):
        parse_convs("__import__('os').getcwd()")


def test_labels_of_published_files(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text(TOKENS, encoding="utf-8")
    assert read_labels(path) == (
        ["angry", "happy", "unuse_0", "neutral", "unuse_1", "<unk>"],
        ["angry", "happy", "neutral", "<unk>"],
    )
    path.write_text("生气/angry\n难过/sad\n", encoding="utf-8")
    assert read_labels(path) == (["angry", "sad"], None)


def test_the_script_says_what_it_does(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "tokens.txt" in capsys.readouterr().out

"""Loading, heads, freezing, LoRA, checkpointing, precision."""

import json

import pytest
import torch
from emotion2vec_kit import LABELS, inputs, make, tiny_config, waves
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from models.emotion2vec import CheckpointError, Emotion2VecForAudioClassification, Emotion2VecModel

BATCH = inputs(waves(4000, 7000, 5000))
TARGETS = torch.tensor([0, 3, 1])


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    make(Emotion2VecForAudioClassification).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    make(Emotion2VecModel).save_pretrained(folder)
    return folder


def step(model, learning_rate=1e-2):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    loss = model(**BATCH, labels=TARGETS % model.config.num_labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model, before):
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_saved_and_loaded_is_the_same_model(classifier_folder):
    model = make(Emotion2VecForAudioClassification)
    again = Emotion2VecForAudioClassification.from_pretrained(classifier_folder)
    stored = again.state_dict()
    assert [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, stored[name])] == []
    assert not again.training
    assert torch.equal(model(**BATCH).logits, again(**BATCH).logits)


def test_fixed_scales_stay_fixed_when_loaded(tmp_path):
    model = make(Emotion2VecForAudioClassification, learned_alibi_scale=False)
    assert not model.emotion2vec.alibi_scale.requires_grad
    model.save_pretrained(tmp_path)
    assert not Emotion2VecForAudioClassification.from_pretrained(tmp_path).emotion2vec.alibi_scale.requires_grad


def test_an_encoder_loads_from_either_folder(classifier_folder, encoder_folder):
    one, two = (Emotion2VecModel.from_pretrained(folder) for folder in (classifier_folder, encoder_folder))
    assert one(**BATCH).pooler_output.shape == two(**BATCH).pooler_output.shape == (3, 32)
    whole = Emotion2VecForAudioClassification.from_pretrained(classifier_folder)
    assert torch.equal(one(**BATCH).pooler_output, whole(**BATCH).embeddings)


def test_a_missing_head_is_an_error_never_a_random_one(encoder_folder, classifier_folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"classifier.bias, classifier.weight"):
        Emotion2VecForAudioClassification.from_pretrained(encoder_folder)
    with pytest.raises(CheckpointError, match=r"classifier\.\w+ has shape \(4.*\) in the weights but \(2"):
        Emotion2VecForAudioClassification.from_pretrained(classifier_folder, num_labels=2)
    weights = load_file(classifier_folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((classifier_folder / "config.json").read_bytes())
    weights.pop("emotion2vec.layers.1.mlp.fc1.bias")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for model_class in (Emotion2VecForAudioClassification, Emotion2VecModel):
        with pytest.raises(CheckpointError, match=r"layers.1.mlp.fc1.bias"):
            model_class.from_pretrained(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match="safetensors"):
        Emotion2VecModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("source", ["encoder_folder", "classifier_folder"])
def test_a_new_head_is_asked_for_by_name(source, request, tmp_path):
    folder = request.getfixturevalue(source)
    model = Emotion2VecForAudioClassification.with_new_head(folder, ["neutral", "negative"])
    assert not model.training and model.config.id2label == {0: "neutral", 1: "negative"}
    assert model.classifier.weight.abs().max() < 0.2 and not model.classifier.bias.any()
    kept = Emotion2VecModel.from_pretrained(folder)
    assert torch.equal(model(**BATCH).embeddings, kept(**BATCH).pooler_output)
    before = snapshot(model)
    step(model)
    assert moved(model, before) == set(before)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["label2id"] == {"neutral": 0, "negative": 1} and str(folder) not in json.dumps(config)
    assert config["architectures"] == ["Emotion2VecForAudioClassification"]
    again = Emotion2VecForAudioClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**BATCH).logits, model.eval()(**BATCH).logits)


def test_replacing_the_head():
    model = make(Emotion2VecForAudioClassification, active_labels=["angry"])
    expected = model(**BATCH).embeddings
    assert model.replace_head(["neutral", "negative"]) is model
    output = model(**BATCH, labels=torch.tensor([0, 1, 1]))
    assert output.logits.shape == (3, 2) and output.logits.isfinite().all() and output.loss.isfinite()
    assert torch.equal(output.embeddings, expected) and model.config.num_labels == 2
    for labels in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="each once"):
            model.replace_head(labels)


def test_fewer_classes_by_masking():
    model = make(Emotion2VecForAudioClassification)
    everything = model(**BATCH).logits
    model.config.active_labels = ["neutral", "angry"]
    output = model(**BATCH, labels=torch.tensor([0, 2, 0]))
    assert torch.equal(output.logits[:, [0, 2]], everything[:, [0, 2]])
    assert torch.isneginf(output.logits[:, [1, 3]]).all()
    torch.testing.assert_close(
        output.loss, torch.nn.functional.cross_entropy(everything[:, [0, 2]], torch.tensor([0, 1, 0]))
    )
    output.loss.backward()
    gradient = model.classifier.weight.grad
    assert gradient.isfinite().all() and not gradient[[1, 3]].any() and gradient[[0, 2]].any()
    with pytest.raises(ValueError, match=r"labels hold \[1, 3\]; the classes that this model answers are \[0, 2\]"):
        model(**BATCH, labels=TARGETS)
    with pytest.raises(ValueError, match=r"labels hold \[7\]"):
        make(Emotion2VecForAudioClassification)(**BATCH, labels=torch.tensor([0, 7, 1]))
    config = tiny_config(active_labels=["sad", "happy"])
    assert config.active_label_ids() == [LABELS.index("happy"), LABELS.index("sad")]


def test_frozen_parts_do_not_move_and_stay_in_evaluation_mode():
    model = make(Emotion2VecForAudioClassification)
    model.freeze_feature_encoder()
    before = snapshot(model)
    step(model)
    still = {name for name in before if name.startswith("emotion2vec.feature_encoder.")}
    assert moved(model, before) == set(before) - still and still

    model = make(Emotion2VecForAudioClassification)
    model.emotion2vec.freeze_layers(2)
    before = snapshot(model)
    step(model)
    assert {name.split(".")[2] for name in moved(model, before) if "layers" in name} == {"2"}
    assert not model.emotion2vec.layers[0].mlp.dropout.training and model.emotion2vec.layers[2].mlp.dropout.training
    with pytest.raises(ValueError, match=r"freeze_layers\(9\): the model has 3 blocks"):
        model.emotion2vec.freeze_layers(9)

    model = make(Emotion2VecForAudioClassification)
    model.freeze_base_model()
    before, expected = snapshot(model), model(**BATCH).embeddings
    step(model)
    assert moved(model, before) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(model.train()(**BATCH).embeddings, expected), "no dropout in a frozen encoder"


@pytest.mark.parametrize("changes", [{}, {"attention_block_elements": 1}], ids=["whole", "blocks"])
def test_gradient_checkpointing_changes_no_gradient(changes):
    dropouts = dict.fromkeys(("hidden_dropout", "mlp_dropout", "input_dropout", "attention_dropout"), 0.0)
    model = make(Emotion2VecForAudioClassification, **dropouts, **changes).double().train()
    batch = {"input_values": BATCH["input_values"].double(), "attention_mask": BATCH["attention_mask"]}
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert all(layer.gradient_checkpointing for layer in model.emotion2vec.layers)
        model(**batch, labels=TARGETS).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
        model.zero_grad()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(dtype, implementation):
    model = make(Emotion2VecForAudioClassification, attn_implementation=implementation)
    expected = model(**BATCH).embeddings
    half = model.to(dtype)(**BATCH)
    assert half.embeddings.dtype == dtype and half.logits.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half.embeddings.float(), expected).min() > 0.99


def test_autocast_trains():
    model = make(Emotion2VecForAudioClassification).train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**BATCH, labels=TARGETS).loss
    loss.backward()
    assert loss.dtype == torch.float32 and all(p.grad.isfinite().all() for p in model.parameters())


def test_layers_left_out_in_training():
    model = make(Emotion2VecForAudioClassification, layerdrop=0.9).train()
    torch.manual_seed(0)
    model(**BATCH, labels=TARGETS).loss.backward()
    assert any(p.grad is None for p in model.emotion2vec.layers.parameters())


def test_lora_trains_saves_reloads_and_merges(encoder_folder, tmp_path):
    base = Emotion2VecForAudioClassification.with_new_head(encoder_folder, ["neutral", "negative"])
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=["qkv", "proj"], modules_to_save=["classifier"])
    model = get_peft_model(base, config)
    before = snapshot(model)
    for _ in range(2):
        step(model, 0.5)
    changed = moved(model, before)
    assert any("attention.qkv.lora_B" in name for name in changed)
    assert any("attention.proj.lora_B" in name for name in changed)
    assert any("classifier.modules_to_save" in name for name in changed)
    assert not [name for name in changed if "lora" not in name and "classifier" not in name]
    expected = model.eval()(**BATCH).logits
    model.save_pretrained(tmp_path / "adapter")
    base = Emotion2VecForAudioClassification.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(**BATCH).logits, expected, rtol=0, atol=1e-5)
    merged = loaded.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = Emotion2VecForAudioClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(**BATCH).logits, expected, rtol=0, atol=1e-4)


def test_a_small_model_learns_from_scratch():
    torch.manual_seed(0)
    model = Emotion2VecForAudioClassification(tiny_config(num_extra_tokens=2)).train()
    time = torch.arange(3000) / 16_000
    tones = [torch.sin(2 * torch.pi * frequency * time).numpy() for frequency in (150, 400, 1000, 2500)]
    batch, targets = inputs(tones), torch.arange(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = model(**batch, labels=targets).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses[::10]

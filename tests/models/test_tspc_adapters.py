"""LoRA on the speech encoder (peft): trains, saves, reloads and merges."""

import torch
from model_kit import make_inputs, make_labels, make_s2p, make_tspc
from peft import LoraConfig, PeftModel, get_peft_model

from models.tspc import S2PForConditionalGeneration

ENCODER_ATTENTION = r"encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"


def train(model, steps=2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    features, mask, _ = make_inputs()
    for _ in range(steps):
        model(input_features=features, attention_mask=mask, labels=make_labels()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_lora_on_the_encoder_trains_saves_reloads_and_merges(tmp_path):
    features, mask, _ = make_inputs()
    inputs = {"input_features": features, "attention_mask": mask, "labels": make_labels()}
    base = make_s2p()
    base.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=4, target_modules=ENCODER_ATTENTION, modules_to_save=["decoder", "proj_out"])
    model = get_peft_model(base, config).train()
    assert model.base_model.model.encoder.training, "adapters inside: no longer a frozen part"
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any("encoder.layers.0.self_attn.q_proj.lora_B" in name for name in moved)
    assert any("decoder.modules_to_save" in name for name in moved)
    assert not any(".encoder." in name and "lora" not in name for name in moved)
    model.eval()
    with torch.no_grad():
        expected = model(**inputs).logits
    ids = model.generate(input_features=features, attention_mask=mask)
    model.save_pretrained(tmp_path / "adapter")

    loaded = PeftModel.from_pretrained(
        S2PForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    merged = loaded.merge_and_unload()
    assert not any("lora" in name for name in merged.state_dict())
    merged.save_pretrained(tmp_path / "merged")
    assert (tmp_path / "merged" / "modeling_s2p.py").exists()
    again = S2PForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(again.generate(input_features=features, attention_mask=mask), ids)


def test_lora_on_the_text_encoder_of_the_joint_model():
    model = make_tspc()
    model.freeze("freeze")
    config = LoraConfig(
        r=2, target_modules=r"p2t\.encoder\.block\.\d+\.layer\.0\.SelfAttention\.(q|v)", modules_to_save=["bridge"]
    )
    model = get_peft_model(model, config).train()
    train(model)
    assert not model.base_model.model.s2p.training
    features, mask, _ = make_inputs()
    assert model.generate(input_features=features, attention_mask=mask, max_new_tokens=4).shape[0] == 2

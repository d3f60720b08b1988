"""The Trainer: losses that do not depend on how a batch is divided, honest evaluation, complete checkpoints."""

import json

import numpy as np
import pytest
import torch
from tiny_tspc import (
    PHONEME_TOKENIZER,
    TEXT_TOKENIZER,
    make_p2t,
    make_rows,
    make_s2p,
    make_tspc,
    p2t_collator,
    s2p_collator,
    speech_inputs,
    tspc_collator,
)
from transformers import EarlyStoppingCallback, Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration

from data_scripts.augment import Augmenter
from trainers.arguments import AugmentationArguments
from trainers.cache import S2POutputCache
from trainers.collators import IGNORED
from trainers.seq2seq import SpeechSeq2SeqTrainer

AUGMENTER = Augmenter(
    AugmentationArguments(
        speed=0.1,
        gain_db=3.0,
        noise_snr_db=20.0,
        time_masks=1,
        time_mask_s=0.1,
        frequency_masks=1,
        frequency_mask_bins=4,
    )
)


@pytest.fixture(scope="module")
def rows():
    return make_rows(24)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 3e-3,
        "logging_steps": 1,
        "max_steps": 5,
        "save_strategy": "no",
        "predict_with_generate": True,
        "generation_max_length": 12,
        "remove_unused_columns": False,
        "label_names": ["labels"],
    }
    return Seq2SeqTrainingArguments(**settings | changes)


def make_trainer(folder, model, collator, rows, *, trainer=None, **changes):
    return SpeechSeq2SeqTrainer(
        model=model, args=arguments(folder, **changes), data_collator=collator, train_dataset=rows, **trainer or {}
    )


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def stock_t5():
    sizes = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 1,
        "num_heads": 2,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(vocab_size=len(PHONEME_TOKENIZER), **sizes))


@pytest.mark.parametrize(
    ("make", "collator"),
    [
        (lambda: make_s2p(ctc_weight=0.3), s2p_collator()),
        (make_p2t, p2t_collator()),
        (make_tspc, tspc_collator()),
        (stock_t5, p2t_collator()),
    ],
    ids=["s2p-hybrid", "p2t", "tspc", "stock-t5"],
)
def test_loss_does_not_depend_on_accumulation(make, collator, rows, tmp_path):
    curves, weights = [], []
    for batch_size, accumulation in ((24, 1), (6, 4)):
        torch.manual_seed(0)
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        # Adam would turn rounding errors of near-zero gradients into whole steps.
        trainer = make_trainer(tmp_path, make(), collator, rows, max_steps=3, optim="sgd", learning_rate=0.1, **sizes)
        trainer.train()
        curves.append(losses(trainer))
        weights.append(torch.cat([value.flatten() for value in snapshot(trainer.model).values()]))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-5)


def test_models_with_dishonest_losses_are_refused(rows, tmp_path):
    model = make_p2t()
    model.accepts_loss_kwargs = False
    with pytest.raises(ValueError, match="num_items_in_batch"):
        make_trainer(tmp_path, model, p2t_collator(), rows)


def model_with_varied_phonemes(rows):
    """Among equal phonemes attention has nothing to choose from, and its queries and keys would get no gradient."""
    batch = tspc_collator()([rows[i] for i in range(8)])
    for seed in range(50):
        torch.manual_seed(seed)
        model = make_tspc("freeze")
        heard = model.eval().phonemes_and_states(batch["input_features"], batch["attention_mask"])[0]
        if len(heard[heard > 3].unique()) > 2:
            return model
    raise AssertionError("no random model emits three different phonemes")


def test_frozen_tensors_stay_and_trainable_ones_move(rows, tmp_path):
    model = model_with_varied_phonemes(rows)
    before = snapshot(model)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable and not any(name.startswith("s2p.") for name in trainable)
    make_trainer(tmp_path, model, tspc_collator(), rows, learning_rate=1e-2).train()
    moved = {name for name, value in snapshot(model).items() if not torch.equal(value, before[name])}
    assert moved == trainable


def test_cached_joint_training_is_the_same(rows, tmp_path):
    curves = []
    for cached in (False, True):
        torch.manual_seed(0)
        model = make_tspc()
        data = S2POutputCache(tmp_path).attach(rows, model, speech_inputs()) if cached else rows
        trainer = make_trainer(tmp_path, model, tspc_collator(), data, trainer={"batch_budget": 2.0})
        trainer.train()
        curves.append(losses(trainer))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3)


def test_evaluation_scores_every_row_once_in_order_without_the_answer(rows, tmp_path, monkeypatch):
    collator, model, seen = s2p_collator(), make_s2p(), []
    scored = {}

    def metrics(prediction):
        scored.update(predictions=prediction.predictions, labels=prediction.label_ids)
        return {"per": 0.5}

    options = {"eval_dataset": rows, "compute_metrics": metrics, "eval_batch_budget": 2.0, "max_new_tokens": 6}
    trainer = make_trainer(tmp_path, model, collator, rows, trainer=options)
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **inputs: (seen.append(set(inputs)), generate(**inputs))[1])
    metrics_out = trainer.evaluate()
    assert metrics_out["eval_per"] == 0.5
    assert all(not keys & {"labels", "decoder_input_ids"} for keys in seen) and len(seen) > 1
    for index in range(len(rows)):
        batch = collator([rows[index]])
        target = batch.pop("labels")[0].tolist()
        assert [token for token in scored["labels"][index] if token != IGNORED] == target
        alone = model.eval().generate(**batch, max_new_tokens=6)[0].tolist()
        assert [token for token in scored["predictions"][index] if token != IGNORED] == alone
    output = trainer.predict(rows.select(range(3)))
    assert np.array_equal(
        output.label_ids[0][: len(collator([rows[0]])["labels"][0])], collator([rows[0]])["labels"][0]
    )


def test_reference_phonemes_are_not_shown_to_generate(tmp_path):
    trainer = make_trainer(tmp_path, make_tspc(), tspc_collator(), make_rows(2))
    shown = {}
    ids = torch.ones(1, 2, dtype=torch.long)
    trainer.model.generate = lambda **inputs: (shown.update(inputs), ids)[1]
    trainer._generate({"input_features": ids, "phoneme_ids": ids, "s2p_states": ids, "labels": ids}, {})
    assert set(shown) == {"input_features", "max_new_tokens"}
    shown.clear()
    trainer._generate({"phoneme_ids": ids, "s2p_states": ids, "labels": ids}, {"num_beams": 2, "max_length": 9})
    assert set(shown) == {"phoneme_ids", "s2p_states", "num_beams", "max_new_tokens"} and shown["max_new_tokens"] == 9


def test_evaluation_loss_is_per_token_of_the_whole_set(rows, tmp_path):
    model = make_s2p(ctc_weight=0.2).eval()
    found = []
    for batch_size in (1, 7):
        sizes = {"per_device_eval_batch_size": batch_size, "predict_with_generate": False}
        trainer = make_trainer(tmp_path, model, s2p_collator(), rows, trainer={"eval_dataset": rows}, **sizes)
        found.append(trainer.evaluate()["eval_loss"])
    with torch.no_grad():
        expected = model(**s2p_collator()([rows[i] for i in range(len(rows))])).loss.item()
    assert found == pytest.approx([expected, expected], rel=1e-5)


def test_parts_of_the_loss_are_logged(rows, tmp_path):
    model = make_s2p()
    forward = model.forward

    def with_part(labels=None, num_items_in_batch=None, **inputs):
        output = forward(labels=labels, num_items_in_batch=num_items_in_batch, **inputs)
        output["half_loss"] = output.loss / 2
        return output

    model.forward = with_part
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "logging_steps": 3, "max_steps": 6}
    trainer = make_trainer(tmp_path, model, s2p_collator(), rows, trainer={"eval_dataset": rows}, **sizes)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "half_loss" in entry]
    assert len(logged) == 2
    assert all(entry["half_loss"] == pytest.approx(entry["loss"] / 2, rel=1e-4) for entry in logged)
    metrics = trainer.evaluate()
    assert metrics["eval_half_loss"] == pytest.approx(metrics["eval_loss"] / 2)


def test_label_smoothing_equals_torchs(rows, tmp_path):
    model, batch = make_p2t(), p2t_collator()([rows[i] for i in range(6)])
    trainer = make_trainer(tmp_path, model.train(), p2t_collator(), rows, label_smoothing_factor=0.2)
    loss, outputs = trainer.compute_loss(model, dict(batch), return_outputs=True)
    flat = outputs.logits.flatten(0, 1), batch["labels"].flatten()
    expected = torch.nn.functional.cross_entropy(*flat, ignore_index=IGNORED, label_smoothing=0.2)
    torch.testing.assert_close(loss, expected)
    model.eval()
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), model(**batch).loss)


def test_checkpoints_are_complete(rows, tmp_path):
    cards = []

    def write_card(folder, trainer):
        cards.append(trainer.state.global_step)
        with open(f"{folder}/README.md", "w", encoding="utf-8") as file:
            file.write("card")

    options = {"processing_class": PHONEME_TOKENIZER, "write_card": write_card}
    model = make_s2p()
    trainer = make_trainer(
        tmp_path, model, s2p_collator(), rows, trainer=options, save_strategy="steps", save_steps=2, max_steps=4
    )
    trainer.train()
    assert cards == [2, 4]
    folder = tmp_path / "checkpoint-4"
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_s2p.py",
        "tokenizer.json",
        "README.md",
        "optimizer.pt",
        "trainer_state.json",
    }
    assert "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    again = type(model).from_pretrained(folder)
    assert all(torch.equal(value, snapshot(model)[name]) for name, value in snapshot(again).items())


def test_bf16_autocast_keeps_float32_weights(rows, tmp_path):
    trainer = make_trainer(tmp_path, make_s2p(ctc_weight=0.3), s2p_collator(), rows, bf16=True)
    trainer.train()
    assert np.isfinite(losses(trainer)).all()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_gradient_checkpointing_changes_nothing(rows, tmp_path):
    curves = []
    for recompute in (False, True):
        torch.manual_seed(0)
        options = {"gradient_checkpointing": recompute, "max_steps": 3}
        trainer = make_trainer(tmp_path, make_s2p(), s2p_collator(), rows, **options)
        trainer.train()
        curves.append(losses(trainer))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)


def test_evaluation_data_cannot_be_a_stream(rows, tmp_path):
    trainer = make_trainer(tmp_path, make_s2p(), s2p_collator(), rows)
    with pytest.raises(ValueError, match="cannot be a stream"):
        trainer.evaluate(rows.to_iterable_dataset())


def test_early_stopping_keeps_the_best_by_wer(rows, tmp_path):
    rates = iter([0.9, 0.5, 0.6, 0.7, 0.1])
    options = {
        "eval_dataset": rows.select(range(4)),
        "compute_metrics": lambda prediction: {"wer": next(rates)},
        "callbacks": [EarlyStoppingCallback(2)],
    }
    trainer = make_trainer(
        tmp_path,
        make_p2t(),
        p2t_collator(),
        rows,
        trainer=options,
        max_steps=20,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="wer",
        greater_is_better=False,
    )
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_metric == 0.5
    best = type(trainer.model).from_pretrained(tmp_path / "checkpoint-2")
    assert all(torch.equal(value, snapshot(trainer.model)[name]) for name, value in snapshot(best).items())


def test_lora_trains_saves_and_generates(rows, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(0)
    base = make_s2p()
    state = {name: value.clone() for name, value in base.state_dict().items()}
    targets = r"encoder\.layers\.\d+\.self_attn\.(q_proj|v_proj)"
    model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, modules_to_save=["decoder"]))
    options = {
        "eval_dataset": rows.select(range(4)),
        "compute_metrics": lambda prediction: {"per": 1.0},
        "max_new_tokens": 4,
    }
    trainer = make_trainer(
        tmp_path, model, s2p_collator(), rows, trainer=options, save_strategy="steps", save_steps=5, learning_rate=1e-2
    )
    trainer.train()
    assert losses(trainer)[-1] < losses(trainer)[0] and trainer.evaluate()["eval_per"] == 1.0
    folder = tmp_path / "checkpoint-5"
    assert {"adapter_config.json", "generation_config.json"} <= {path.name for path in folder.iterdir()}
    fresh = make_s2p()
    fresh.load_state_dict(state)
    batch = s2p_collator()([rows[0], rows[1]])
    again = PeftModel.from_pretrained(fresh, folder).eval()
    torch.testing.assert_close(again(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop_at", [2, 3, 7])
def test_resumed_run_is_bit_identical(rows, tmp_path, workers, stop_at):
    def run(folder, resume=None):
        torch.manual_seed(1)
        options = {"dataloader_num_workers": workers, "save_strategy": "steps", "save_steps": stop_at, "max_steps": 10}
        trainer = make_trainer(
            folder,
            make_s2p(dropout=0.1, ctc_weight=0.3),
            s2p_collator(augmentation=AUGMENTER),
            rows,
            trainer={"batch_budget": 3.0},
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            seed=1,
            **options,
        )
        trainer.train(resume_from_checkpoint=resume)
        return losses(trainer), snapshot(trainer.model)

    straight, weights = run(tmp_path)
    resumed, again = run(tmp_path, resume=str(tmp_path / f"checkpoint-{stop_at}"))
    assert resumed == straight
    assert all(torch.equal(value, weights[name]) for name, value in again.items())


def test_training_learns(rows, tmp_path):
    torch.manual_seed(0)
    trainer = make_trainer(tmp_path, make_p2t(), p2t_collator(), rows, max_steps=60, learning_rate=1e-2)
    trainer.train()
    assert losses(trainer)[-1] < 0.5 * losses(trainer)[0]
    assert len(TEXT_TOKENIZER) == trainer.model.config.vocab_size


def test_another_optimiser_is_used(rows, tmp_path):
    from transformers.optimization import Adafactor

    settings = {"lr": 0.02, "scale_parameter": True, "relative_step": False}
    trainer = SpeechSeq2SeqTrainer(
        model=make_p2t(),
        args=arguments(tmp_path),
        data_collator=p2t_collator(),
        train_dataset=rows,
        optimizer_cls_and_kwargs=(Adafactor, settings),
    )
    trainer.create_optimizer()
    optimizer = trainer.optimizer
    assert isinstance(optimizer, Adafactor) and optimizer.defaults["scale_parameter"]
    assert {group["lr"] for group in optimizer.param_groups} == {0.02}

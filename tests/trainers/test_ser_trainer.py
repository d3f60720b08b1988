"""The Trainer of emotion classifiers: losses, weights of classes, batches, neighbours, evaluation, resumed runs."""

from typing import get_args

import numpy as np
import pytest
import torch
from tiny_ser import LABELS, make_emotion2vec, make_fusion, make_rows, ser_collator
from trainer_kit import logged, training_arguments, weights

from data_scripts.augment import Augmenter
from models.ser import KNNDatastore
from models.ser.configuration_ser import ENCODER_KINDS
from trainers.arguments import AugmentationArguments
from trainers.building import Stage
from trainers.config import read_config
from trainers.row_classes import first_of_each
from trainers.row_selection import selection
from trainers.ser import SERTrainer
from trainers.ser_arguments import SERRunConfig
from trainers.ser_assembly import build_metrics, class_weights
from trainers.ser_model_arguments import EncoderKind
from trainers.tokenizers import train_bpe

SYSTEMS = {
    "fusion": make_fusion,
    "weighted": lambda: make_fusion(class_weights=[0.5, 2.0], label_smoothing=0.1),
    "speechformer": lambda: make_fusion(
        head="speechformer", speechformer_projection=16, speechformer_heads=2, speechformer_layers=[1, 1, 1, 1]
    ),
    "emotion2vec": make_emotion2vec,
    "emotion2vec-weighted": make_emotion2vec,
}


@pytest.fixture(scope="module")
def rows():
    return make_rows(12)


def config_of(*argv):
    base = ["--data.train", "[{path: a}]", "--data.validation", "[{path: b}]"]
    return read_config([*base, "--model.fusion.encoders", "[{kind: filterbank}]", *argv], SERRunConfig)


def make_trainer(folder, model, rows, *, trainer=None, augmentation=None, **changes):
    settings = {"per_device_train_batch_size": 6, "learning_rate": 3e-3, "max_steps": 3, **changes}
    return SERTrainer(
        model=model,
        args=training_arguments(folder, **settings),
        data_collator=ser_collator(model, augmentation),
        train_dataset=rows,
        **trainer or {},
    )


# Loss


@pytest.mark.parametrize("system", SYSTEMS)
def test_loss_does_not_depend_on_accumulation(system, rows, tmp_path):
    more = {"trainer": {"class_weights": [0.5, 2.0]}} if system == "emotion2vec-weighted" else {}
    rate = 0.01 if "emotion2vec" in system else 0.05
    curves, ends = [], []
    for batch_size, accumulation in ((12, 1), (3, 4)):
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        trainer = make_trainer(tmp_path, SYSTEMS[system](), rows, optim="sgd", learning_rate=rate, **sizes, **more)
        trainer.model.apply(lambda module: setattr(module, "p", 0.0) if hasattr(module, "p") else None)
        trainer.train()
        curves.append(logged(trainer))
        ends.append(weights(trainer))
    assert curves[0][-1] != curves[0][0]
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=2e-4)


def test_weights_of_classes_are_those_of_the_loss(rows, tmp_path):
    """Of both kinds of model, in training and in evaluation: sum of weight times loss, by the number of rows."""
    labels = torch.tensor(rows["label"])
    factors = torch.tensor([0.5, 2.0])
    for model, own in ((make_emotion2vec(), {"class_weights": [0.5, 2.0]}), (SYSTEMS["fusion"](), {})):
        if not own:
            model.config.class_weights = [0.5, 2.0]
        batch = ser_collator(model)([rows[index] for index in range(12)])
        with torch.no_grad():
            logits = model.eval()(**{k: v for k, v in batch.items() if k != "labels"}).logits
        each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        expected = float((each * factors[labels]).mean())
        trainer = make_trainer(
            tmp_path, model, rows, max_steps=1, per_device_train_batch_size=12, trainer=own, learning_rate=1e-9
        )
        trainer.train()
        assert logged(trainer)[0] == pytest.approx(expected, rel=2e-3)
        assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(expected, rel=2e-3)


def test_weights_have_mean_one_over_the_rows(rows):
    counts = np.bincount(rows["label"])
    assert counts.tolist() == [8, 4]
    for given in ("balanced", "[1, 5]"):
        found = class_weights(config_of("--class_weights", given), rows)
        assert found is not None and (np.array(found) * counts).sum() / 12 == pytest.approx(1.0)
        assert found[1] / found[0] == pytest.approx({"balanced": 2.0, "[1, 5]": 5.0}[given])
    assert class_weights(config_of(), rows) is None


def test_batches_of_one_class_are_counted_and_harm_nothing(tmp_path):
    model = make_fusion(supcon_weight=0.5, supcon_size=8)
    trainer = make_trainer(tmp_path, model, make_rows(6, ("angry",)), max_steps=3)
    trainer.train()
    assert logged(trainer, "skipped_anchors") == [6, 12, 18]
    assert logged(trainer, "supcon_loss") == [0.0] * 3 and np.isfinite(logged(trainer)).all()
    assert trainer.evaluate(make_rows(6))["eval_skipped_anchors"] > 0
    parts = zip(logged(trainer), logged(trainer, "ce_loss"), strict=True)
    assert all(loss == pytest.approx(0.5 * ce, rel=1e-4) for loss, ce in parts)


# Batches


def test_a_batch_of_transcripts_and_one_of_none(rows):
    tokenizer = train_bpe(["xin chào", "không"], 150)
    collator = ser_collator(make_fusion(), tokenizer=tokenizer)
    said = [{**rows[0], "text": "xin chào"}, {**rows[1], "text": " "}, {**rows[2], "text": None}]
    batch = collator(said)
    ids = tokenizer("xin chào")["input_ids"]
    assert batch["input_ids"].tolist() == [ids, [0] * len(ids), [0] * len(ids)]
    assert batch["text_attention_mask"].sum(1).tolist() == [len(ids), 0, 0]
    assert batch["labels"].tolist() == [0, 1, 0] and set(batch) >= {"input_values", "attention_mask"}
    empty = collator(said[1:])
    assert empty["input_ids"].shape == (2, 1) and not empty["text_attention_mask"].any()


def test_augmentation_is_of_seed_epoch_and_row(rows):
    augmenter = Augmenter(AugmentationArguments(speed=0.1, emotion_strength=0.5, noise_snr_db=10))
    collator = ser_collator(make_fusion(), augmenter)
    first = collator([{**rows[1], "epoch": 3}])["input_values"]
    together = collator([{**rows[0], "epoch": 3}, {**rows[1], "epoch": 3}])["input_values"][1]
    assert torch.equal(first[0], together[: first.shape[1]])
    other = collator([{**rows[1], "epoch": 4}])["input_values"]
    plain = collator([rows[1]])["input_values"]
    assert not torch.equal(first[:, :100], other[:, :100]) and not torch.equal(first[:, :100], plain[:, :100])


def test_cached_features_give_the_same_logits(rows, tmp_path):
    from trainers.ser_cache import FeatureCache

    model = make_fusion().eval()
    collator = ser_collator(model)
    cached = FeatureCache(tmp_path).attach(rows, model, collator.inputs)
    batches = [collator([source[index] for index in (1, 4, 5)]) for source in (rows, cached)]
    assert "input_values" not in batches[1] and torch.equal(batches[0]["labels"], batches[1]["labels"])
    with torch.no_grad():
        plain, from_cache = (model(**batch).logits for batch in batches)
    torch.testing.assert_close(plain, from_cache, rtol=0, atol=2e-3)
    # An encoder that is trained is computed from the waveform, beside the cache of the other.
    model.encoders["wav2vec2"].spec = model.encoders["wav2vec2"].spec.__class__(
        **{**vars(model.encoders["wav2vec2"].spec), "frozen": False}
    )
    half = FeatureCache(tmp_path).attach(rows, model, collator.inputs)
    batch = collator([half[1], half[4]])
    assert list(batch["encoder_features"]) == ["filterbank"] and "input_values" in batch


def test_kinds_of_encoders_are_those_of_the_models():
    assert set(get_args(EncoderKind)) == set(ENCODER_KINDS)


def test_an_epoch_has_as_many_rows_of_every_class(rows):
    select = selection(config_of("--sampling.balanced", "true"), rows, None)
    labels = np.array(rows["label"])
    assert select is not None
    assert all(np.bincount(labels[select(epoch)]).tolist() == [6, 6] for epoch in range(4))
    by_corpus = selection(config_of("--sampling", "{balanced: true, corpora: true}"), rows, None)
    assert by_corpus is not None
    corpora = np.array(rows["corpus"])[by_corpus(0)]
    assert sorted(np.unique(corpora, return_counts=True)[1].tolist()) == [6, 6]
    assert selection(config_of(), rows, None) is None


def test_a_few_rows_have_every_emotion():
    assert first_of_each(["sad"] * 5 + ["happy", None, "happy"], 4).tolist() == [0, 1, 5, 6]
    assert first_of_each(["sad", "happy"], 9).tolist() == [0, 1]


# Evaluation


def test_every_row_is_scored_once_in_data_set_order(rows, tmp_path):
    config = config_of()
    model = make_fusion()
    metrics = build_metrics(config, Stage(None, model), rows)
    trainer = make_trainer(tmp_path, model, rows, trainer={"compute_metrics": metrics}, max_steps=30)
    trainer.train()
    found = trainer.evaluate(rows)
    assert found["eval_uar"] == found["eval_accuracy"] == found["eval_f1_macro"] == 1.0
    assert found["eval_recall_negative"] == found["eval_uar_corpus-0"] == found["eval_uar_corpus-1"] == 1.0
    said = trainer.predict(rows)
    assert said.label_ids.tolist() == rows["label"] and said.predictions.argmax(1).tolist() == rows["label"]
    with pytest.raises(ValueError, match="3 predictions for 12 utterances"):
        metrics(type("Evaluated", (), {"predictions": np.zeros((3, 2))}))


def test_embeddings_are_those_of_the_model_without_augmentation(rows, tmp_path):
    augmenter = Augmenter(AugmentationArguments(noise_snr_db=0))
    model = make_fusion()
    trainer = make_trainer(tmp_path, model, rows, augmentation=augmenter)
    trainer.train()
    found = trainer.embed(trainer.train_dataset)
    with torch.no_grad():
        expected = model.eval()(**ser_collator(model)([rows[index] for index in range(12)]))
    torch.testing.assert_close(found.embeddings_NE, expected.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits_NC, expected.logits, rtol=1e-4, atol=1e-5)
    assert found.labels_N.tolist() == rows["label"]
    assert len(KNNDatastore(found.embeddings_NE, found.labels_N, list(LABELS.values())).keys_ME) == 12


def test_a_resumed_run_takes_the_same_steps(rows, tmp_path):
    augmenter = Augmenter(AugmentationArguments(speed=0.1, noise_snr_db=20))
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "augmentation": augmenter}
    model = make_fusion(supcon_weight=0.3, head_dropout=0.3)
    whole = make_trainer(tmp_path / "a", model, rows, per_device_train_batch_size=2, **settings)
    whole.train()
    model = make_fusion(supcon_weight=0.3, head_dropout=0.3)
    again = make_trainer(tmp_path / "a", model, rows, per_device_train_batch_size=2, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-4"))
    assert torch.equal(weights(whole), weights(again))
    assert logged(whole, "skipped_anchors") == logged(again, "skipped_anchors")

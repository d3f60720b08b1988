"""The Trainer of aligned recognisers: losses, what is left out, evaluation, schedules, resumed runs."""

import numpy as np
import pytest
import torch
from tiny_aligned import TOKENIZER, aligned_collator, make_fastconformer, make_zipformer
from tiny_tspc import make_rows, text_of
from trainer_kit import logged, training_arguments, weights

from data_scripts.augment import Augmenter
from trainers.arguments import AugmentationArguments
from trainers.averaging import BatchCountCallback
from trainers.collators import IGNORED
from trainers.transducer import SKIPPED, TransducerTrainer

SYSTEMS = {
    "zipformer": lambda: make_zipformer(),
    "zipformer-full": lambda: make_zipformer(training_loss="full", transducer_weight=0.7),
    "fastconformer-ctc": lambda: make_fastconformer(),
    "fastconformer-rnnt": lambda: make_fastconformer(head="rnnt", ctc_weight=0.3),
}


@pytest.fixture(scope="module")
def rows():
    return make_rows(16)


def make_trainer(folder, model, rows, *, trainer=None, augmentation=None, **changes):
    settings = {"per_device_train_batch_size": 8, "learning_rate": 3e-3, "max_steps": 3, **changes}
    return TransducerTrainer(
        model=model,
        args=training_arguments(folder, **settings),
        data_collator=aligned_collator(model, augmentation),
        train_dataset=rows,
        **trainer or {},
    )


@pytest.mark.parametrize("system", ["zipformer", "zipformer-full", "fastconformer-rnnt"])
def test_loss_does_not_depend_on_accumulation(system, rows, tmp_path):
    curves, ends = [], []
    for batch_size, accumulation in ((16, 1), (4, 4)):
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulation}
        model = SYSTEMS[system]()
        for module in model.modules():
            module.p = 0.0  # of every dropout
        if "fastconformer" in system:
            # The statistics of a batch are those of one forward pass.
            model.freeze_encoder()
        trainer = make_trainer(tmp_path, model, rows, optim="sgd", learning_rate=0.02, **sizes)
        trainer.train()
        curves.append(logged(trainer))
        ends.append(weights(trainer))
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
    # A few numbers are moved by chance: those beyond their limits are pushed back in three of five steps.
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=5e-4)


@pytest.mark.parametrize("system", SYSTEMS)
def test_parts_are_logged_and_everything_learns(system, rows, tmp_path):
    trainer = make_trainer(tmp_path, SYSTEMS[system](), rows, max_steps=2)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    parts = {
        "zipformer": ["ctc_loss", "simple_loss", "transducer_loss"],
        "zipformer-full": ["ctc_loss", "transducer_loss"],
        "fastconformer-ctc": ["ctc_loss"],
        "fastconformer-rnnt": ["ctc_loss", "transducer_loss"],
    }[system]
    assert all(len(logged(trainer, part)) == 2 and np.isfinite(logged(trainer, part)).all() for part in parts)
    assert not logged(trainer, SKIPPED)
    still = [name for name, value in trainer.model.named_parameters() if torch.equal(value, before[name])]
    # An activation that is never driven to its limits, or a bias that shifts nothing, may have no gradient.
    assert len(still) < 0.2 * len(before), still


def test_parts_of_the_log_are_what_the_loss_is_made_of(rows, tmp_path):
    trainer = make_trainer(tmp_path, make_zipformer(), rows, max_steps=1, gradient_accumulation_steps=2)
    trainer.train()
    (loss,), (ctc,) = logged(trainer), logged(trainer, "ctc_loss")
    (simple,), (pruned,) = logged(trainer, "simple_loss"), logged(trainer, "transducer_loss")
    # Without a batch count the warm-up is over.
    assert loss == pytest.approx(0.5 * simple + pruned + 0.2 * ctc, rel=1e-4)


def test_utterances_that_cannot_be_learned_are_counted_and_harm_nothing(rows, tmp_path):
    bad = [
        {**rows[0], "id": "empty", "text": ""},
        # One output frame for eight words.
        {**rows[1], "id": "too-long", "text": "abc cab dad beg fed hag gab ace", "audio": make_rows(1)[0]["audio"]},
    ]
    from datasets import Dataset

    mixed = Dataset.from_list([*rows.select(range(6)), *bad])
    trainer = make_trainer(tmp_path, make_zipformer(), mixed, max_steps=3)
    trainer.train()
    assert logged(trainer, SKIPPED) == [2, 4, 6]
    assert np.isfinite(logged(trainer)).all() and torch.isfinite(weights(trainer)).all()
    only_bad = make_trainer(tmp_path, make_zipformer(), Dataset.from_list(bad[:1] * 2), max_steps=2, optim="sgd")
    before = weights(only_bad).clone()
    only_bad.train()
    # Nothing to learn from: no loss, no step, no end of the run.
    assert logged(only_bad) == [0.0, 0.0] and torch.equal(weights(only_bad), before)


def test_one_utterance_that_is_not_finite_does_not_reach_the_optimiser(rows, tmp_path):
    trainer = make_trainer(tmp_path, make_zipformer(), rows, max_steps=2)
    collator = trainer.data_collator

    def poisoned(batch_rows):
        batch = collator(batch_rows)
        batch["input_features"][0] = float("nan")
        return batch

    trainer.data_collator = poisoned
    trainer.train()
    assert logged(trainer, SKIPPED) == [1, 2]
    assert torch.isfinite(weights(trainer)).all() and np.isfinite(logged(trainer)).all()
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert all(torch.isfinite(value).all() for value in moments if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("search", [None, {"search": "beam", "beam_size": 3}])
def test_evaluation_recognises_every_row_once_in_order(search, rows, tmp_path):
    seen = {}

    def compute_metrics(evaluated):
        seen["labels"] = [[int(t) for t in row if t != IGNORED] for row in evaluated.label_ids]
        seen["heard"] = [[int(t) for t in row if t != IGNORED] for row in evaluated.predictions]
        return {"rows": len(evaluated.predictions)}

    model = make_zipformer()
    options = {"eval_dataset": make_rows(7, start=100), "compute_metrics": compute_metrics, "search": search}
    trainer = make_trainer(tmp_path, model, rows, trainer=options, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    assert metrics["eval_rows"] == 7
    texts = [text_of(index) for index in range(100, 107)]
    assert TOKENIZER.batch_decode(seen["labels"]) == texts
    model.eval()
    for index, row in enumerate(trainer.eval_dataset):
        batch = trainer.data_collator([row])
        options = search or {"search": "greedy"}
        found = model.recognise(batch["input_features"], batch["attention_mask"], **options)
        assert found[0][0].tokens == seen["heard"][index]
    with torch.no_grad():
        batch = trainer.data_collator(list(trainer.eval_dataset))
        batch.pop("row_ids")
        expected = model(**batch)
    assert metrics["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-4)
    assert metrics["eval_ctc_loss"] == pytest.approx(expected.ctc_loss.item(), rel=1e-4)


def test_resumed_run_is_bit_identical_with_all_that_is_random(tmp_path):
    # Augmentation, layer skips, dropout, balancers; ScaledAdam, Eden; skipped utterances counted on.
    train = make_rows(11)
    train = train.map(lambda row: {"text": ""} if row["id"] == "row-3" else {})
    augmenter = Augmenter(AugmentationArguments(speed=0.1, frequency_masks=1, frequency_mask_bins=4))
    options = {"scaled_adam": True, "eden": {"lr_batches": 10, "lr_epochs": 2, "warmup_batches": 2}}
    settings = {"per_device_train_batch_size": 4, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    settings |= {"learning_rate": 0.045, "max_grad_norm": 0.0}

    def run(folder, resume=None):
        trainer = make_trainer(folder, make_zipformer(), train, trainer=options, augmentation=augmenter, **settings)
        trainer.add_callback(BatchCountCallback())
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    again = run(tmp_path / "again", resume=str(tmp_path / "whole" / "checkpoint-3"))
    assert torch.equal(weights(whole), weights(again))
    assert logged(whole) == logged(again)
    assert logged(whole, SKIPPED)[-1] == logged(again, SKIPPED)[-1] > 0
    # The step that is logged was taken at the rate before it; an epoch has three steps.
    by_step = [(1 + (step / 10) ** 2) ** -0.25 for step in range(6)]
    by_epoch = [(1 + (step // 3 / 2) ** 2) ** -0.25 for step in range(6)]
    expected = [0.045 * one * two for one, two in zip(by_step, by_epoch, strict=True)]
    expected = [rate * share for rate, share in zip(expected, [0.5, 0.75, 1, 1, 1, 1], strict=True)]
    np.testing.assert_allclose(logged(whole, "learning_rate"), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("system", ["zipformer-full", "fastconformer-ctc"])
def test_learns_words_of_tones(system, tmp_path):
    options = {"eval_dataset": make_rows(8, start=100)}
    trainer = make_trainer(
        tmp_path, SYSTEMS[system](), make_rows(64), trainer=options, max_steps=60, learning_rate=1e-2
    )
    first = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5 * first

"""The winner's emotion classifier at full size: its recipe as it is, on pre-trained encoders that are random here."""

import json

import pytest
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from models.emotion2vec import Emotion2VecConfig, Emotion2VecFeatureExtractor, Emotion2VecModel
from scripts.train_ser import main
from trainers.classifiers import classify, load_classifier


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_winners_recipe(shared_data, tmp_path):
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(tmp_path / "wav2vec2")
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(tmp_path / "wav2vec2")
    Emotion2VecModel(Emotion2VecConfig.of_size("base")).save_pretrained(tmp_path / "emotion2vec")
    Emotion2VecFeatureExtractor().save_pretrained(tmp_path / "emotion2vec")
    encoders = [
        {"path": str(tmp_path / "wav2vec2"), "features": "conv"},
        {"path": str(tmp_path / "emotion2vec"), "features": "12"},
    ]
    source = {"path": str(shared_data / "ser" / "ravdess"), "split": "train"}
    main(
        ["--config", "configs/ser/speechformer.yaml", "--model.fusion.encoders", json.dumps(encoders),
         "--data.train", json.dumps([source]), "--data.validation", "[]", "--data.max_rows", "4",
         "--label_maps", "{}", "--cache.folder", str(tmp_path / "cache"),
         "--training.output_dir", str(tmp_path / "run"),
         "--training.per_device_train_batch_size", "4", "--training.max_steps", "2", "--training.use_cpu", "true",
         "--training.bf16", "false", "--training.dataloader_num_workers", "0",
         "--training.dataloader_persistent_workers", "false", "--training.eval_strategy", "no",
         "--training.load_best_model_at_end", "false", "--training.save_strategy", "no",
         "--training.report_to", "[none]"]
    )  # fmt: skip
    classifier = load_classifier(str(tmp_path / "run" / "model"), device="cpu")
    model = classifier.pipe.model
    # 106.98 M with the four classes of IEMOCAP in the notes of SpeechFormer++'s authors; two classes here.
    assert model.config.speechformer_exact and model.fusion.size == 512 + 768
    assert sum(parameter.numel() for parameter in model.head.parameters()) == pytest.approx(106.98e6, rel=1e-4)
    rows = [
        {"id": "a", "audio": {"path": str(next((shared_data / "ser" / "ravdess" / "test").glob("*.ogg")))}, "text": ""}
    ]
    probabilities_NC = classify(classifier, rows).probabilities_NC
    assert probabilities_NC.shape == (1, 2) and probabilities_NC.sum() == pytest.approx(1)

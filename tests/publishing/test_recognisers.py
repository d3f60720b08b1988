"""Zipformer and FastConformer folders from evaluation to a fresh process: searches, language model, times, n-best."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile

from data_scripts.curation.ngram import train_ngram
from scripts.eval_asr import main as eval_main
from scripts.transcribe import main as transcribe_main
from trainers.command_line import EvaluationArguments, load_arguments
from trainers.language_model import WordLanguageModel
from trainers.recognisers import RecogniserError, load_recogniser, recognise

from .tiny_recognisers import letter_tokenizer, save_tiny_fastconformer, save_tiny_zipformer

BOTH_HEADS = ("greedy", "beam", "ctc_greedy", "ctc_beam")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("recognisers")
    return {
        "zipformer": save_tiny_zipformer(root / "zipformer"),
        "rnnt": save_tiny_fastconformer(root / "rnnt", head="rnnt", ctc_weight=0.3),
        "tdt": save_tiny_fastconformer(root / "tdt", head="tdt"),
        "ctc": save_tiny_fastconformer(root / "ctc"),
    }


def noise(seconds, seed=0):
    return 0.2 * np.random.default_rng(seed).standard_normal(int(16_000 * seconds)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "kind", "searches", "beams"),
    [
        ("zipformer", "transducer", BOTH_HEADS, True),
        ("rnnt", "transducer", BOTH_HEADS, True),
        ("tdt", "transducer", ("greedy",), False),
        ("ctc", "ctc", ("ctc_greedy", "ctc_beam"), True),
    ],
)
def test_every_search_of_every_model(folders, name, kind, searches, beams):
    recogniser = load_recogniser(str(folders[name]), device="cpu")
    assert (recogniser.kind, recogniser.searches, recogniser.decodes_with_beams) == (kind, searches, beams)
    audios = [noise(seconds, seed) for seed, seconds in enumerate((0.8, 1.5, 0.3))]
    model = recogniser.pipe.model
    batch = recogniser.pipe.feature_extractor(
        audios, sampling_rate=16_000, padding="longest", return_attention_mask=True, return_tensors="pt"
    )
    for search in searches:
        options = {"search": search} | ({"beam_size": 4} if "beam" in search else {})
        found = model.recognise(batch["input_features"], batch["attention_mask"], **options)
        results = recogniser.pipe(audios, batch_size=3, return_timestamps="token", **options)
        assert any(result["text"] for result in results)
        for result, (hypothesis,), audio in zip(results, found, audios, strict=True):
            assert "".join(chunk["text"] for chunk in result["chunks"]).split() == result["text"].split()
            starts = [chunk["timestamp"][0] for chunk in result["chunks"]]
            assert starts == pytest.approx([frame * model.frame_s for frame in hypothesis.frames], abs=1e-3)
            assert all(start <= len(audio) / 16_000 for start in starts)
    with pytest.raises(RecogniserError, match="has no 'nothing' search; it has: "):
        recogniser.search_for(1, "nothing")


def test_evaluation_with_beams_nbest_and_a_language_model(folders, corpus, tmp_path):
    lm = tmp_path / "lm.arpa.gz"
    train_ngram(["a b c", "b c d", "xin chào các bạn"] * 5, 3).save(lm)
    output = tmp_path / "metrics.json"
    argv = ["--model", str(folders["zipformer"]), str(folders["tdt"]), "--data.path", str(corpus), "--device", "cpu"]
    argv += ["--num_beams", "1", "4", "--nbest", "3", "--lm", str(lm), "--lm_weight", "0.5", "--output", str(output)]
    assert eval_main([*argv, "--bootstrap_samples", "0"]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["kind"], row["num_beams"], row["search"], "lm" in row) for row in rows] == [
        ("transducer", 1, "greedy", False),
        ("transducer", 4, "beam", True),
        ("transducer", 1, "greedy", False),
    ]
    lines = [json.loads(line) for line in output.with_suffix(".nbest.jsonl").read_text().splitlines()]
    hypotheses = [json.loads(line) for line in output.with_suffix(".hypotheses.jsonl").read_text().splitlines()]
    raw = {line["id"]: line["raw_hypothesis"] for line in hypotheses if line["num_beams"] == 4}
    assert len(lines) == len(raw) == 4
    for line in lines:
        assert 1 <= len(line["readings"]) <= 3 and line["readings"][0]["text"] == raw[line["id"]]
    ctc = ["--model", str(folders["zipformer"]), "--data.path", str(corpus), "--device", "cpu"]
    assert eval_main([*ctc, "--search", "ctc_beam", "--num_beams", "3", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["rows"][0]["search"] == "ctc_beam"
    # A TDT model has no such search: one line says so.
    assert eval_main(["--model", str(folders["tdt"]), *ctc[2:], "--search", "beam", "--output", str(output)]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--search greedy --num_beams 4", "greedy has one beam"),
        ("--lm lm.arpa", "needs a beam"),
        ("--lm lm.txt --num_beams 4", "must be an ARPA file"),
        ("--search best", "search"),
        ("--nbest 0", "nbest"),
    ],
)
def test_options_that_do_nothing_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        load_arguments(EvaluationArguments, ["--model", "m", "--data.path", "d", *options.split()])
    assert message in capsys.readouterr().err


def test_a_language_model_mends_a_hypothesis():
    # Two readings that sound alike; the words before tell which is meant.
    import torch

    from models.zipformer.ctc_decoding import ctc_beam
    from models.zipformer.transducer_decoding import StatelessPredictor, transducer_beam

    tokenizer = letter_tokenizer()
    said = tokenizer.convert_tokens_to_ids(["▁c", "à", "▁p", "h", "ê"])
    alike = tokenizer.convert_tokens_to_ids("ế")
    vocab, frames = len(tokenizer), [0, *(part for token in said for part in (token, 0))]
    logits = torch.zeros(1, len(frames), vocab)
    logits[0, range(len(frames)), frames] = 9.0
    logits[0, frames.index(said[-1]), alike] = 9.5
    log_probs, lengths = logits.log_softmax(-1), torch.tensor([len(frames)])
    lm = WordLanguageModel(train_ngram(["cà phê", "uống cà phê", "phế liệu", "bỏ phế"] * 3, 2), tokenizer)
    predictor = StatelessPredictor(lambda ids_NC: torch.zeros(len(ids_NC), vocab), 2, 0)
    text = lambda found: "".join(tokenizer.convert_ids_to_tokens(found[0][0].tokens))  # noqa: E731
    for weight, heard in ((0.0, "▁cà▁phế"), (0.5, "▁cà▁phê")):
        fusion = {"blank": 0, "beam_size": 4, "lm": lm, "lm_weight": weight}
        assert text(ctc_beam(log_probs, lengths, **fusion)) == heard
        join = lambda encoder_ND, predictor_ND: encoder_ND + predictor_ND  # noqa: E731
        assert text(transducer_beam(logits, lengths, predictor, join, **fusion)) == heard


def test_words_are_scored_as_the_n_gram_model_scores_sentences():
    tokenizer = letter_tokenizer()
    model = train_ngram(["xin chào các bạn", "các bạn có khoẻ không", "chào bạn"] * 3, 3)
    lm = WordLanguageModel(model, tokenizer, word_bonus=0.25)
    for text in ("xin chào các bạn", "bạn bạn chào", "lạ", ""):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        state, total = lm.begin(), 0.0
        for token in ids:
            (state,), (added,) = lm.advance([state], [token])
            total += added
        total += lm.finish([state])[0]
        assert total == pytest.approx(np.log(10) * model.score(text) + 0.25 * len(text.split()), abs=1e-5)
    # Equal histories have one state, reached in any order and asked for together.
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"][-1] for text in ("a", "b"))
    states, scores = lm.advance([lm.begin()] * 3, [first, second, first])
    assert states[0] == states[2] != states[1] and scores == [0.0, 0.0, 0.0]


def test_transcripts_with_times_of_long_and_short_recordings(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.transcription.LONG_S", 1.0)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long.flac", noise(3.2), 16_000)
    soundfile.write(tmp_path / "in" / "short.wav", noise(0.6), 16_000)
    (tmp_path / "in" / "bad.wav").write_bytes(b"RIFF")
    output = tmp_path / "t.jsonl"
    argv = [str(tmp_path / "in"), "--model", str(folders["zipformer"]), "--output", str(output), "--device", "cpu"]
    assert transcribe_main([*argv, "--timestamps", "word", "--chunk_length_s", "1", "--num_beams", "4"]) == 1
    entries = {json.loads(line)["file"][-8:]: json.loads(line) for line in output.read_text().splitlines()}
    assert "error" in entries["/bad.wav"]
    long = entries["ong.flac"]
    assert long["duration_s"] == 3.2 and long["chunks"]
    assert " ".join(chunk["text"] for chunk in long["chunks"]) == long["text"]
    times = [time for chunk in long["chunks"] for time in chunk["timestamp"]]
    assert times == sorted(times) and 2.0 < times[-1] <= 3.2
    piped = load_recogniser(str(folders["zipformer"]), device="cpu").pipe(
        str(tmp_path / "in" / "long.flac"), chunk_length_s=1, search="beam", beam_size=4, batch_size=4
    )
    assert piped["text"] == long["text"]
    # Other settings are another output.
    assert transcribe_main([*argv, "--timestamps", "segment"]) == 2


def test_rows_are_recognised_in_their_order(folders):
    recogniser = load_recogniser(str(folders["rnnt"]), device="cpu")
    rows = [
        {"audio": {"array": noise(seconds, seed), "sampling_rate": 16_000}, "duration_s": seconds}
        for seed, seconds in enumerate((0.4, 1.1, 0.7))
    ]
    heard = recognise(recogniser, rows, num_beams=3, nbest=2, batch_size=2)
    alone = [recognise(recogniser, [row], num_beams=3).texts[0] for row in rows]
    assert heard.texts == alone and heard.phonemes is None
    assert [readings[0]["text"] for readings in heard.nbest] == heard.texts


CONSUMER = """
    import json, sys
    from transformers import pipeline

    asr = pipeline("automatic-speech-recognition", model=sys.argv[1], trust_remote_code=True, device="cpu")
    result = asr(sys.argv[2], return_timestamps="word", chunk_length_s=2, batch_size=2)
    assert not {"models", "trainers", "data_scripts"} & {name.split(".")[0] for name in sys.modules}
    print(json.dumps(result))
"""


@pytest.mark.parametrize("name", ["zipformer", pytest.param("rnnt", marks=pytest.mark.slow)])
def test_a_published_folder_in_a_process_with_transformers_alone(folders, name, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(5.0), 16_000)
    command = [sys.executable, "-c", textwrap.dedent(CONSUMER), str(folders[name]), str(tmp_path / "a.wav")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    local = load_recogniser(str(folders[name]), device="cpu").pipe(
        str(tmp_path / "a.wav"), return_timestamps="word", chunk_length_s=2, batch_size=2
    )
    assert result["text"] == local["text"] != ""
    assert [chunk["text"] for chunk in result["chunks"]] == [chunk["text"] for chunk in local["chunks"]]


@pytest.mark.parametrize("name", ["zipformer", "rnnt", "ctc"])
def test_curation_aligns_with_their_ctc_heads(folders, name):
    from models.zipformer.ctc_alignment import align
    from trainers.curation.scorers import PieceCTC, load_scorer

    recogniser = load_recogniser(str(folders[name]), device="cpu")
    scorer = load_scorer(recogniser)
    assert isinstance(scorer.ctc, PieceCTC) and scorer.unit == "syllable"
    rows = [{"id": str(index), "text": text, "spans": []} for index, text in enumerate(("bà ba", "xin", "b€", ""))]
    audio = [noise(seconds, seed) for seed, seconds in enumerate((1.2, 0.5, 0.9, 0.4))]
    scores = scorer(rows, audio, True)
    assert [score["problem"] for score in scores] == [None, None, "not_in_vocabulary", "empty_transcript"]
    for row, one, score in zip(rows[:2], audio, scores, strict=False):
        # By hand: this utterance alone, greedy text by the pipeline, confidence by the alignment.
        assert score["hypothesis"] == recogniser.pipe(one, search="ctc_greedy")["text"]
        log_probs, frames = scorer.ctc.log_probs([one])
        ids = recogniser.pipe.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        path = align(log_probs, frames, [ids], 0)[0]
        assert score["confidence"] == pytest.approx(path.confidence, rel=0.02, abs=1e-5)
        assert 0 < score["greedy_confidence"] <= 1 and score["error_rate"] > 0
    heard = load_scorer(recogniser, hypotheses="generated")(rows, audio, False)
    assert heard[0]["hypothesis"] == recogniser.pipe(audio[0], search=recogniser.search_for(1))["text"]


def test_curation_without_a_ctc_head_hears_but_does_not_align(folders):
    from trainers.curation.scorers import load_scorer

    scorer = load_scorer(load_recogniser(str(folders["tdt"]), device="cpu"))
    assert scorer.ctc is None
    (score,) = scorer([{"id": "0", "text": "bà", "spans": []}], [noise(1.0)], True)
    assert score["hypothesis"] and score["confidence"] is None

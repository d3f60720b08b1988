"""Text tokenizers write every Vietnamese text back, and those that cannot are refused with the letters they lose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tspc import word_level
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainers.tokenizers import (
    TONE_MARKED,
    VIETNAMESE_LETTERS,
    TokenizerError,
    check_bpe,
    check_text_tokenizer,
    train_bpe,
    train_text_tokenizer,
)

TEXTS = ["hôm nay tôi họp với team", "deadline của project là ngày mai", "xin chào các bạn", "tôi đi chợ"] * 5
PIECES = train_bpe(TEXTS, 200)


def test_trained_tokenizer_round_trips_and_has_fixed_ids(tmp_path):
    tokenizer = train_text_tokenizer(TEXTS, 160)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "</s>", "<unk>"]) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    ids = tokenizer("xin chào quỳnh")["input_ids"]
    assert ids[-1] == 1 and 2 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "xin chào quỳnh"
    tokenizer.save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)("xin chào quỳnh")["input_ids"] == ids


def test_merges_shorten_common_words():
    tokenizer = train_text_tokenizer(TEXTS, 300)
    assert check_text_tokenizer(tokenizer, TEXTS)["tokens_per_word"] < 1.5


def test_training_is_deterministic_and_takes_generators():
    one, two = train_text_tokenizer(iter(TEXTS), 200), train_text_tokenizer(list(TEXTS), 200)
    assert one.get_vocab() == two.get_vocab()


def test_too_small_a_vocabulary():
    with pytest.raises(TokenizerError, match="alphabet"):
        train_text_tokenizer(TEXTS, 50)


def test_nothing_to_train_on():
    with pytest.raises(TokenizerError, match="no texts"):
        train_text_tokenizer([], 200)


def test_tokenizer_without_vietnamese_letters_is_refused():
    # The alphabet of t5-small's vocabulary: Latin letters of English, German, French and Romanian.
    vocabulary = {
        token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyzàâéèêîôùçăț "])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    western = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    with pytest.raises(TokenizerError, match=r"t5-like cannot write .*ọ.*vit5"):
        check_text_tokenizer(western, TEXTS, name="t5-like")


def test_words_that_do_not_survive_are_refused():
    with pytest.raises(TokenizerError, match="20 of 20"):
        check_text_tokenizer(word_level(["xin"]), TEXTS)


def test_sixty_tone_marked_vowels():
    assert len(set(TONE_MARKED)) == 60 and all(len(letter) == 1 for letter in TONE_MARKED)


def test_word_pieces_of_recognisers_have_a_blank_and_no_ends(tmp_path):
    tokenizer = train_bpe(TEXTS, 200)
    assert tokenizer.convert_tokens_to_ids(["<blank>", "<unk>"]) == [0, 1]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, None, None)
    ids = tokenizer("xin chào quỳnh")["input_ids"]
    assert min(ids) > 1 and tokenizer.decode(ids) == "xin chào quỳnh"
    words = [piece for piece in tokenizer.convert_ids_to_tokens(ids) if piece.startswith("▁")]
    assert len(words) == 3
    tokenizer.save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)("xin chào quỳnh")["input_ids"] == ids
    again = train_bpe(list(reversed(TEXTS)), 200)
    assert again.get_vocab() == tokenizer.get_vocab(), "the order of the texts does not matter"


@given(st.text(alphabet=[*VIETNAMESE_LETTERS, " "], min_size=1, max_size=40))
def test_word_pieces_write_any_vietnamese_back(text):
    ids = PIECES(text)["input_ids"]
    assert PIECES.decode(ids).split() == text.split() and 1 not in ids


def test_word_pieces_without_tone_marks_are_refused():
    pieces = ["<blank>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyzăâđêôơư"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    toneless = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<blank>", unk_token="<unk>")
    with pytest.raises(TokenizerError, match=r"60 of the 60 vowels with a tone mark \(á?à?.*leave tokenizer.path"):
        check_bpe(toneless, ["khong co dau"], name="this one")
    unpadded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    with pytest.raises(TokenizerError, match="no pad token"):
        check_bpe(unpadded, TEXTS)

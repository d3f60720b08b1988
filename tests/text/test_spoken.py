"""Written Vietnamese read aloud: fifteen inputs that normalisers stumble over, and a table over all classes."""

from pathlib import Path

import pytest

from data_scripts.spans import SpanError, mark_text, parse_marked_text
from data_scripts.text.__main__ import main
from data_scripts.text.normalize import normalize_with_spans, text_problems
from data_scripts.text.spoken import SPOKEN_FORM_VERSION, spoken_form, unspoken

_LINES = Path(__file__).with_name("spoken_cases.tsv").read_text(encoding="utf-8").splitlines()
CASES = [tuple(line.split("\t")) for line in _LINES if not line.startswith("#")]


def marked(text: str, dialect: str = "north") -> str:
    """The spoken form of a marked text, marked."""
    said, spans = spoken_form(*parse_marked_text(text), dialect=dialect)
    return mark_text(said, spans)


def test_kilometres_and_minutes() -> None:
    assert marked("Quãng đường dài 3km, đi hết 15 phút.") == ("Quãng đường dài ba ki lô mét, đi hết mười lăm phút.")


def test_full_date_and_time() -> None:
    assert marked("Ngày 02/09/1945 lúc 14h30 tại quảng trường Ba Đình.") == (
        "Ngày hai tháng chín năm một nghìn chín trăm bốn mươi lăm lúc mười bốn giờ ba mươi phút "
        "tại quảng trường Ba Đình."
    )


def test_price_and_decimal_percent() -> None:
    assert marked("Giá 1.250.000đ, giảm 15,5%.") == (
        "Giá một triệu hai trăm năm mươi nghìn đồng, giảm mười lăm phẩy năm phần trăm."
    )


def test_degrees_below_zero_and_humidity() -> None:
    assert marked("Nhiệt độ -5°C, độ ẩm 80%.") == "Nhiệt độ âm năm độ xê, độ ẩm tám mươi phần trăm."


def test_phone_numbers() -> None:
    assert marked("Gọi 0912.345.678 hoặc tổng đài 1900 1234.") == (
        "Gọi không chín một hai ba bốn năm sáu bảy tám hoặc tổng đài một chín không không một hai ba bốn."
    )


def test_city_and_english_acronym() -> None:
    assert marked("GDP của TP.HCM tăng 6,5% năm 2023.") == (
        "[en]g d p[/en] của thành phố hồ chí minh tăng sáu phẩy năm phần trăm năm hai nghìn không trăm hai mươi ba."
    )


def test_document_of_a_district_committee() -> None:
    assert marked("UBND Q.1 ban hành QĐ số 12/2024/QĐ-UBND.") == (
        "ủy ban nhân dân quận một ban hành quyết định số mười hai trên hai nghìn không trăm hai mươi tư "
        "trên quyết định ủy ban nhân dân."
    )


def test_units_of_speed_power_and_area() -> None:
    assert marked("Tốc độ 60km/h, công suất 250kW, diện tích 5m2.") == (
        "Tốc độ sáu mươi ki lô mét trên giờ, công suất hai trăm năm mươi ki lô oát, diện tích năm mét vuông."
    )


def test_roman_century_and_chapter() -> None:
    assert marked("Thế kỷ XXI, chương IV.") == "Thế kỷ hai mươi mốt, chương bốn."


def test_score_and_range() -> None:
    assert marked("Đội nhà thắng với tỉ số 2-1, có 10-15 người bị thương.") == (
        "Đội nhà thắng với tỉ số hai một, có mười đến mười lăm người bị thương."
    )


def test_age_room_and_year() -> None:
    assert marked("Năm 2015, anh 21 tuổi, ở phòng 105.") == (
        "Năm hai nghìn không trăm mười lăm, anh hai mươi mốt tuổi, ở phòng một trăm linh năm."
    )


def test_mail_address_and_url() -> None:
    assert marked("Viết cho lan.nguyen@gmail.com hoặc xem www.vnexpress.net.") == (
        "Viết cho lan chấm nguyen a còng gmail chấm com hoặc xem vê kép vê kép vê kép chấm vnexpress chấm net."
    )


def test_code_switched_sentence() -> None:
    assert marked("9h sáng mai có [en]meeting[/en] về AI với [en]team marketing[/en] nhé.") == (
        "chín giờ sáng mai có [en]meeting[/en] về [en]a i[/en] với [en]team marketing[/en] nhé."
    )


def test_names_with_numbers() -> None:
    assert marked("Sau Covid-19, cửa hàng bán iPhone 15 theo mô hình B2B.") == (
        "Sau Covid mười chín, cửa hàng bán iPhone mười lăm theo mô hình [en]b two b[/en]."
    )


def test_currency_first_fraction_and_power() -> None:
    assert marked("Vốn USD 1,5 tỷ, chiếm 3/4, gấp 10^6 lần.") == (
        "Vốn một phẩy năm tỷ đô la mỹ, chiếm ba phần tư, gấp mười mũ sáu lần."
    )


@pytest.mark.parametrize(("kind", "written", "spoken"), CASES, ids=[case[1] for case in CASES])
def test_read_as_said(kind: str, written: str, spoken: str) -> None:
    assert marked(written) == spoken
    assert marked(spoken) == spoken


def test_the_table_is_broad() -> None:
    assert len({written for _, written, _ in CASES}) == len(CASES) >= 200
    assert len({kind for kind, _, _ in CASES}) >= 20


@pytest.mark.parametrize("case", CASES, ids=[case[1] for case in CASES])
def test_said_means_fit_to_be_a_label(case) -> None:
    said, spans = spoken_form(case[1])
    if "😀" not in said:
        assert text_problems(said) == []
        assert unspoken(case[1]) == []
    text, _ = normalize_with_spans(said, spans)
    assert text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("mua [en]iPhone 15[/en] mới", "mua [en]iPhone fifteen[/en] mới"),
        ("mua [en]iPhone[/en] 15 mới", "mua [en]iPhone[/en] mười lăm mới"),
        ("[en]deadline 9:30[/en]", "[en]deadline nine thirty[/en]"),
        ("[en]at 9:05[/en]", "[en]at nine oh five[/en]"),
        ("[en]top 21[/en] bài hát", "[en]top twenty one[/en] bài hát"),
        ("[en]the 21st century[/en]", "[en]the twenty first century[/en]"),
        ("[en]since 2015[/en]", "[en]since twenty fifteen[/en]"),
        ("[en]since 2005[/en]", "[en]since two thousand five[/en]"),
        ("[en]the 1990s[/en]", "[en]the nineteen nineties[/en]"),
        ("[en]about 1,250 users[/en]", "[en]about one thousand two hundred fifty users[/en]"),
        ("[en]version 3.5[/en]", "[en]version three point five[/en]"),
        ("[en]50% off[/en]", "[en]fifty percent off[/en]"),
        ("giá [en]$5.50[/en]", "giá [en]five dollars fifty[/en]"),
        ("[en]$3 million[/en]", "[en]three million dollars[/en]"),
        ("[en]the CEO of NASA[/en]", "[en]the c e o of nasa[/en]"),
        ("[en]rock & roll[/en]", "[en]rock and roll[/en]"),
        ("[en]at -5 degrees[/en]", "[en]at minus five degrees[/en]"),
        ("[en]Q1[/en]", "[en]Q one[/en]"),
    ],
)
def test_inside_an_english_span_it_is_said_in_english(written: str, spoken: str) -> None:
    assert marked(written) == spoken


def test_labels_move_along() -> None:
    text = "ngày 2/9 có event ở Q.1"
    said, spans = spoken_form(text, [{"start": 12, "end": 17, "lang": "en"}])
    assert said == "ngày hai tháng chín có event ở quận một"
    assert [said[span["start"] : span["end"]] for span in spans] == ["event"]


def test_english_brought_into_a_vietnamese_span_cuts_it() -> None:
    assert marked("[vi]tăng trưởng GDP cao[/vi]") == "[vi]tăng trưởng[/vi] [en]g d p[/en] [vi]cao[/vi]"


def test_spans_may_be_tuples_and_are_checked() -> None:
    assert spoken_form("5 email", [(2, 7, "en")])[1] == [{"start": 4, "end": 9, "lang": "en"}]
    with pytest.raises(SpanError):
        spoken_form("5 email", [(2, 70, "en")])


def test_text_with_nothing_to_read_is_the_same_object() -> None:
    text = "hôm nay trời đẹp, tôi đi học."
    assert spoken_form(text)[0] is text
    assert spoken_form("") == ("", [])


def test_decomposed_text_is_read_and_left_alone_if_nothing_is_to_be_read() -> None:
    import unicodedata

    written = unicodedata.normalize("NFD", "ngày 2/9 ở Đà Nẵng")
    assert spoken_form(written)[0] == "ngày hai tháng chín ở Đà Nẵng"
    unread = unicodedata.normalize("NFD", "trời đẹp")
    assert spoken_form(unread)[0] == unread


def test_southern_number_words() -> None:
    assert marked("Có 1.105 hộ, 24 tổ", dialect="south") == "Có một ngàn một trăm lẻ năm hộ, hai mươi bốn tổ"
    with pytest.raises(ValueError, match="north, south"):
        spoken_form("5", dialect="west")


def test_unspoken_names_what_is_left() -> None:
    assert unspoken("Chúc mừng 🎉🎉 năm 2024!") == ["🎉🎉"]
    assert unspoken("Kinh đô 長安 <br> 長安") == ["長安", "<", ">"]
    assert unspoken("Giá 5$ & 10%") == []
    assert unspoken("trời đẹp") == []


def test_digits_of_other_scripts_are_digits() -> None:
    assert spoken_form("có ３ người")[0] == "có ba người"


def test_the_version_is_stated() -> None:
    assert SPOKEN_FORM_VERSION.count(".") == 1


def test_the_command_line_shows_what_is_said(capsys) -> None:
    assert main(["ngày 2/9 có [en]meeting[/en] về GDP"]) == 0
    shown = capsys.readouterr().out
    assert "spoken    ngày hai tháng chín có [en]meeting[/en] về [en]g d p[/en]" in shown
    assert "problems" not in shown
    main(["ngày 2/9", "--as_written"])
    shown = capsys.readouterr().out
    assert "spoken" not in shown and "problems  digits" in shown

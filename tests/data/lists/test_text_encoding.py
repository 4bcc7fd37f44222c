from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.data.lists.text_encoding import detect_encoding

TEXTS = {
    "quotes": "The photographer’s “decisive moment” – a child’s leap… over the puddle.",
    "one accent": "A calm café at dusk, with a low wall in front.",
    "German": "Die Bäume stehen über dem Fluss; größere Schärfe wäre schön.",
    "French": "La lumière d’été éclaire la façade, mais l’arrière-plan est flou à gauche.",
    "Spanish": "La niña está en el jardín; la composición es más fuerte con luz cálida.",
    "units": "Wait until the sun is 10° above the horizon; 1/60 s, ± one stop.",
    "dash": "Strong lines — but the horizon is tilted.",
}
OTHER_TEXTS = [
    ("cp1250", "Zdjęcie jest piękne, światło łagodne, a głębia ostrości właściwa."),
    ("cp1251", "Дерево стоит у озера, мягкий свет подчёркивает его ствол."),
    ("cp932", "木は湖の前に立ち、光は柔らかい。構図は良い。"),
    ("gb18030", "树在湖前，光线柔和。构图很好，但是天空太亮。"),
]


def decode(path: Path) -> tuple[str, str]:
    encoding = detect_encoding(path)
    assert encoding is not None
    with path.open(encoding=encoding.codec, errors="replace", newline="") as file:
        return file.read(), encoding.note


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        *((codec, name) for codec in ("cp1252", "mac_roman") for name in TEXTS),
        *(("cp850", name) for name in ("one accent", "German", "Spanish", "units")),
    ],
)
def test_a_western_text_is_read_as_what_it_is(tmp_path: Path, name: str, codec: str) -> None:
    text = f"photo,critique\na.jpg,{TEXTS[name]}\n"
    (tmp_path / "a.csv").write_bytes(text.encode(codec))
    assert decode(tmp_path / "a.csv") == (text, f"list read as {codec}")


@pytest.mark.parametrize(("codec", "text"), OTHER_TEXTS)
def test_other_scripts_are_read_as_what_they_are(tmp_path: Path, codec: str, text: str) -> None:
    (tmp_path / "a.csv").write_bytes(f"photo,critique\na.jpg,{text}\n".encode(codec))
    content, note = decode(tmp_path / "a.csv")
    assert text in content
    assert note == f"list read as {codec}"


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("text", [*TEXTS.values(), *(text for _, text in OTHER_TEXTS)])
def test_utf_16_and_32_are_read_with_and_without_a_mark(
    tmp_path: Path, codec: str, text: str
) -> None:
    text = f"photo,critique\na.jpg,{text}\n"
    (tmp_path / "a.csv").write_bytes(text.encode(codec))
    content, note = decode(tmp_path / "a.csv")
    assert content == text
    assert note == f"list read as {codec.upper()}"


def test_utf_8_has_no_note_with_and_without_a_mark(tmp_path: Path) -> None:
    for codec in ("utf-8", "utf-8-sig"):
        (tmp_path / "a.csv").write_bytes("café\n".encode(codec))
        assert decode(tmp_path / "a.csv") == ("café\n", "")


def test_the_first_older_byte_may_stand_far_behind(tmp_path: Path) -> None:
    start = "plain text\n" * 300_000  # 3 MB
    (tmp_path / "a.csv").write_bytes((start + TEXTS["German"]).encode("cp1252"))
    content, note = decode(tmp_path / "a.csv")
    assert (content[len(start) :], note) == (TEXTS["German"], "list read as cp1252")


@pytest.mark.parametrize(
    "damaged",
    [
        "Die Bäume über dem Fluss\n".encode() + b"caf\xe9\n",
        b"the sky is \xff\xfe bright\n",
        "cut off in a charact\u00e9".encode()[:-1],
    ],
)
def test_a_few_invalid_bytes_do_not_make_another_encoding(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(damaged)
    content, note = decode(tmp_path / "a.csv")
    assert (content.count("\ufffd") > 0, note) == (True, "")


def test_a_character_on_the_border_of_two_blocks_is_read(tmp_path: Path) -> None:
    for shift in range(3):
        text = "x" * ((1 << 20) - shift) + "é€\n" * 3
        (tmp_path / "a.csv").write_text(text, encoding="utf-8")
        assert decode(tmp_path / "a.csv") == (text, "")


@given(st.binary(max_size=300))
def test_any_bytes_are_text_or_binary(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("text") / "a.csv"
    path.write_bytes(raw)
    if detect_encoding(path) is not None:
        decode(path)
    else:
        assert b"\0" in raw

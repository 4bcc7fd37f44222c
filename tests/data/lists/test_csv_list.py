import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.core.errors import DataError
from mondrian.critique.parser import ParsedCritique, parse_critique
from mondrian.critique.schema import DIMENSIONS, Critique, serialize_critique
from mondrian.data.lists.headings import PART_KEYS, heading_keys
from mondrian.data.sources import CSV_TEMPLATE
from mondrian.sample.scene import draw_scene
from mondrian.sample.writing_style import write_critique
from tests.data.lists.list_files import format_table, make_row, read_critique, read_jobs

CRITIQUE = write_critique("ansel", draw_scene(5, 1))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
@pytest.mark.parametrize("name", ["critiques.csv", "Critiques.CSV", "a.tsv", "a.txt", "list"])
def test_a_spreadsheet_comes_back_exactly(
    tmp_path: Path, separator: str, codec: str, name: str
) -> None:
    critique = CRITIQUE.model_copy(update={"technical_notes": "The café’s light, at ƒ/8; 1/60 s."})
    rows = [make_row("a.jpg", critique), make_row("b, c.jpg", CRITIQUE)]
    (tmp_path / name).write_bytes(format_table(rows, separator).encode(codec))
    first, second = read_jobs(tmp_path / name)
    assert (first.filename, read_critique(first)) == ("a.jpg", critique)
    assert (second.filename, read_critique(second)) == ("b, c.jpg", CRITIQUE)
    note = {"utf-16": "UTF-16", "utf-16-le": "UTF-16-LE", "cp1252": "cp1252"}.get(codec)
    assert first.notes == second.notes == ((f"list read as {note}",) if note else ())


def test_a_critique_may_stand_in_one_column(tmp_path: Path) -> None:
    text = serialize_critique(CRITIQUE)
    for separator in ",;\t":
        rows = [{"File name": "a.jpg", "Critique": text, "": "", "My rating": "5"}]
        (tmp_path / "a.csv").write_text(format_table(rows, separator))
        (job,) = read_jobs(tmp_path / "a.csv")
        assert (job.filename, read_critique(job)) == ("a.jpg", CRITIQUE)


@pytest.mark.parametrize(
    "first",
    [
        *("sep=;", "SEP=;", '"sep=;"', "\ufeffsep=;", "\n", ";;;;\n;;;;"),
        *("My critiques", "My critiques, 2026;;;\n;;\nPhoto club\n"),
    ],
)
def test_lines_before_the_header_and_between_rows_are_skipped(tmp_path: Path, first: str) -> None:
    table = format_table([make_row("a.jpg", CRITIQUE)] * 2, ";").split("\r\n")
    lines = [first, table[0], ";" * 26, *table[1:], ";" * 26, ""]
    (tmp_path / "a.csv").write_text("\r\n".join(lines), newline="")
    jobs = read_jobs(tmp_path / "a.csv")
    assert [read_critique(job) for job in jobs] == [CRITIQUE, CRITIQUE]
    assert len({job.id for job in jobs}) == 2


@pytest.mark.parametrize(
    ("heading", "key"),
    [
        ("Composition Score", "composition_score"),
        ("Composition – comment", "composition_comment"),
        ("Focus and Sharpness: Recommendation", "focus_sharpness_recommendation"),
        ("FOCUS & SHARPNESS SCORE", "focus_sharpness_score"),
        ("Colour Harmony (score)", "color_harmony_score"),
        ("ColorHarmony_comment", "color_harmony_comment"),
        ("Score of Lighting", "lighting_score"),
        ("Visual balance remarks", "visual_balance_comment"),
        ("emotional impact advice", "emotional_impact_recommendation"),
        ("Overall Score", "overall_score"),
        ("overall grade", "overall_score"),
        ("Key strengths", "key_strengths"),
        ("Priority improvements", "priority_improvements"),
        ("Technical Notes", "technical_notes"),
        ("Image description", "image_description"),
        ("Photo", "photo"),
        (" PHOTO FILE ", "photo"),
        ("File name", "filename"),
        ("Created at", "created_at"),
        ("ID", "id"),
        ("Light score", "light score"),
        ("My notes on it", "my notes on it"),
    ],
)
def test_a_heading_is_recognized_in_any_spelling(heading: str, key: str) -> None:
    assert heading_keys([heading]) == [key]


def test_a_dimension_alone_is_the_column_that_is_missing() -> None:
    assert heading_keys(["Composition", "Lighting", "Lighting score", "Lighting advice"]) == [
        "composition_score",
        "lighting_comment",
        "lighting_score",
        "lighting_recommendation",
    ]


def test_private_notes_are_not_the_technical_ones() -> None:
    assert heading_keys(["Notes", "Technical notes"]) == ["notes", "technical_notes"]
    assert heading_keys(["Notes", "My notes"]) == ["technical_notes", "my notes"]


@pytest.mark.parametrize(
    ("cell", "score"),
    [("7,5", 7.5), ("7.5", 7.5), ("8/10", 8), ("7,5 / 10", 7.5), ("8,0/10,0", 8), ("9,", 9)],
)
def test_a_score_may_have_a_decimal_comma(tmp_path: Path, cell: str, score: float) -> None:
    row = make_row("a.jpg", CRITIQUE) | {"Lighting Score": cell, "Overall Score": f" {cell}\u00a0"}
    (tmp_path / "a.csv").write_text(format_table([row], ";"))
    critique = read_critique(*read_jobs(tmp_path / "a.csv"))
    assert (critique.dimensions[1].score, critique.overall_score) == (score, score)


@pytest.mark.parametrize("cell", ["8/5", "10. Aug", "1.000,5", "acht", "-7,5", "7,5,5"])
def test_a_cell_that_is_no_score_of_ten_is_rejected(tmp_path: Path, cell: str) -> None:
    row = make_row("a.jpg", CRITIQUE) | {"Lighting Score": cell}
    (tmp_path / "a.csv").write_text(format_table([row], ";"))
    (job,) = read_jobs(tmp_path / "a.csv")
    assert getattr(parse_critique(job.text), "reason", None) == "score_out_of_range"


def test_blanks_around_separators_and_quotes_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('photo ; "critique"; id\na.jpg; "x; ""y"""; 7\n')
    (job,) = read_jobs(tmp_path / "a.csv")
    assert (job.filename, job.text, job.id) == ("a.jpg", 'x; "y"', "7")


def test_lists_in_a_cell_have_semicolons_bullets_or_json(tmp_path: Path) -> None:
    cells = (
        "Calm mood; clear planes",
        "- Calm mood\n• clear planes",
        '["Calm mood", "clear planes"]',
    )
    rows = [make_row("a.jpg", CRITIQUE) | {"Key strengths": cell} for cell in cells]
    (tmp_path / "a.csv").write_text(format_table(rows, ","))
    for job in read_jobs(tmp_path / "a.csv"):
        assert read_critique(job).key_strengths == ("Calm mood", "clear planes")


def test_a_row_with_more_cells_than_columns_is_counted_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("photo,critique\na.jpg,Nice, calm\nb.jpg,x,,\n")
    first, second = read_jobs(path)
    assert first.rejection is not None
    assert first.rejection.detail == "3 cells for 2 columns; quote texts with ','"
    assert (second.rejection, second.text) == (None, "x")


def test_the_template_is_one_critique(tmp_path: Path) -> None:
    text = CSV_TEMPLATE.read_text(encoding="utf-8")
    with CSV_TEMPLATE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for separator, codec in ((",", "utf-8"), (";", "utf-16"), ("\t", "cp1252")):
        (tmp_path / "a.csv").write_bytes(format_table(rows, separator).encode(codec))
        (job,) = read_jobs(tmp_path / "a.csv")
        parsed = parse_critique(job.text)
        assert isinstance(parsed, ParsedCritique)
        assert parsed.repairs == ("score_as_text",)
    assert set(PART_KEYS) <= set(text.split("\n", 1)[0].split(","))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,critique\n", "no column photo or image or filename or file; it has 'name'"),
        ('photo,critique\n"a\nb",c\n\n"d', "row in line 5: .*; is it a CSV"),
        ("photo,comments\n", "no column critique or text or .*; it has 'photo', 'comments'"),
        (
            "photo,composition_score,light_score\na,1,2\n",
            r"no column composition_comment, .*, lighting_comment \(\+16 more\); add them",
        ),
        ("photo,critique,Critique\na,b,c\n", "the column 'critique' twice .'critique' and 'Crit"),
        ("photo,strengths,Key strength,text\n", "'key_strengths' twice .'strengths' and 'Key"),
        ("photo,Photo file,text\n", "the column 'photo' twice .'photo' and 'Photo file'"),
        ("photo,Lighting score,Lighting points,text\n", "the column 'lighting_score' twice"),
        (",,,\n", "no column photo .*; it has ',,,'"),
    ],
)
def test_a_table_that_cannot_give_critiques_names_the_problem(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        read_jobs(tmp_path / "a.csv")


def test_a_row_is_named_after_its_first_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('\nphoto,critique\na.jpg,"two\nlines"\n\nb.jpg,one\n')
    assert [job.id for job in read_jobs(path)] == ["line-000003", "line-000006"]
    path.write_bytes(b"photo,critique\ra.jpg,one\rb.jpg,two\r")  # of an old Mac
    assert [job.id for job in read_jobs(path)] == ["line-000002", "line-000003"]


def test_an_invalid_byte_damages_its_row_only(tmp_path: Path) -> None:
    rows = [make_row("a.jpg", CRITIQUE), make_row("b.jpg", CRITIQUE), make_row("é.jpg", CRITIQUE)]
    raw = format_table(rows, ",").encode()
    start = raw.index(b"b.jpg")
    raw = raw[:start] + raw[start:].replace(b"the", b"th\xe9", 1)
    (tmp_path / "a.csv").write_bytes(raw)
    first, second, third = read_jobs(tmp_path / "a.csv")
    assert read_critique(first) == read_critique(third) == CRITIQUE
    assert getattr(parse_critique(second.text), "reason", None) == "not_utf8"


words = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "Zs")), min_size=1, max_size=40
)
sentences = words.filter(lambda text: text.strip() == text and any(map(str.isalpha, text)))


@given(st.lists(sentences, min_size=15, max_size=15), st.sampled_from(",;\t|"), st.booleans())
def test_any_text_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], separator: str, is_wide: bool
) -> None:
    description, *others = texts
    dimensions = tuple(
        d.model_copy(update={"comment": others[i], "recommendation": others[7 + i]})
        for i, d in enumerate(CRITIQUE.dimensions)
    )
    critique = CRITIQUE.model_copy(
        update={"image_description": description, "dimensions": dimensions}
    )
    path = tmp_path_factory.mktemp("list") / "a.csv"
    table = format_table([make_row("a.jpg", critique)], separator)
    path.write_bytes(table.encode("utf-16" if is_wide else "utf-8"))
    (job,) = read_jobs(path)
    stored = json.loads(job.text)
    assert stored["image_description"] == description
    assert [d["name"] for d in stored["dimensions"]] == list(DIMENSIONS)
    assert [d["comment"] for d in stored["dimensions"]] == others[:7]
    assert [d["recommendation"] for d in stored["dimensions"]] == others[7:]
    assert isinstance(critique, Critique)

import csv
import io
import json
import sqlite3
import time
import tracemalloc
import zipfile
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.lists.list_format import LIST_SUFFIXES
from mondrian.data.sources import open_source
from tests.data.lists.list_files import format_table, read_critique, read_jobs


def make_zip(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "application/vnd.oasis.opendocument.spreadsheet" * 3)
    return file.getvalue()


def make_ods() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
    return file.getvalue()


def make_photo(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    return file.getvalue()


FOREIGN = {
    "an Excel workbook; save it as CSV": make_zip("[Content_Types].xml", "xl/workbook.xml"),
    "a Word document;": make_zip("[Content_Types].xml", "word/document.xml"),
    "an OpenDocument spreadsheet; save it as CSV": make_ods(),
    "a Numbers, Pages or Keynote document; export it as CSV": make_zip("Index/Document.iwa"),
    "a zip archive; unpack it": make_zip("critiques.csv"),
    "a Parquet file; write it as JSON lines": b"PAR1\x15\x04\x15" + bytes(50) + b"PAR1",
    "a PDF;": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "an old Excel or Word file; save it as CSV": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "a gzip archive; unpack it": b"\x1f\x8b\x08\x00" + bytes(30),
    "the log of an SQLite database; give the database": b"\x37\x7f\x06\x82\x00\x2d\xe2\x18",
    "a photo; give its folder": make_photo("JPEG"),
    "an HTML page;": b"<!DOCTYPE html>\n<html><body>photo,critique</body></html>",
    "an HTML page; copy": b"<table><tr><td>photo</td></tr></table>",
    "XML;": b"<?xml version='1.0'?><rows/>",
    "a Rich Text document;": b"{\\rtf1\\ansi photo}",
    "a pointer of Git LFS; run git lfs pull": b"version https://git-lfs.github.com/spec/v1\noid",
    "a dump of a database; load it": b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n",
    "a binary file;": bytes(range(256)) * 4,
    "one JSON object;": b'{\n  "photo": "a.jpg",\n  "critique": {}\n}\n',
}


@pytest.mark.parametrize("suffix", [*LIST_SUFFIXES, ".XLSX", ".db", ""])
@pytest.mark.parametrize("what", FOREIGN)
def test_what_is_not_read_is_named_whatever_its_suffix(
    tmp_path: Path, what: str, suffix: str
) -> None:
    path = tmp_path / f"critiques{suffix}"
    path.write_bytes(FOREIGN[what])
    expected = r"is not an SQLite database, nor a list \(CSV, JSON lines, a JSON list\): it is "
    with pytest.raises(DataError, match=expected) as error:
        read_jobs(path)
    assert f"it is {what}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [*LIST_SUFFIXES, ""])
def test_an_empty_or_blank_file_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    for content, message in ((b"", "is empty"), (b"\n \r\n", "has blank lines only")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_jobs(path)


@pytest.mark.parametrize(
    "suffix", [".jsonl", ".JSONL", ".ndjson", ".json", ".csv", ".txt", ".db", ""]
)
def test_content_decides_not_the_suffix(tmp_path: Path, critique: Critique, suffix: str) -> None:
    path, text = tmp_path / f"critiques{suffix}", serialize_critique(critique)
    entry, file = {"photo": "a.jpg", "critique": json.loads(text)}, io.StringIO()
    csv.writer(file).writerows([["photo", "critique"], ["a.jpg", text]])
    contents = [json.dumps(entry), f"\ufeff{json.dumps(entry)}\n", f"\n [\n{json.dumps(entry)}\n]"]
    contents += [file.getvalue()] if suffix[1:].lower() not in ("jsonl", "ndjson", "json") else []
    for content in contents:
        path.write_text(content, encoding="utf-8")
        (job,) = read_jobs(path)
        assert (job.filename, read_critique(job)) == ("a.jpg", critique)


def test_a_database_is_read_under_the_name_of_a_list(tmp_path: Path) -> None:
    for name in ("critiques.csv", "jobs", "jobs.txt"):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.execute("CREATE TABLE jobs (id, filename, advisor, status)")
            connection.execute("INSERT INTO jobs VALUES ('1', 'a.jpg', 'ansel', 'done')")
            connection.commit()
        assert [job.id for job in read_jobs(tmp_path / name)] == ["1"]


STARTS = [
    b"",
    b"[",
    b"[{",
    b'{"photo": ',
    b"photo,critique\n",
    b"sep=;\n",
    b"\xff\xfe",
    b"PK\x03\x04",
]


@settings(max_examples=200)
@given(
    st.sampled_from([*LIST_SUFFIXES, ".db", ""]),
    st.sampled_from(STARTS),
    st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)).map(bytes),
)
@example(".csv", b"photo;critique\n", b'"' * 99)
@example(".json", b"[{", b'"a": "\\ud800"}]')
@example(".jsonl", b"", b'{"id": {}, "messages": [{"role": []}]}\n')
def test_any_bytes_are_jobs_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("list") / f"a{suffix}"
    path.write_bytes(start + rest)
    with suppress(DataError), open_source(path) as source:
        count = source.count_jobs().count("ansel")
        jobs = list(source.iter_finished("ansel"))
        assert len({job.id for job in jobs}) == len(jobs) <= count


HOSTILE = {
    "commas.csv": b"," * 3_000_000,
    "headings.csv": b",".join(b"score %d" % i for i in range(300_000)),
    "quotes.csv": b"photo,critique\n" + b'"' * 3_000_001,
    "open quote.csv": b'photo,critique\na.jpg,"' + b"x\n" * 2_000_000,
    "brackets.json": b"[" * 3_000_000,
    "open objects.json": b'[{"a":' * 300_000,
    "open text.json": b'[{"a": "' + b"\\u00e9" * 500_000,
    "commas.json": b"[{}" + b",{}" * 20_000,
    "quotes.jsonl": b'{"a": "' + b'\\"' * 1_500_000,
    "older.csv": b"photo,critique\n" + b"a.jpg,caf\xe9\n" * 20_000,
    "noise.txt": bytes(range(128, 256)) * 20_000,
    "one byte.csv": b"\xe9" * 3_000_000,
    "half of utf-16.csv": b"\xff\xfe" + b"a\0" * 1_000_000 + b"\xd8",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_takes_seconds_at_most(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HOSTILE[name])
    started = time.process_time()
    with suppress(DataError):
        read_jobs(tmp_path / name)
    assert time.process_time() - started < 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_a_list_is_read_in_bounded_memory(tmp_path: Path, name: str, critique: Critique) -> None:
    entry = {"photo": "a.jpg", "critique": serialize_critique(critique)}
    text = json.dumps(entry)
    if name == "a.csv":
        text = format_table([entry], ",").split("\r\n")[1]
    start, end = {"a.json": ("[{}", "]"), "a.csv": ("photo,critique\n", "")}.get(name, ("", ""))
    separator = ",\n" if name == "a.json" else "\n"
    lines = separator.join([text] * 5000)  # 12 MB
    (tmp_path / name).write_text(start + separator * bool(start == "[{}") + lines + end)
    size = (tmp_path / name).stat().st_size
    del lines
    with open_source(tmp_path / name) as source:
        tracemalloc.start()
        count = sum(1 for _ in source.iter_finished("ansel"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count in (5000, 5001)
    assert size > 10_000_000
    assert peak < 0.8 * size

from pathlib import Path

import pytest
from pydantic import BaseModel

from mondrian.core.errors import DataError
from mondrian.core.record_log import read_log, rewrite_log


class Note(BaseModel):
    text: str


def test_records_are_read_without_a_line_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    assert read_log(path, Note, "has no notes").records == []
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"te')
    content = read_log(path, Note, "has no notes")
    assert content.records == [Note(text="a"), Note(text="b")]
    assert content.other_lines == []
    path.write_text('{\n{"text": "a"}\n{')
    assert read_log(path, Note, "has no notes").other_lines == [b"{"]
    path.write_text('{"text": "a"}')  # all but its line end
    assert read_log(path, Note, "has no notes").records == [Note(text="a")]
    path.write_text('{"te')  # killed in the first line
    assert read_log(path, Note, "has no notes").records == []


def test_lines_that_are_no_records_stay_in_a_rewritten_log(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(b'{"text": "a"}\n\n{"text": 5, "mine": "\xff"}\n{"text": "b"}\n# a note')
    content = read_log(path, Note, "has no notes")
    rewrite_log(path, [content.records[1].model_dump_json()], content.other_lines)
    assert path.read_bytes() == b'{"text":"b"}\n{"text": 5, "mine": "\xff"}\n# a note\n'


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text("not\na log\n")
    with pytest.raises(DataError, match=r"other\.txt has no notes"):
        read_log(path, Note, "has no notes")

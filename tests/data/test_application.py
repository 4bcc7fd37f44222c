from collections.abc import Callable
from pathlib import Path

import pytest

from mondrian.core.errors import DataError
from mondrian.data.application import find_application

MakeDb = Callable[..., Path]


def test_folders_are_found_next_to_the_database(make_db: MakeDb, tmp_path: Path) -> None:
    (tmp_path / "analysis_md").mkdir()
    application = find_application(make_db({}, {"advisor": "weston, ansel"}), None, [])
    assert application.finished_jobs == {"ansel": 2, "weston": 1}
    folders = application.folders
    assert folders.analysis == tmp_path / "analysis_md"
    assert (folders.source, folders.html) == (tmp_path / "source",) * 2  # there is no analysis/


def test_advisors_are_those_with_a_finished_job(make_db: MakeDb) -> None:
    path = make_db({"advisor": "weston", "status": "queued"}, {})
    assert find_application(path, None, []).finished_jobs == {"ansel": 1}


def test_an_advisor_who_is_not_named_has_the_jobs_for_all(make_db: MakeDb) -> None:
    path = make_db({"advisor": "all"}, {})
    assert find_application(path, None, []).finished_jobs == {"ansel": 2}
    assert find_application(path, None, ["okeefe"]).finished_jobs == {"okeefe": 1}


@pytest.mark.parametrize(
    ("row", "advisors", "message"),
    [
        ({"advisor": "all"}, [], "names no advisor; give --advisor NAME"),
        ({"status": "ok"}, [], "no finished job: finished is done or completed, .* 'ok' 1"),
        ({}, ["anse"], "no finished job of advisor 'anse'; finished jobs of others: 'ansel' 1"),
    ],
)
def test_a_source_without_advisors_is_an_error(
    make_db: MakeDb, row: dict[str, str], advisors: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        find_application(make_db(row), None, advisors)


def test_a_source_without_rows_or_without_a_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    with pytest.raises(DataError, match="does not exist; give the path of your database or list"):
        find_application(path, None, [])
    path.write_text("photo,critique\n")
    with pytest.raises(DataError, match="has no finished job: it has no rows$"):
        find_application(path, None, [])


def test_a_missing_photo_folder_is_an_error_that_names_a_similar_one(
    make_db: MakeDb, tmp_path: Path
) -> None:
    path = make_db({})
    (tmp_path / "source").rename(tmp_path / "sources")
    with pytest.raises(DataError, match="there is .*/sources; give it with --source_dir"):
        find_application(path, None, [])
    assert find_application(path, tmp_path / "sources", []).folders.source.name == "sources"


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("text", "is not an SQLite database")]
)
def test_an_invalid_database_is_named_before_its_missing_photos(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "mondrian.db").write_text(content)
    with pytest.raises(DataError, match=message):
        find_application(tmp_path / "mondrian.db", None, [])

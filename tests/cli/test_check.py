from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mondrian.cli import check
from mondrian.core.errors import DataError, ParamsError
from mondrian.core.params_file import replace_values
from tests.conftest import ROOT

BASE = str(ROOT / "models/base/mondrian-tiny")


@pytest.fixture
def write_params(tmp_path: Path) -> Callable[..., Path]:
    """Write the shipped params.yaml with other values of `application`, by key."""

    def write(source: str = BASE, **application: str) -> Path:
        text = (ROOT / "params.yaml").read_text()
        values: dict[str, Any] = {"base": {"source": source}, "application": application}
        (tmp_path / "params.yaml").write_text(replace_values(text, values, {}))
        return tmp_path / "params.yaml"

    return write


def test_all_missing_paths_are_named_at_once(
    write_params: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    path = write_params(db_path="/no/such.db", source_dir="sourec")
    with pytest.raises(ParamsError) as error:
        check.main(["--params", str(path)])
    assert "application.db_path is '/no/such.db'; there is no /no" in str(error.value)
    assert f"application.source_dir is 'sourec'; there is {tmp_path}/source" in str(error.value)
    assert "analysis_dir" not in str(error.value)  # dvc repro renders the sample


def test_the_sample_need_not_exist_yet(
    write_params: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_params()
    check.main(["--params", str(path)])
    assert capsys.readouterr().out == f"{path} is complete; next: dvc repro\n"


def test_each_advisor_needs_a_finished_job(
    write_params: Callable[..., Path], make_db: Callable[..., Path]
) -> None:
    make_db({})
    path = write_params(db_path="mondrian.db", source_dir="source")
    with pytest.raises(DataError, match="no finished job of advisor 'okeefe'; .*: 'ansel' 1"):
        check.main(["--params", str(path)])


def test_a_path_of_the_wrong_kind_is_named(
    write_params: Callable[..., Path], make_db: Callable[..., Path], tmp_path: Path
) -> None:
    database = make_db({}).name
    (tmp_path / "model").mkdir()
    path = write_params(
        "model", db_path=database, source_dir="source", analysis_dir=database, html_dir=database
    )
    with pytest.raises(ParamsError) as error:
        check.main(["--params", str(path)])
    assert str(error.value).splitlines()[1:] == [
        "  application.analysis_dir is 'mondrian.db'; it must be a folder",
        "  application.html_dir is 'mondrian.db'; it must be a folder",
        "  base.source is 'model'; it must be a folder with config.json",
    ]

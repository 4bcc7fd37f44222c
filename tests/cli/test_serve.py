"""mondrian serve --help."""

from pathlib import Path

import pytest
import yaml

from mondrian.cli.serve import parse_args
from tests.conftest import ROOT


def test_help_shows_the_defaults_of_the_given_params(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    values["serve"]["port"] = 5432
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "400")

    def show_help(*flags: str) -> str:
        with pytest.raises(SystemExit) as error:
            parse_args([*flags])
        assert error.value.code == 0
        return capsys.readouterr().out

    given: list[tuple[str, ...]] = [("--params", str(path), "--help"), ("-h", f"--params={path}")]
    for flags in given:
        assert f"(default: 5432, of serve in {path})" in show_help(*flags)
    unknown: list[tuple[str, ...]] = [("--help",), ("--help", "--params")]
    for flags in unknown:
        assert "(default: 5100, of serve in params.yaml)" in show_help(*flags)
    assert "(default of serve in none.yaml)" in show_help("--params", "none.yaml", "--help")

"""An empty argument, of a shell variable that is not set, is refused: it would mean this folder."""

from importlib import import_module

import pytest


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("critique", ["", "--advisor=ansel"]),
        ("critique", ["a.jpg", "--advisor=ansel", "--output="]),
        ("label", ["", "--advisor=ansel"]),
        ("label", ["a", "--advisor=ansel", "--list= "]),
        ("pull", ["ansel", "--rev=v1", "--from=.", "--verify="]),
        ("release", ["ansel", "--version=v1", "--sign="]),
    ],
)
def test_an_empty_path_is_refused(
    command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        import_module(f"mondrian.cli.{command}").main(arguments)
    assert "it is empty; give a file or a folder" in capsys.readouterr().err

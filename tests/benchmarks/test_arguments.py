"""Wrong arguments of benchmarks end in one line, before anything is written or started."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import carry_wheels, full_size, gpu, score_bias

DOWNLOAD = ["download", "new", "lock", "--python", "3.12"]


@pytest.mark.parametrize(
    ("parse", "words", "message"),
    [
        (carry_wheels.parse_args, DOWNLOAD, "no lock file lock"),
        (carry_wheels.parse_args, [*DOWNLOAD, "--part_mib", "0"], "--part_mib is 0"),
        (carry_wheels.parse_args, [*DOWNLOAD[:-1], "abc"], "--python is abc"),
        (carry_wheels.parse_args, ["download", ".", *DOWNLOAD[2:]], ". exists"),
        (carry_wheels.parse_args, ["install", "none", "--target", "x"], "no folder none"),
        (gpu.parse_args, ["--minutes", "nan"], "--minutes is nan"),
        (gpu.parse_args, ["--output", __file__], "is no folder"),
        (gpu.parse_args, ["--torch", "/none"], "--torch /none cannot be run"),
        (gpu.parse_args, ["--tokenizer", "/none"], "no tokenizer.json"),
        (full_size.parse_args, ["--layers", "0"], "--layers is 0"),
        (full_size.parse_args, ["--torch", "/none"], "--torch /none cannot be run"),
    ],
)
def test_a_wrong_argument_is_named(
    parse: Callable[[], object],
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    with pytest.raises(SystemExit):
        parse()
    assert message in capsys.readouterr().err


def test_an_unknown_part_or_advisor_is_named() -> None:
    parts = gpu.list_parts(gpu.SMALL, Path(), None, None, False)
    assert [part.name for part in gpu.select_parts(parts, ["prod"])] == ["products"]
    assert gpu.select_parts(parts, []) == parts
    with pytest.raises(SystemExit, match="error: --parts nopart is no part; the parts are doctor"):
        gpu.select_parts(parts, ["nopart"])
    with pytest.raises(SystemExit, match="error: --advisor_index 7; it may be 0 to 1"):
        score_bias.generate_critiques(7)


def test_a_failed_download_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("no such requirement\n")
    with pytest.raises(SystemExit, match="error: pip failed"):
        carry_wheels.download(tmp_path / "new", [tmp_path / "lock"], (), "3.12")
    assert not (tmp_path / "new").exists()


def test_parts_without_wheels_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="error: no wheel in"):
        carry_wheels.install([tmp_path], tmp_path / "target")
    assert not (tmp_path / "target").exists()

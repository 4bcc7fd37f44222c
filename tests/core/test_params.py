from argparse import ArgumentTypeError
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from mondrian.core.advisor_id import advisor_id
from mondrian.core.errors import ParamsError
from mondrian.core.params import load_params
from mondrian.core.params_file import replace_values
from mondrian.registry.version import check_name
from tests.conftest import ROOT

SHIPPED = (ROOT / "params.yaml").read_text()


def read_errors(tmp_path: Path, text: str) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as error:
        load_params(path)
    return str(error.value)


def test_the_shipped_file_is_valid() -> None:
    assert load_params(ROOT / "params.yaml").train.lora_r == 16


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = SHIPPED.replace("lora_r: 16", "lora_r: 0").replace("epochs:", "epoch:")
    message = read_errors(tmp_path, text)
    assert "3 problems" in message
    assert "train.lora_r is 0" in message
    assert "train.epoch is not a parameter; did you mean epochs?" in message
    assert "train.epochs is missing" in message


def test_an_exponent_without_a_point_is_a_number_as_dvc_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    for text, value in (("2e-4", 2e-4), ("5e-05", 5e-5), ("1E+1", 10.0)):
        path.write_text(SHIPPED.replace("weight_decay: 0.0", f"weight_decay: {text}"))
        assert load_params(path).train.weight_decay == value
    assert "experiment is" in read_errors(
        tmp_path, SHIPPED.replace("experiment: '1'", "experiment: 1e3")
    )


@pytest.mark.parametrize("text", ["", "- a\n", "train: [", "\x00", "advisors: []\n"])
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    assert "params.yaml" in read_errors(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("cache_limit_gb", "write cache_limit_gb: 2.0 under machine"),
        ("public_url", "write public_url: '' under serve"),
        ("trusted_proxies", r"write trusted_proxies: \[\] under serve"),
        ("default_advisor", "write default_advisor: '' under serve"),
        ("identify_clients", "write identify_clients: false under serve"),
    ],
)
def test_a_parameter_that_an_earlier_version_lacks_comes_with_its_value(
    tmp_path: Path, name: str, fix: str
) -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines(keepends=True)
    path = tmp_path / "params.yaml"
    path.write_text("".join(line for line in lines if name not in line))
    with pytest.raises(ParamsError, match=f"missing; {fix}"):
        load_params(path)


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_a_persona_that_is_not_written_yet_is_an_error(tmp_path: Path) -> None:
    text = replace_values(SHIPPED, {"advisors": ["weston"]}, {"personas": {"weston": ""}})
    assert "personas of weston: empty; write a few sentences" in read_errors(tmp_path, text)


def test_an_advisor_without_a_persona_is_named(tmp_path: Path) -> None:
    text = SHIPPED.replace("- okeefe", "- weston")
    assert "personas has no text for 'weston'" in read_errors(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("- okeefe", "- '../x'", "advisors.1 is '../x'"),
        ("- okeefe", "- ansel", "has an advisor twice"),
        ("- okeefe", "- Ansel", "has an advisor twice: ansel, Ansel (capitals do not count"),
        ("- okeefe", "- 7", "advisors.1 is 7; should be a valid string"),
        (
            "db_path: data/sample/mondrian/mondrian.db",
            'db_path: "a\\0"',
            "no file name has a NUL character",
        ),
        (
            "source: models/base/mondrian-tiny",
            "source: Qwen/Qwen3-VL-4B-Thinking",
            "thoughts before its answer, which the critique's format forbids; use Qwen/Qwen3-VL",
        ),
        ("folds: 0", "folds: 1", "on the other folds; it must be 0 or at least 2"),
        ("max_grad_norm: 1.0", "max_grad_norm: .inf", "train.max_grad_norm is inf"),
        ("min_pixels: 4096", "min_pixels: 999999", "min_pixels is above"),
        ("You are Ansel Adams.", "You are <image>.", "contains <image>"),
        ("db_path: data", "db_path: ~/data", "application.db_path is '~/data/sample/mondrian"),
        ("source: models", "source: ~/models", "DVC does not expand ~; write /"),
        ("max_grad_norm: 1.0", "max_grad_norm: " + "x" * 9_999, "train.max_grad_norm is 'xxx"),
        ("max_grad_norm: 1.0", "max_grad_norm: 2024-13-45", "is not YAML"),
    ],
)
def test_invalid_values_are_rejected(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in SHIPPED
    message = read_errors(tmp_path, SHIPPED.replace(old, new))
    assert expected in message
    assert len(message) < 1000


def test_preference_pairs_are_not_cross_validated(tmp_path: Path) -> None:
    text = replace_values(SHIPPED, {"train": {"method": "orpo"}, "prepare": {"folds": 5}}, {})
    assert "orpo and prepare.folds is 5" in read_errors(tmp_path, text)


def test_every_value_is_explained() -> None:
    """By a comment on its line, or on a line of its own above."""
    sections = [line.split(":")[0] for line in SHIPPED.splitlines() if line[:1].isalpha()]
    assert sections == list(yaml.safe_load(SHIPPED))
    before, _, rest = SHIPPED.partition("\npersonas:")  # names and prose need no comment
    lines = (before + rest[rest.index("\napplication:") :]).splitlines()
    values = unexplained = 0
    below_comment = False
    for line in lines:
        is_comment = line.lstrip().startswith("#")
        below_comment = is_comment or (below_comment and "#" not in line)
        if line.startswith("  ") and not is_comment:
            values += 1
            unexplained += "#" not in line and not below_comment
    assert values > 80
    assert not unexplained


@pytest.mark.parametrize(
    ("override", "old", "new"),
    [
        ("train.learning_rate=1e-3", "learning_rate: 2.0e-3 ", "learning_rate: 0.001  "),
        ("link.thumbnails=use", "thumbnails: leave_out ", "thumbnails: use       "),
        ("base.source=a/b", "source: models/base/mondrian-tiny", "source: a/b"),
        ("advisors=[ansel]", "- okeefe\n", ""),
    ],
)
def test_dvc_exp_run_changes_nothing_but_the_value(
    tmp_path: Path, override: str, old: str, new: str
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED)
    apply_overrides(path, [override])  # what `dvc exp run -S` calls
    assert SHIPPED.count(old) == 1
    assert path.read_text() == SHIPPED.replace(old, new)


@pytest.mark.parametrize("advisor", ["Ansel", "a", "O-Keeffe_2", "a" * 64, "null"])
def test_an_id_of_letters_digits_hyphens_and_underscores_is_an_advisor(
    tmp_path: Path, advisor: str
) -> None:
    path = tmp_path / "params.yaml"
    values = {"advisors": [advisor], "personas": {advisor: "You are one."}}
    path.write_text(replace_values(SHIPPED, values, {}))
    assert load_params(path).advisors == [advisor]
    assert advisor_id(advisor) == advisor
    check_name(advisor)  # of a git tag


@pytest.mark.parametrize(
    "advisor",
    [
        *(
            "a.b",
            "a b",
            "o'keeffe",
            'a"b',
            "a/b",
            "a\\b",
            "müller",
            "a$b",
            "a`b",
            "a@b",
            "a#b",
            "a,b",
        ),
        *(
            "7",
            "1e5",
            "0x1F",
            "-a",
            "_a",
            "a-",
            "a_",
            "",
            " a",
            "a\n",
            "all",
            "All",
            "a" * 65,
            "..",
        ),
    ],
)
def test_any_other_id_is_refused_with_the_rule_at_load_and_as_a_flag(
    tmp_path: Path, advisor: str
) -> None:
    values = {"advisors": [advisor], "personas": {advisor: "You are one."}}
    message = read_errors(tmp_path, replace_values(SHIPPED, values, {}))
    assert f"advisors.0 is {advisor!r}"[:80] in message
    assert "1 to 64 letters (a-z, A-Z), digits, - and _, with a letter first" in message
    with pytest.raises(ArgumentTypeError, match="1 to 64 letters"):
        advisor_id(advisor)


@pytest.mark.parametrize(
    ("key", "name", "advice"),
    [
        ("  wrong_picture:", "link.critiques_per_photo", ""),
        ("  duplicate_similarity:", "image.phash_distance", "image.duplicate_similarity to 0.6"),
    ],
)
def test_a_removed_parameter_says_what_to_do(
    tmp_path: Path, key: str, name: str, advice: str
) -> None:
    text = SHIPPED.replace(key, f"  {name.split('.')[1]}: 3\n{key}")
    message = read_errors(tmp_path, text)
    assert f"{name} was removed: delete the line" in message
    assert advice in message

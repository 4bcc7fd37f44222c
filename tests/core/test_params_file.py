import pytest
import yaml

from mondrian.core.errors import ParamsError
from mondrian.core.params_file import replace_values

TEXT = """\
advisors: [a, b]   # who

personas:          # a long line that stays as it is, although it has more than eighty columns
  a: "You are A."

train:
  epochs: 5        # how often
  learning_rate: 2.0e-3  # peak
"""


def test_only_the_given_values_change() -> None:
    values = {"advisors": ["c", "a"], "train": {"epochs": 3, "learning_rate": 0.002}}
    text = replace_values(TEXT, values, {"personas": {"c": "", "d": "", "a": ""}})
    assert text == TEXT.replace("[a, b]", "[c, a]").replace("epochs: 5", "epochs: 3").replace(
        '  a: "', "  c: ''\n  d: ''\n  a: \""
    )


def test_a_comment_after_a_list_stays() -> None:
    text = TEXT.replace("[a, b]   # who\n", "# who\n- a\n- b\n\n# each of them\n")
    edited = replace_values(text, {"advisors": ["c", "d", "e"]}, {})
    assert edited == text.replace("- a\n- b\n", "- c\n- d\n- e\n")


def test_a_comment_stays_with_its_item() -> None:
    text = TEXT.replace(
        "[a, b]   # who\n", "\n- a  # first\n# then\n- b  # last\n\n# each of them\n"
    )
    edited = replace_values(text, {"advisors": ["b", "c", "a"]}, {})
    list_end = "\n\n# each of them\n\npersonas"
    assert edited.startswith(f"advisors:\n- b  # last\n- c\n- a  # first\n# then{list_end}")
    edited = replace_values(text, {"advisors": ["a"]}, {})
    assert edited.startswith(f"advisors:\n- a  # first\n# then{list_end}")
    edited = replace_values(text, {"advisors": ["c"]}, {})
    assert edited.startswith(f"advisors:\n- c{list_end}")


def test_a_section_without_new_values_is_not_needed() -> None:
    text = TEXT.replace("personas:", "other:")
    edited = replace_values(text, {"advisors": ["c"]}, {"personas": {}})
    assert edited == text.replace("[a, b]", "[c]   ")


@pytest.mark.parametrize("name", ["no", "12:30", "null", "1", "a: b", "it's", "Zoë"])
def test_names_are_read_as_they_were_given(name: str) -> None:
    edited = replace_values(TEXT, {"advisors": [name]}, {"personas": {name: ""}})
    document = yaml.safe_load(edited)
    assert document["advisors"] == [name]
    assert name in document["personas"]


@pytest.mark.parametrize("values", [{}, {"advisors": ["a", "b"], "train": {"epochs": 5}}])
def test_equal_values_leave_a_file_of_any_form_as_it_is(values: dict[str, object]) -> None:
    text = TEXT.replace("[a, b]", "\n  -   a\n  - b")
    assert replace_values(text, values, {"personas": {"a": ""}}) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml is None; it must be a section"),
        ("train: 3\n", "params.yaml: train is 3; it must be a section"),
        ("a: 1\n", "params.yaml has no section train; add it"),
        ("train: [", "params.yaml is not YAML"),
        ("train: {epochs: 5}\na: !b 1\n", "params.yaml is not YAML: .*!b"),
        ("train: {epochs: 5}\na: " + "[" * 5000 + "]" * 5000, "params.yaml is not YAML"),
    ],
)
def test_a_file_that_cannot_be_edited_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        replace_values(text, {"train": {"epochs": 3}}, {})


def test_an_error_names_the_file() -> None:
    with pytest.raises(ParamsError, match=r"^pp\.yaml: train is 3"):
        replace_values("train: 3\n", {"train": {"epochs": 3}}, {}, "pp.yaml")

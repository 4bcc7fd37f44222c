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
        ("train: [", "params.yaml is not YAML"),
    ],
)
def test_a_file_that_cannot_be_edited_is_an_error(text: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        replace_values(text, {"train": {"epochs": 3}}, {})

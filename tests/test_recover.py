import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.critique import Critique, canonical
from mondrian.recover import Reason, Recovered, Rejected, recover
from mondrian.sample.mess import MESSES, Mess


@pytest.mark.parametrize("wrap", [
    "{}", "```json\n{}\n```", "# Ansel\n\n## Full Analysis\n{}\n", "Okay, let me look.\n{}",
])  # fmt: skip
def test_json_is_found_where_the_application_puts_it(wrap: str, critique: Critique) -> None:
    found = recover(wrap.replace("{}", canonical(critique)))
    assert isinstance(found, Recovered)
    assert found.critique == critique


@pytest.mark.parametrize("mess", MESSES, ids=lambda mess: mess.name)
def test_every_kind_of_mess_has_its_reason(mess: Mess, critique: Critique) -> None:
    found = recover(mess.text(critique))
    assert (found.reason if isinstance(found, Rejected) else None) == mess.reason


@pytest.mark.parametrize("token", ["<|im_end|>", "<|image_pad|>", "<image>"])
def test_a_critique_with_a_control_token_is_left_out(critique: Critique, token: str) -> None:
    text = canonical(critique.model_copy(update={"technical_notes": f"Notes {token}."}))
    found = recover(text)
    assert isinstance(found, Rejected)
    assert token in found.detail


def test_a_rejection_says_what_was_seen(critique: Critique) -> None:
    found = recover(canonical(critique)[:500])
    assert isinstance(found, Rejected)
    assert found.reason == Reason.TRUNCATED
    assert found.detail


pieces = st.sampled_from(
    ['{"', '"dimensions": [', '{"name": "Lighting", ', '"score": 9', "}", "]", "```json\n",
     "<div>", "\\", '"', "<think>", "Okay, ", '"image_description": "', "\x00", "光"]
)  # fmt: skip


@settings(max_examples=300)
@given(st.one_of(st.text(), st.lists(pieces, max_size=60).map("".join)))
def test_any_text_becomes_a_critique_or_a_reason(text: str) -> None:
    assert isinstance(recover(text), Recovered | Rejected)


@pytest.mark.parametrize(
    "unit",
    ["{", '{"a": ', "[", "<>", '{"dimensions": [', "**peace**", "\\", '{"score": ' + "8" * 9_999],
)
def test_a_megabyte_of_anything_takes_less_than_a_second(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    started = time.perf_counter()
    recover(text)
    assert time.perf_counter() - started < 1

from mondrian.core.params import IMAGE
from mondrian.critique.prompt import chat_messages, prompt_hash, row_messages, system_text


def test_the_photograph_comes_last_so_that_all_text_is_a_shared_prefix() -> None:
    messages = chat_messages(row_messages("You are somebody.", "{}"))
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"][-1] == {"type": "image"}
    assert [part["type"] for part in messages[1]["content"]] == ["text", "image"]


def test_instructions_come_before_the_advisor() -> None:
    one, other = system_text("You are one."), system_text("You are another.")
    assert one.startswith("Critique the photograph.")
    assert one.removesuffix("You are one.") == other.removesuffix("You are another.")


def test_a_row_holds_the_placeholder_once() -> None:
    content = [m["content"] for m in row_messages("You are somebody.", "{}")]
    assert sum(text.count(IMAGE) for text in content) == 1


def test_the_hash_knows_the_advisor_and_not_the_answer() -> None:
    assert prompt_hash("You are one.") != prompt_hash("You are another.")
    assert len(prompt_hash("You are one.")) == 64

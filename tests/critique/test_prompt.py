from mondrian.core.params import IMAGE_PLACEHOLDER
from mondrian.critique.prompt import (
    build_chat_messages,
    build_row_messages,
    build_system_prompt,
    prompt_hash,
)


def test_the_image_comes_last_so_that_all_text_is_a_shared_prefix() -> None:
    messages = build_chat_messages(build_row_messages("You are a critic.", "{}"))
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[1]["content"][-1] == {"type": "image"}
    assert [part["type"] for part in messages[1]["content"]] == ["text", "image"]


def test_instructions_come_before_the_advisor() -> None:
    first, second = build_system_prompt("You are A."), build_system_prompt("You are B.")
    assert first.startswith("Critique the photograph.")
    assert first.removesuffix("You are A.") == second.removesuffix("You are B.")


def test_a_row_holds_the_placeholder_once() -> None:
    content = [m["content"] for m in build_row_messages("You are a critic.", "{}")]
    assert sum(text.count(IMAGE_PLACEHOLDER) for text in content) == 1


def test_the_hash_depends_on_the_advisor_and_not_on_the_answer() -> None:
    assert prompt_hash("You are A.") != prompt_hash("You are B.")
    assert len(prompt_hash("You are A.")) == 64

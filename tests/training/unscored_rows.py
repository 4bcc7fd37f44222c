"""Rows of critiques without scores."""

from mondrian.critique.rows import ChatRow
from mondrian.critique.schema import serialize_critique


def without_scores(row: ChatRow) -> ChatRow:
    answer = serialize_critique(row.reference_critique().with_filler_scores())
    messages = [*row.messages[:-1], {"role": "assistant", "content": answer}]
    return row.model_copy(update={"messages": messages, "scored": False})

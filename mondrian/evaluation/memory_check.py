"""Whether answers that are generated together fit into memory, before the first is begun."""

from __future__ import annotations

from collections.abc import Sequence

from mondrian.core.errors import EvaluationError
from mondrian.model.batch_generator import How
from mondrian.model.hardware import bytes_a_row, memory_free
from mondrian.model.vlm import Vlm


def check_room(vlm: Vlm, prompts: Sequence[Sequence[int]], how: How) -> None:
    """Raise EvaluationError where the longest answers to these prompts may not fit."""
    rows, longest = min(how.rows, len(prompts)), max(map(len, prompts))
    context = vlm.model.config.text_config.max_position_embeddings
    if longest + how.limit > context:
        raise EvaluationError(
            f"a prompt of {longest} tokens and {how.limit} of evaluate.max_new_tokens exceed "
            f"the base's context of {context}; lower it or evaluate.examples, or shorten the "
            "persona"
        )
    each = bytes_a_row(vlm, how.limit + longest)
    left = memory_free()
    if rows * each > left:
        most = max(0, left) // each
        cure = f"lower evaluate.batch_size to {most}" if most else "close other programs"
        raise EvaluationError(
            f"{rows} critiques at a time may take {rows * each / 1e9:.1f} GB, "
            f"{max(0, left) / 1e9:.1f} GB are left; {cure}"
        )

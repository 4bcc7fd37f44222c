"""Whether answers that are generated together fit into memory, before the first is begun."""

from __future__ import annotations

from collections.abc import Sequence

import mondrian.blas  # noqa: F401  # isort: skip  (before mlx)

from mondrian.decoder import How
from mondrian.errors import EvaluationError
from mondrian.machine import memory_free, this_device
from mondrian.vlm import Vlm

_ROWS_OF_MLP = 3  # gate, up and their product
_ROWS_OF_LOGITS = 4  # float32 copies of a row of logits that exist at a time: masked, soft, summed


def bytes_a_row(vlm: Vlm, tokens: int) -> int:
    """Keys and values of so many tokens in every layer, a layer's first pass, and logits of one."""
    text = vlm.model.config.text_config
    pairs = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    held = pairs * this_device().float_bytes * tokens
    passing = _ROWS_OF_MLP * text.intermediate_size * this_device().float_bytes * tokens
    return int(held + passing + 4 * _ROWS_OF_LOGITS * text.vocab_size)


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

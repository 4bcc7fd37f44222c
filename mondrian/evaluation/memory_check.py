"""Whether answers that are generated together fit into memory, before the first is begun."""

from __future__ import annotations

from collections.abc import Sequence

from mondrian.core.errors import EvaluationError
from mondrian.model.batch_generator import SamplingParams
from mondrian.model.hardware import available_memory, bytes_per_sequence
from mondrian.model.vlm import Vlm


def check_generation_memory(
    vlm: Vlm, prompts: Sequence[Sequence[int]], sampling_params: SamplingParams
) -> None:
    """Raise EvaluationError where the longest answers to these prompts may not fit."""
    rows, longest = min(sampling_params.max_sequences, len(prompts)), max(map(len, prompts))
    context = vlm.model.config.text_config.max_position_embeddings
    if longest + sampling_params.max_new_tokens > context:
        raise EvaluationError(
            f"a prompt of {longest} tokens and {sampling_params.max_new_tokens} of "
            f"evaluate.max_new_tokens exceed "
            f"the base's context of {context}; lower it or evaluate.few_shot_examples, or "
            f"shorten the "
            "persona"
        )
    bytes_per_row = bytes_per_sequence(vlm, sampling_params.max_new_tokens + longest)
    left = available_memory()
    if rows * bytes_per_row > left:
        max_rows = max(0, left) // bytes_per_row
        cure = f"lower evaluate.batch_size to {max_rows}" if max_rows else "close other programs"
        raise EvaluationError(
            f"{rows} critiques at a time may take {rows * bytes_per_row / 1e9:.1f} GB, "
            f"{max(0, left) / 1e9:.1f} GB are left; {cure}"
        )

"""Peak memory of a training step, term by term, and its work in operations. Nothing is loaded.

What is counted is what the gradient needs again: each layer keeps the inputs of its norms, of its
adapters, of attention and of SwiGLU; the head has a chunk of logits at a time. benchmarks/memory.py
holds the sum against what MLX measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from mondrian.core.params import Train
from mondrian.model.architecture import Architecture, Device
from mondrian.model.lora_config import LoraConfig

# Measured on a CPU: copies of a chunk's logits that are there at once, and of those of the chunk
# that follows; how much of it where two lanes are seldom there together; what the way back through
# a layer takes, in layers; the same where it is made again.
_LOGITS, _FOLLOWING, _TOGETHER, _BACK, _AGAIN = 2, 3, 0.8, 1.35, 4.0
_MERGER = 6  # numbers as wide as the merger that its way there and back keeps
QueryKeyCounts = tuple[tuple[int, int], ...]  # queries and the keys they see, of each row


@dataclass(frozen=True)
class BatchShape:
    """One packed batch.

    tokens      positions that every layer computes
    pairs, last who sees whom, in every layer but the last and in the last
    supervised_positions  positions whose logits are made
    image_tokens       image tokens
    num_streams       parts that are computed side by side
    """

    tokens: int
    pairs: QueryKeyCounts
    last_layer_pairs: QueryKeyCounts
    supervised_positions: int
    image_tokens: int
    num_streams: int = 1


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on what, how, and where."""

    base: Architecture
    lora: LoraConfig
    params: Train
    device: Device

    @property
    def backward_layers(self) -> int:
        """Layers that the gradient goes back through: all where the projector learns."""
        few = 0 if self.lora.train_projector else self.lora.num_layers
        return min(few or self.base.layers, self.base.layers)


def memory_breakdown(work: TrainingJob, load: BatchShape) -> dict[str, int]:
    """Bytes of each part of the peak; their sum is the peak."""
    base, size = work.base, work.device.float_bytes
    activations, passing = _activations(work, load)
    merger = _merger(work, load.image_tokens)
    chunk = min(load.num_streams * work.params.loss_chunk_size, load.supervised_positions)
    copies = _LOGITS * chunk + _FOLLOWING * min(chunk, load.supervised_positions - chunk)
    share = _TOGETHER if load.num_streams > 1 else 1
    logits = (
        int(share * copies * base.vocabulary * 4) + 2 * load.supervised_positions * base.width * 4
    )
    return {
        "base": base.stored_bytes(size),
        "adapter, gradient, moments, best so far": 5 * 4 * base.num_lora_weights(work.lora),
        "photographs": (2 * load.image_tokens * base.width * (1 + base.deepstack_levels) + merger)
        * size,
        "activations": int(activations * size),
        "logits or one layer's way back": max(logits, int(passing * size)),
    }


def _activations(work: TrainingJob, load: BatchShape) -> tuple[float, float]:
    """What is kept for the gradient, and what the way back through a layer takes besides."""
    layer = _layer(work, load.tokens, load.tokens, load.pairs)
    last = _layer(work, load.tokens, load.supervised_positions, load.last_layer_pairs)
    entering = load.tokens * work.base.width
    before = work.backward_layers - 1
    bare = _layer(work, load.tokens, load.tokens, load.pairs, adapted=False)
    adapted = min(work.lora.num_layers or work.backward_layers, work.backward_layers) - 1
    activations, passing = adapted * layer + (before - adapted) * bare, _BACK * layer - last
    if work.params.gradient_checkpointing:
        activations, passing = before * entering, _AGAIN * layer - last
    return activations + last, max(passing if before else 0, _BACK * last)


def _merger(work: TrainingJob, image: int) -> int:
    """What enters the merger and what it keeps, where an adapter is on it."""
    if not work.lora.train_projector:
        return 0
    wide = work.base.merger_shapes()["linear_fc1"][0]
    return image * (_MERGER * wide + (work.base.width if work.lora.dora else 0))


def _layer(
    work: TrainingJob,
    tokens: int,
    query_positions: int,
    pairs: QueryKeyCounts,
    adapted: bool = True,
) -> float:
    """What one layer keeps for its gradient: inputs of norms, adapters, attention and SwiGLU.

    query_positions  positions with queries and an MLP; the others give keys and values alone
    """
    base, lora = work.base, work.lora
    queries, keys = base.heads[0] * base.heads[2], base.heads[1] * base.heads[2]
    own = tokens * (base.width + 3 * keys) + query_positions * (
        base.width + 2 * queries + 2 * base.mlp_width
    )
    shapes = base.projection_shapes()
    attention_scores = base.heads[0] * sum(
        _count_scores(q, k, work.device.query_block) for q, k in pairs
    )
    if not adapted:
        return own + attention_scores
    if lora.dropout:  # a copy for each adapter, and a mask of a byte
        inputs = [(name, 1 + 1 / work.device.float_bytes) for name in lora.target_modules]
    else:  # one copy for those that read the same
        readers = {_reads(name): (name, 1.0) for name in lora.target_modules}
        inputs = list(readers.values())
    everywhere = ("k_proj", "v_proj")
    copies = sum(
        shapes[name][0] * share * (tokens if name in everywhere else query_positions)
        for name, share in inputs
    )
    if lora.dora:  # what each gives, for the gradient of its magnitude
        copies += sum(
            shapes[name][1] * (tokens if name in everywhere else query_positions)
            for name in lora.target_modules
        )
    return own + copies + attention_scores


def _reads(name: str) -> str:
    alike = {"q_proj": "v_proj", "k_proj": "v_proj", "gate_proj": "up_proj"}
    return alike.get(name, name)


def _count_scores(queries: int, keys: int, block: int) -> int:
    """Scores of the blocks that a causal mask leaves."""
    past = keys - queries
    if not block:
        return queries * keys
    stops = [min(queries, start + block) for start in range(0, queries, block)]
    starts = range(0, queries, block)
    return sum((stop - start) * (past + stop) for start, stop in zip(starts, stops, strict=True))


def count_elements(work: TrainingJob, load: BatchShape) -> float:
    """Numbers that element-wise kernels make: what each layer keeps, half where none go back."""
    layer = _layer(work, load.tokens, load.tokens, load.pairs)
    return layer * (work.base.layers + work.backward_layers) / 2


def count_operations(work: TrainingJob, load: BatchShape, back: bool = True) -> int:
    """Floating-point operations that a step cannot do without.

    2 a weight and token forward, and as many back where the gradient goes (frozen weights have
    none), the head at supervised positions, attention's two products over what a causal mask
    leaves, three times, and the adapter's own.

    back  with the gradient; False for validation
    """
    base, behind = work.base, work.backward_layers if back else 0
    weights_per_layer = base.num_linear_weights() // base.layers
    linear = 2 * weights_per_layer * load.tokens * (base.layers + behind)
    head = (4 if back else 2) * base.num_head_weights() * load.supervised_positions
    visible_pairs = sum(q * (k - q) + q * q / 2 for q, k in load.pairs)
    attention = 4 * visible_pairs * base.heads[0] * base.heads[2] * (base.layers + 2 * behind)
    adapter = (6 if back else 2) * base.num_lora_weights(work.lora) * load.tokens
    return int(linear + head + attention + adapter)

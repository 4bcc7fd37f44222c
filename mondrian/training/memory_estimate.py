"""Estimate a training step's peak memory and FLOPs from sizes. No weights are loaded.

Activations are what the gradient needs again: each layer keeps the inputs of its norms, adapters,
attention and SwiGLU; the head has a chunk of logits at a time. benchmarks/memory.py compares the
sum with what MLX measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from mondrian.core.params import Train
from mondrian.model.architecture import Architecture, Device
from mondrian.model.lora_config import LoraConfig

# Measured on a CPU:
_LOGITS_COPIES = 2  # copies of a chunk's logits at the same time
_NEXT_LOGITS_COPIES = 3  # and of the next chunk's
_STREAM_OVERLAP = 0.8  # of them with two streams, whose logits rarely exist at the same time
_BACKWARD_LAYERS = 1.35  # memory of the backward pass through a layer, in activations of a layer
_RECOMPUTE_LAYERS = 4.0  # the same with gradient checkpointing
_MERGER_COPIES = 6  # vectors as wide as the merger that its forward and backward pass keep

_SHARED_INPUT = {"q_proj": "v_proj", "k_proj": "v_proj", "gate_proj": "up_proj"}
QueryKeyCounts = tuple[tuple[int, int], ...]  # queries and the keys they attend to, of each row


@dataclass(frozen=True)
class BatchShape:
    """The sizes of one packed batch.

    tokens                positions that every layer computes
    pairs                 queries and keys in every layer but the last
    last_layer_pairs      the same in the last layer
    supervised_positions  positions whose logits are computed
    num_streams           parts that are computed at the same time
    """

    tokens: int
    pairs: QueryKeyCounts
    last_layer_pairs: QueryKeyCounts
    supervised_positions: int
    image_tokens: int
    num_streams: int = 1


@dataclass(frozen=True)
class TrainingJob:
    base: Architecture
    lora: LoraConfig
    params: Train
    device: Device

    @property
    def backward_layers(self) -> int:
        """Return how many layers the gradient passes: all if the projector is trained."""
        num_layers = 0 if self.lora.train_projector else self.lora.num_layers
        return min(num_layers or self.base.layers, self.base.layers)


def memory_breakdown(job: TrainingJob, batch: BatchShape) -> dict[str, int]:
    """Return the bytes of each part of the peak; their sum is the peak."""
    base, float_bytes, positions = job.base, job.device.float_bytes, batch.supervised_positions
    activations, backward = _activations(job, batch)
    chunk = min(batch.num_streams * job.params.loss_chunk_size, positions)
    copies = _LOGITS_COPIES * chunk + _NEXT_LOGITS_COPIES * min(chunk, positions - chunk)
    overlap = _STREAM_OVERLAP if batch.num_streams > 1 else 1
    logits = int(overlap * copies * base.vocabulary * 4) + 2 * positions * base.width * 4
    features = 2 * batch.image_tokens * base.width * (1 + base.deepstack_levels)
    return {
        "base": base.stored_bytes(float_bytes),
        "adapter, gradient, moments, best so far": 5 * 4 * base.num_lora_weights(job.lora),
        "vision features": (features + _merger_activations(job, batch.image_tokens)) * float_bytes,
        "activations": int(activations * float_bytes),
        "logits or one layer's backward pass": max(logits, int(backward * float_bytes)),
    }


def _activations(job: TrainingJob, batch: BatchShape) -> tuple[float, float]:
    """Return the values kept for the gradient, and those of the backward pass through a layer."""
    full = (job, batch.tokens, batch.tokens)
    frozen = _frozen_layer(*full, batch.pairs)
    layer = frozen + _adapter_inputs(*full)
    supervised = (job, batch.tokens, batch.supervised_positions)
    last = _frozen_layer(*supervised, batch.last_layer_pairs) + _adapter_inputs(*supervised)
    layers_before = job.backward_layers - 1
    if job.params.gradient_checkpointing:
        activations: float = layers_before * batch.tokens * job.base.width
        backward = _RECOMPUTE_LAYERS * layer - last
    else:
        adapted = min(job.lora.num_layers or job.backward_layers, job.backward_layers) - 1
        activations = adapted * layer + (layers_before - adapted) * frozen
        backward = _BACKWARD_LAYERS * layer - last
    return activations + last, max(backward if layers_before else 0, _BACKWARD_LAYERS * last)


def _merger_activations(job: TrainingJob, image_tokens: int) -> int:
    if not job.lora.train_projector:
        return 0
    wide = job.base.merger_shapes()["linear_fc1"][0]
    return image_tokens * (_MERGER_COPIES * wide + (job.base.width if job.lora.dora else 0))


def _frozen_layer(job: TrainingJob, tokens: int, queries: int, pairs: QueryKeyCounts) -> int:
    """Return the values one layer keeps for its gradient: inputs of norms, attention and SwiGLU.

    queries  positions with queries and an MLP; the others have keys and values only
    """
    base = job.base
    heads, kv_heads, head_width = base.heads
    per_token = base.width + 3 * kv_heads * head_width
    per_query = base.width + 2 * heads * head_width + 2 * base.mlp_width
    scores = heads * sum(_count_scores(q, k, job.device.query_block) for q, k in pairs)
    return tokens * per_token + queries * per_query + scores


def _adapter_inputs(job: TrainingJob, tokens: int, queries: int) -> float:
    """Return the values that one layer's adapters keep for their gradient."""
    lora, shapes = job.lora, job.base.projection_shapes()
    positions = {
        name: tokens if name in ("k_proj", "v_proj") else queries for name in lora.target_modules
    }
    if lora.dropout:  # a copy for each adapter, and a mask of one byte
        copies = 1 + 1 / job.device.float_bytes
        kept = sum(shapes[name][0] * copies * count for name, count in positions.items())
    else:  # one copy for projections with the same input
        inputs = {_SHARED_INPUT.get(name, name): name for name in lora.target_modules}
        kept = sum(shapes[name][0] * positions[name] for name in inputs.values())
    if lora.dora:  # each output, for the gradient of its magnitude
        kept += sum(shapes[name][1] * count for name, count in positions.items())
    return kept


def _count_scores(queries: int, keys: int, block: int) -> int:
    """Count the attention scores in the blocks of a causal mask that are not skipped."""
    if not block:
        return queries * keys
    blocks = [(start, min(queries, start + block)) for start in range(0, queries, block)]
    return sum((stop - start) * (keys - queries + stop) for start, stop in blocks)


def count_elements(job: TrainingJob, batch: BatchShape) -> float:
    """Count the outputs of element-wise kernels: a layer's activations, half without gradient."""
    full = (job, batch.tokens, batch.tokens)
    layer = _frozen_layer(*full, batch.pairs) + _adapter_inputs(*full)
    return layer * (job.base.layers + job.backward_layers) / 2


def count_operations(job: TrainingJob, batch: BatchShape, back: bool = True) -> int:
    """Count the floating-point operations that a step needs at least.

    2 per weight and token forward, and the same backward if the gradient passes (frozen weights
    have no gradient), the head at supervised positions, the two products of attention over unmasked
    scores, three times, and the adapter's own.

    back  with the gradient; False for validation
    """
    base, backward_layers = job.base, job.backward_layers if back else 0
    weights_per_layer = base.num_linear_weights() // base.layers
    linear = 2 * weights_per_layer * batch.tokens * (base.layers + backward_layers)
    head = (4 if back else 2) * base.num_head_weights() * batch.supervised_positions
    scores = sum(q * (k - q) + q * q / 2 for q, k in batch.pairs)
    attention = 4 * scores * base.heads[0] * base.heads[2] * (base.layers + 2 * backward_layers)
    adapter = (6 if back else 2) * base.num_lora_weights(job.lora) * batch.tokens
    return int(linear + head + attention + adapter)

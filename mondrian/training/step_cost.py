"""Memory and operations of a training step, from sizes.

Activations are what the gradient needs again: each layer keeps the inputs of its norms, adapters,
attention and SwiGLU, and attention's output with a log-sum-exp per query. Attention scores exist
for a block of queries at a time, unless the device keeps them. The head has the logits of a chunk
for a tile of the vocabulary at a time. benchmarks/memory.py compares the sum with what MLX
measured.
"""

from dataclasses import dataclass

from mondrian.core.params import TrainParams
from mondrian.model.architecture import Architecture
from mondrian.model.cpu.packed import MAX_UNPACKED
from mondrian.model.device import Device
from mondrian.model.lora import LoraConfig
from mondrian.training.loss import VOCABULARY_TILE

# Arrays that exist at the same time, measured on a CPU:
_LOGITS_COPIES = 3  # of a chunk's logits for a tile of the vocabulary: logits, powers, shifted
_HEAD_COPIES = 3  # of a chunk's hidden states: weighted rows of the head, and a tile's share
_STREAM_OVERLAP = 0.8  # of what two streams need on top: they rarely need most at the same time
_BACKWARD_MLP_COPIES = 12  # arrays as wide as the MLP in the backward pass through SwiGLU
_SCORE_COPIES = 3  # of a block's scores in the backward pass: gradient, weighted, of the softmax
_BACKWARD_HEAD_COPIES = 5  # arrays as wide as all heads there: gradients of q, k, v and the output
_MERGER_COPIES = 6  # vectors as wide as the merger that its forward and backward pass keep
_UNPACKED_COPIES = 6  # of packed weights in a product on a CPU: words, bits, floats, scaled, ...
_OPTIMIZER_COPIES = 5  # of the adapter in float32: weights, gradient, two moments, best so far

_SHARED_INPUT = {"q_proj": "v_proj", "k_proj": "v_proj", "gate_proj": "up_proj"}
QueryKeyCounts = tuple[tuple[int, int], ...]  # queries and the keys they attend to, of each row


@dataclass(frozen=True)
class BatchShape:
    tokens: int  # positions that every layer computes
    pairs: QueryKeyCounts  # of every layer but the last
    last_layer_pairs: QueryKeyCounts
    supervised_positions: int  # positions with computed logits
    image_tokens: int
    num_streams: int = 1  # parts that are computed at the same time


@dataclass(frozen=True)
class RunSetup:
    base: Architecture
    lora: LoraConfig
    params: TrainParams
    device: Device

    @property
    def backward_layers(self) -> int:
        """Return how many layers the gradient passes: all if the projector is trained."""
        num_layers = 0 if self.lora.train_projector else self.lora.num_layers
        return min(num_layers or self.base.layers, self.base.layers)


def memory_breakdown(setup: RunSetup, batch: BatchShape) -> dict[str, int]:
    """Return the bytes of each part of the peak; their sum is the peak."""
    base, float_bytes = setup.base, setup.device.float_bytes
    activations, backward = _activations(setup, batch)
    in_flight = max(_logits_bytes(setup, batch), int(backward * float_bytes))
    if base.bits and setup.device.own_kernels:  # few other arrays exist in a product
        unpacked = min(MAX_UNPACKED, base.mlp_width * base.width)
        in_flight = max(in_flight, _UNPACKED_COPIES * unpacked * float_bytes)
    per_image_token = 0
    if setup.lora.train_projector:
        merger_width = base.merger_shapes()["linear_fc1"][0]
        per_image_token = (
            base.width + _MERGER_COPIES * merger_width + (base.width if setup.lora.dora else 0)
        )
    adapter_copies = _OPTIMIZER_COPIES + (setup.params.gradient_accumulation_steps > 1)
    return {
        "base": base.stored_bytes(float_bytes),
        "adapter, gradients, moments, best so far": adapter_copies
        * 4
        * base.num_lora_weights(setup.lora),
        "vision features": batch.image_tokens * per_image_token * float_bytes,
        "activations": int(activations * float_bytes),
        "logits or one layer's backward pass": in_flight,
    }


def _logits_bytes(setup: RunSetup, batch: BatchShape) -> int:
    """Return the bytes of the head's logits, and of its input and its gradient in float32."""
    base, positions = setup.base, batch.supervised_positions
    chunk = min(batch.num_streams * setup.params.loss_chunk_size, positions)
    tile = min(base.vocabulary, VOCABULARY_TILE)
    logits = _stream_overlap(batch) * _LOGITS_COPIES * chunk * tile
    return int(4 * (logits + (_HEAD_COPIES * chunk + 2 * positions) * base.width))


def _stream_overlap(batch: BatchShape) -> float:
    return _STREAM_OVERLAP if batch.num_streams > 1 else 1


def _activations(setup: RunSetup, batch: BatchShape) -> tuple[float, float]:
    """Return the values stored for the gradient, and what the backward pass adds to them.

    The pass begins with the last layer, whose values are freed when the one before it needs most.
    """
    full = (setup, batch.tokens, batch.tokens, batch.pairs)
    supervised = (setup, batch.tokens, batch.supervised_positions, batch.last_layer_pairs)
    layer, last = _adapted_layer(*full), _adapted_layer(*supervised)
    layers_before = setup.backward_layers - 1
    if setup.params.gradient_checkpointing:
        activations = float(layers_before * batch.tokens * setup.base.width)
        recomputed = layer
    else:
        adapted = min(setup.lora.num_layers or setup.backward_layers, setup.backward_layers) - 1
        activations = adapted * layer + (layers_before - adapted) * _frozen_layer(*full)
        recomputed = 0.0
    overlap = _stream_overlap(batch)
    backward = overlap * (recomputed + _backward_values(*full)) - last if layers_before else 0
    return activations + last, max(backward, overlap * _backward_values(*supervised))


def _adapted_layer(setup: RunSetup, tokens: int, queries: int, pairs: QueryKeyCounts) -> float:
    """Return the values that a layer with adapters keeps for its gradient."""
    return _frozen_layer(setup, tokens, queries, pairs) + _adapter_inputs(setup, tokens, queries)


def _frozen_layer(setup: RunSetup, tokens: int, queries: int, pairs: QueryKeyCounts) -> float:
    """Return the values one layer keeps for its gradient: inputs of norms, attention and SwiGLU.

    queries  positions with queries and an MLP; the others have keys and values only
    """
    base, device = setup.base, setup.device
    heads, kv_heads, head_width = base.heads
    per_token = base.width + 3 * kv_heads * head_width
    per_query = base.width + 3 * heads * head_width + 2 * base.mlp_width
    values: float = tokens * per_token + queries * per_query
    values += sum(_scores_by_row(setup, pairs, kept=True))
    if not device.keeps_scores:  # the log-sum-exp in float32
        values += queries * heads * 4 / device.float_bytes
    if device.kind == "cpu" and not device.own_kernels:
        values += _norm_inputs_in_float32(setup, tokens, queries)
    return values


def _norm_inputs_in_float32(setup: RunSetup, tokens: int, queries: int) -> float:
    """Return the copies in float32 that MLX's norm keeps on a CPU if its input is shorter."""
    base, float_bytes = setup.base, setup.device.float_bytes
    heads, kv_heads, head_width = base.heads
    per_token, per_query = base.width + kv_heads * head_width, base.width + heads * head_width
    return (tokens * per_token + queries * per_query) * (4 / float_bytes if float_bytes < 4 else 0)


def _backward_values(setup: RunSetup, tokens: int, queries: int, pairs: QueryKeyCounts) -> float:
    """Return the values that exist during the backward pass through a layer, but are not kept.

    The MLP comes first. What it kept is free when attention's scores exist, unless the whole layer
    was recomputed.
    """
    base, device = setup.base, setup.device
    heads, checkpointing = base.heads[0], setup.params.gradient_checkpointing
    mlp = _BACKWARD_MLP_COPIES * base.mlp_width * queries
    copies = _SCORE_COPIES + (checkpointing or not device.keeps_scores)  # one computed again
    attention = copies * heads * sum(_count_block_scores(device, q, k) for q, k in pairs)
    attention += _BACKWARD_HEAD_COPIES * heads * base.heads[2] * queries
    attention -= 0 if checkpointing else 3 * base.mlp_width * queries
    return max(mlp, attention) + _dora_outputs(setup, tokens, queries)


def _dora_outputs(setup: RunSetup, tokens: int, queries: int) -> int:
    """Return the values of the outputs that DoRA scales, or of their gradients; 0 without DoRA."""
    if not setup.lora.dora:
        return 0
    shapes = setup.base.projection_shapes()
    return sum(
        shapes[name][1] * (tokens if name in ("k_proj", "v_proj") else queries)
        for name in setup.lora.target_modules
    )


def _count_block_scores(device: Device, queries: int, keys: int) -> int:
    """Count the scores that exist at the same time: a GPU's blocks are square, a CPU's are not."""
    if not device.query_block:
        return queries * keys
    return min(device.query_block, queries) * (
        keys if device.own_kernels else min(device.query_block, keys)
    )


def _adapter_inputs(setup: RunSetup, tokens: int, queries: int) -> float:
    """Return the values that one layer's adapters keep for their gradient."""
    lora, shapes = setup.lora, setup.base.projection_shapes()
    positions = {
        name: tokens if name in ("k_proj", "v_proj") else queries for name in lora.target_modules
    }
    if lora.dropout:  # a copy for each adapter, and a mask of one byte
        copies = 1 + 1 / setup.device.float_bytes
        values = sum(shapes[name][0] * copies * count for name, count in positions.items())
    else:  # one copy for projections with the same input
        inputs = {_SHARED_INPUT.get(name, name): name for name in lora.target_modules}
        values = sum(shapes[name][0] * positions[name] for name in inputs.values())
    return values + _dora_outputs(setup, tokens, queries)  # for the gradient of its magnitude


def _count_scores(queries: int, keys: int, block: int) -> int:
    """Count the attention scores in the blocks of a causal mask that are not skipped."""
    if not block:
        return queries * keys
    blocks = [(start, min(queries, start + block)) for start in range(0, queries, block)]
    return sum((stop - start) * (keys - queries + stop) for start, stop in blocks)


def _scores_by_row(setup: RunSetup, pairs: QueryKeyCounts, kept: bool) -> list[int]:
    """Return the number of attention scores of each row whose weights the gradient keeps or not."""
    device = setup.device
    counts = [setup.base.heads[0] * _count_scores(q, k, device.query_block) for q, k in pairs]
    return [n for n in counts if kept == (device.keeps_scores or n <= device.kept_scores)]


def count_elements(setup: RunSetup, batch: BatchShape) -> float:
    """Count the outputs of element-wise kernels: a layer's activations, half without gradient."""
    layer = _adapted_layer(setup, batch.tokens, batch.tokens, batch.pairs)
    layer += sum(_scores_by_row(setup, batch.pairs, kept=False))
    return layer * (setup.base.layers + setup.backward_layers) / 2


@dataclass(frozen=True)
class Products:
    """Floating-point operations of a step in matrix products."""

    base: int  # with weights of the base, packed or not
    other: int  # attention's own, and with the adapter


def count_operations(setup: RunSetup, batch: BatchShape, backward: bool = True) -> int:
    """Count the floating-point operations that a step, or a validation batch, needs at least."""
    products = count_products(setup, batch, backward)
    return products.base + products.other


def count_products(setup: RunSetup, batch: BatchShape, backward: bool = True) -> Products:
    """Count 2 operations per weight and token forward, and the same backward.

    The gradient passes some layers only; frozen weights have no gradient. The head is computed at
    supervised positions. Attention has two products over unmasked scores, three times.
    """
    base, backward_layers = setup.base, setup.backward_layers if backward else 0
    weights_per_layer = base.num_linear_weights() // base.layers
    linear = 2 * weights_per_layer * batch.tokens * (base.layers + backward_layers)
    head = (4 if backward else 2) * base.num_head_weights() * batch.supervised_positions
    scores = sum(q * (k - q) + q * q / 2 for q, k in batch.pairs)
    attention = 4 * scores * base.heads[0] * base.heads[2] * (base.layers + 2 * backward_layers)
    adapter = (6 if backward else 2) * base.num_lora_weights(setup.lora) * batch.tokens
    return Products(linear + head, int(attention + adapter))

"""Cross-entropy over lm_head, chunk by chunk, so that logits take bounded memory.

The gradient with respect to the hidden states is computed in the forward pass, while a chunk's
logits exist: at most chunk x vocabulary of them exist at a time, and none is computed twice.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mondrian.model.kernels import EXP_SCALE, power


class LMHead:
    """The model's lm_head: tied or not, packed or not."""

    def __init__(self, model: Any) -> None:
        language = model.language_model
        tied = language.args.tie_word_embeddings
        self.layer = language.model.embed_tokens if tied else language.lm_head
        self._is_packed = hasattr(self.layer, "bits")

    def logits(self, hidden: mx.array) -> mx.array:
        """(positions, width) -> (positions, vocabulary), in float32."""
        return self._multiply(hidden, transpose=True).astype(mx.float32)

    def backward(self, gradient: mx.array, dtype: Any) -> mx.array:
        """Gradient of logits (positions, vocabulary) -> of hidden states (positions, width)."""
        return self._multiply(gradient.astype(dtype), transpose=False).astype(mx.float32)

    def weight_rows(self, tokens: mx.array) -> mx.array:
        """Return the weights of some tokens, (tokens, width), in float32."""
        layer = self.layer
        if not self._is_packed:
            return layer.weight[tokens].astype(mx.float32)
        weight, scales, biases = (layer[name][tokens] for name in ("weight", "scales", "biases"))
        rows = mx.dequantize(weight, scales, biases, layer.group_size, layer.bits)
        return rows.astype(mx.float32)

    def _multiply(self, x: mx.array, transpose: bool) -> mx.array:
        layer = self.layer
        if not self._is_packed:
            return x @ (layer.weight.T if transpose else layer.weight)
        packed = (layer.weight, layer.scales, layer.biases)
        sizes = {"group_size": layer.group_size, "bits": layer.bits}
        return mx.quantized_matmul(x, *packed, transpose=transpose, **sizes)


def chunked_cross_entropy(
    head: LMHead, hidden: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """Return the sum of weighted cross-entropy; its gradient is computed in the forward pass.

    hidden   (positions, width)  last hidden states of supervised positions
    targets  (positions,)        next token ids
    weights  (positions,)        weight of each in the loss
    chunk    positions whose logits exist at the same time
    """

    @mx.custom_function
    def loss_and_gradient(hidden: mx.array) -> Any:
        total = mx.array(0.0)
        gradients: list[mx.array] = []
        for first in range(0, hidden.shape[0], chunk):
            part = slice(first, first + chunk)
            h, target, weight = hidden[part], targets[part], weights[part][:, None]
            h = _wait_for(h, [*gradients[-1:], total])
            token_loss, powers, norm = _compute_token_loss(head, h, target)
            total = total + (token_loss * weight).sum()
            gradient = head.backward(powers, h.dtype) / norm - head.weight_rows(target)
            gradients.append((gradient * weight).astype(h.dtype))
        return total, mx.concatenate(gradients)

    @loss_and_gradient.vjp
    def _(_: Any, cotangents: Any, outputs: Any) -> mx.array:
        return (outputs[1] * cotangents[0]).astype(outputs[1].dtype)

    loss_and_grad: Any = loss_and_gradient(hidden)
    return loss_and_grad[0]


def chunked_cross_entropy_eval(
    head: LMHead, hidden: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """Return the same sum without a gradient, for validation: half the work."""
    total = mx.array(0.0)
    for first in range(0, hidden.shape[0], chunk):
        part = slice(first, first + chunk)
        token_loss, _, _ = _compute_token_loss(
            head, _wait_for(hidden[part], [total]), targets[part]
        )
        total = total + (token_loss * weights[part][:, None]).sum()
    return total


def _wait_for(h: mx.array, previous: list[mx.array]) -> mx.array:
    """Return `h`, computed after `previous`: MLX would compute all chunks' logits at once."""
    return mx.depends([h], previous)[0]


def _compute_token_loss(
    head: LMHead, h: mx.array, target: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Return cross-entropy (positions, 1), unnormalised softmax, and its norm (positions, 1).

    Logits are scaled for the fast `power`, which reuses their memory.
    """
    logits = head.logits(h * EXP_SCALE)
    highest = _in_blocks(logits).max(1).max(-1, keepdims=True)
    at_target = mx.take_along_axis(logits, target[:, None], axis=-1)
    powers = power(mx.depends([logits], [highest, at_target])[0] - highest)
    norm = _in_blocks(powers).sum(1).sum(-1, keepdims=True)
    return mx.log(norm) + (highest - at_target) / EXP_SCALE, powers, norm


def _in_blocks(x: mx.array) -> mx.array:
    """(positions, n) -> (positions, n / 64, 64): MLX reduces the middle axis three times faster."""
    block = 64 if x.shape[1] % 64 == 0 else 1
    return x.reshape(x.shape[0], -1, block)

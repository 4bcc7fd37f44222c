"""Cross-entropy over lm_head: all positions at once, or chunk by chunk with memory that is bounded.

The chunked one makes the gradient of the hidden states while a chunk's logits are there, so that
no more than chunk x vocabulary of them exist at a time, and none is computed twice.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mondrian.model.kernels import EXP_SCALE, power


class LMHead:
    """lm_head as it is in the model: tied or not, packed or not."""

    def __init__(self, model: Any) -> None:
        language = model.language_model
        tied = language.args.tie_word_embeddings
        self.layer = language.model.embed_tokens if tied else language.lm_head

    def logits(self, hidden: mx.array) -> mx.array:
        """(positions, width) -> (positions, vocabulary), in float32."""
        return self._times(hidden, transpose=True).astype(mx.float32)

    def backward(self, shares: mx.array, dtype: Any) -> mx.array:
        """(positions, vocabulary) -> (positions, width): the gradient's way back."""
        return self._times(shares.astype(dtype), transpose=False).astype(mx.float32)

    def weight_rows(self, tokens: mx.array) -> mx.array:
        """Weights of some tokens, (tokens, width), in float32."""
        layer = self.layer
        if not self._packed():
            return layer.weight[tokens].astype(mx.float32)
        weight, scales, biases = (layer[name][tokens] for name in ("weight", "scales", "biases"))
        return mx.dequantize(weight, scales, biases, layer.group_size, layer.bits).astype(
            mx.float32
        )

    def _packed(self) -> bool:
        return hasattr(self.layer, "bits")

    def _times(self, x: mx.array, transpose: bool) -> mx.array:
        layer = self.layer
        if not self._packed():
            return x @ (layer.weight.T if transpose else layer.weight)
        return mx.quantized_matmul(
            x,
            layer.weight,
            layer.scales,
            layer.biases,
            transpose=transpose,
            group_size=layer.group_size,
            bits=layer.bits,
        )


def chunked_cross_entropy(
    head: LMHead, hidden: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """Sum of weighted cross-entropy; its gradient is made in the forward pass.

    hidden   (positions, width)   last hidden states where something is supervised
    targets  (positions,)         the tokens that follow
    weights  (positions,)         how often each counts
    chunk    positions whose logits exist at one time
    """

    @mx.custom_function
    def both(hidden: mx.array) -> Any:
        total = mx.array(0.0)
        gradient: list[mx.array] = []
        for first in range(0, hidden.shape[0], chunk):
            part = slice(first, first + chunk)
            h, target, weight = hidden[part], targets[part], weights[part][:, None]
            h = _depend_on(h, [*gradient[-1:], total])
            token_loss, powers, norm = _compute_token_loss(head, h, target)
            total = total + (token_loss * weight).sum()
            pull = head.backward(powers, h.dtype) / norm - head.weight_rows(target)
            gradient.append((pull * weight).astype(h.dtype))
        return total, mx.concatenate(gradient)

    @both.vjp
    def _(_: Any, cotangents: Any, outputs: Any) -> mx.array:
        return (outputs[1] * cotangents[0]).astype(outputs[1].dtype)

    loss_and_grad: Any = both(hidden)
    loss: mx.array = loss_and_grad[0]
    return loss


def chunked_cross_entropy_eval(
    head: LMHead, hidden: mx.array, targets: mx.array, weights: mx.array, chunk: int
) -> mx.array:
    """The same without a gradient, as validation wants it: half the work."""
    total = mx.array(0.0)
    for first in range(0, hidden.shape[0], chunk):
        part = slice(first, first + chunk)
        token_loss, _, _ = _compute_token_loss(
            head, _depend_on(hidden[part], [total]), targets[part]
        )
        total = total + (token_loss * weights[part][:, None]).sum()
    return total


def _depend_on(h: mx.array, done: list[mx.array]) -> mx.array:
    """`h`, but not before what came last is there: MLX would make every chunk's logits at once."""
    return mx.depends([h], done)[0]


def _compute_token_loss(
    head: LMHead, h: mx.array, target: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Cross-entropy (positions, 1), unnormalised softmax, and its norm (positions, 1).

    The logits come to the base whose power is quick, and give their memory to their powers.
    """
    logits = head.logits(h * EXP_SCALE)
    highest = _blocks(logits).max(1).max(-1, keepdims=True)
    taken = mx.take_along_axis(logits, target[:, None], axis=-1)
    powers = power(mx.depends([logits], [highest, taken])[0] - highest)
    norm = _blocks(powers).sum(1).sum(-1, keepdims=True)
    return mx.log(norm) + (highest - taken) / EXP_SCALE, powers, norm


def _blocks(x: mx.array) -> mx.array:
    """(positions, n) -> (positions, n / 64, 64): MLX reduces the middle one thrice as fast."""
    wide = 64 if x.shape[1] % 64 == 0 else 1
    return x.reshape(x.shape[0], -1, wide)

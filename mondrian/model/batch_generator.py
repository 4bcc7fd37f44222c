"""Continuous batching: sequences generated together, each at its own length, forced tokens at once.

Sampling is here too: greedy, or from the softmax with a random generator per sequence.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mondrian.model import language
from mondrian.model.constrained import CritiqueGrammar, GrammarState, TokenBitmask
from mondrian.model.kernels import softmax
from mondrian.model.kv_cache import BatchKVCache, PrefixCache
from mondrian.model.language import Features
from mondrian.model.lm_head import choose_greedily
from mondrian.model.vlm import Generation, Vlm

_BELOW_ONE = 1 - 1e-6  # rounding must not move a sample past the last token
_SHIFTS = mx.array(np.arange(32, dtype=np.uint32))  # evaluated: threads share it


def mask_logits(logits: mx.array, masks: Sequence[TokenBitmask]) -> mx.array:
    """Set logits (rows, vocabulary) to minus infinity unless the row's mask has the token's bit."""
    words = mx.array(np.stack(masks).view(np.uint32))
    bits = ((words[:, :, None] >> _SHIFTS) & 1).reshape(len(masks), -1)[:, : logits.shape[1]]
    return mx.where(bits.astype(mx.bool_), logits, mx.array(-mx.inf, logits.dtype))


def sample(logits: mx.array, temperature: float, uniforms: Sequence[float]) -> mx.array:
    """Sample a token of each row from softmax(logits / temperature) by a uniform number."""
    probs = softmax(logits.astype(mx.float32) / temperature)
    cumulative = mx.cumsum(probs, axis=-1)
    bounded = mx.array(np.minimum(uniforms, _BELOW_ONE).astype(np.float32))
    thresholds = bounded[:, None] * cumulative[:, -1:]
    return mx.argmax((probs > 0) & (cumulative > thresholds), axis=-1)


@dataclass(frozen=True)
class SamplingParams:
    max_new_tokens: int  # of one completion
    max_sequences: int = 8  # generated at the same time
    grammar: CritiqueGrammar | None = None  # constrains completions to the schema
    temperature: float = 0.0  # 0 for greedy decoding
    seed: int = 0  # a sequence's samples do not depend on other sequences
    ignore_eos: bool = False  # continue after the end token, for measuring

    def __post_init__(self) -> None:
        if self.grammar and self.grammar.max_tokens != self.max_new_tokens:
            raise ValueError(
                f"the grammar allows {self.grammar.max_tokens} tokens, not {self.max_new_tokens}"
            )


class SequenceState:
    def __init__(
        self,
        prompt: Sequence[int],
        features: Features,
        image_start: int,
        sampling_params: SamplingParams,
        seed: int,
    ):
        self.features, self.image_start = features, image_start
        self.sampling_params = sampling_params
        self.arm: Hashable = None  # the adapter that generates it, if several share steps
        grammar = sampling_params.grammar
        self.grammar_state: GrammarState | None = GrammarState(grammar) if grammar else None
        self.output_ids = list(self.grammar_state.forced) if self.grammar_state else []
        self.pending = [*prompt, *self.output_ids]  # not processed by the model yet
        self.num_cached = 0  # tokens in the KV cache
        max_length = len(prompt) + sampling_params.max_new_tokens
        self.position_ids = language.compute_mrope_positions(max_length, image_start, features.grid)
        self.rng = np.random.default_rng((sampling_params.seed, seed))
        self.ended = self.full = False
        self.passes, self.seconds = 0, 0.0

    def append_token(self, token: int, end_ids: frozenset[int]) -> None:
        """Append the next token and those that the grammar forces after it."""
        self.passes += 1
        self.num_cached += len(self.pending)
        self.pending = [token]
        if self.grammar_state:
            self.grammar_state.accept_token(token)
            self.pending += self.grammar_state.forced
            self.ended = self.grammar_state.ended
        elif token in end_ids and not self.sampling_params.ignore_eos:
            self.ended, self.pending = True, []
        self.output_ids += self.pending
        self.full = len(self.output_ids) >= self.sampling_params.max_new_tokens

    def to_generation(self, vlm: Vlm) -> Generation:
        text = vlm.processor.tokenizer.decode(self.output_ids, skip_special_tokens=True)
        return Generation(text, tuple(self.output_ids), self.seconds, self.ended, self.passes)


class BatchGenerator:
    """Sequences that take each step together, in slots of one KV cache.

    All share their sampling parameters and the attached adapter. A sequence may be inserted
    whenever `has_free_slot`. Unused slots are dropped, because attention runs over all slots.

    prefix  keys and values of the first tokens of all sequences
    """

    def __init__(self, vlm: Vlm, max_sequences: int, prefix: PrefixCache | None = None) -> None:
        self.vlm, self.max_sequences = vlm, max_sequences
        self.decoder = language.Decoder(vlm.model.language_model.model)
        mx.eval(self.decoder.arrays)  # by this thread, before the one that takes the steps
        self.cache = BatchKVCache(vlm.model.language_model.model.layers, max_sequences, prefix)
        self.slots: list[SequenceState | None] = [None] * max_sequences

    @property
    def active_sequences(self) -> list[SequenceState]:
        return [seq for seq in self.slots if seq is not None]

    @property
    def has_free_slot(self) -> bool:
        return len(self.active_sequences) < self.max_sequences

    def insert(self, seq: SequenceState, prefix: PrefixCache | None = None) -> None:
        """Give a sequence a free slot; `prefix` is of its own first tokens, see `assign_slot`."""
        if None not in self.slots:
            count = min(len(self.slots), self.max_sequences - len(self.slots))
            self.cache.add_slots(count)
            self.slots += [None] * count
        slot = self.slots.index(None)
        seq.num_cached = self.cache.assign_slot(slot, prefix)
        seq.pending = seq.pending[seq.num_cached :]
        self.slots[slot] = seq

    def remove(self, seq: SequenceState) -> None:
        slot = self.slots.index(seq)
        self.slots[slot], self.cache.lengths[slot] = None, 0

    def step(self) -> list[SequenceState]:
        """Generate a token, and forced ones, for every sequence; return and remove ended ones."""
        seqs = self.active_sequences
        if 2 * len(seqs) <= len(self.slots):
            self.cache.retain_slots([i for i, seq in enumerate(self.slots) if seq is not None])
            self.slots = list(seqs)
        self.cache.prepare_step([len(seq.pending) if seq else 0 for seq in self.slots])
        for seq, token in zip(seqs, np.array(self._next_tokens(seqs)), strict=True):
            seq.append_token(int(token), self.vlm.end_ids)
        ended = [seq for seq in seqs if seq.ended or seq.full]
        for seq in ended:
            self.remove(seq)
        return ended

    def _next_tokens(self, seqs: Sequence[SequenceState]) -> mx.array:
        hidden = self._forward(seqs)
        logits = language.compute_logits(self.vlm.model, hidden)
        if seqs[0].grammar_state:
            masks = [seq.grammar_state.mask for seq in seqs if seq.grammar_state]
            logits = mask_logits(logits, masks)
        if temperature := seqs[0].sampling_params.temperature:
            return sample(logits, temperature, [seq.rng.random() for seq in seqs])
        return choose_greedily(self.vlm.model, hidden, logits)

    def _forward(self, seqs: Sequence[SequenceState]) -> mx.array:
        """Return the hidden states (sequences, width) of each sequence's last token."""
        text = self.vlm.model.language_model.model
        ids = np.concatenate([seq.pending for seq in seqs]).astype(np.int32)[None]
        position_ids = np.concatenate(
            [
                seq.position_ids[:, seq.num_cached : seq.num_cached + len(seq.pending)]
                for seq in seqs
            ],
            axis=1,
        )
        if any(not seq.passes for seq in seqs):
            h, deepstack = self._embed_prompts(ids, seqs)
        else:
            h, deepstack = text.embed_tokens(mx.array(ids)), []
        positions = mx.array(position_ids[:, None])
        h = self.decoder.run(h, positions, deepstack, self.cache.layers)
        last = np.cumsum([len(seq.pending) for seq in seqs]) - 1
        return h[0, mx.array(last)]

    def _embed_prompts(
        self, ids: Any, seqs: Sequence[SequenceState]
    ) -> tuple[mx.array, list[mx.array]]:
        """Embed tokens, with vision features at the image tokens of new sequences."""
        features = [seq.features for seq in seqs if not seq.passes]
        is_new = np.repeat([not seq.passes for seq in seqs], [len(seq.pending) for seq in seqs])
        new_ids = np.where(is_new, ids, 0)
        feature_index = language.index_features(new_ids, self.vlm.image_id, features)
        return language.embed(self.vlm.model, ids, feature_index, features)

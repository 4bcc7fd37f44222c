"""Rows that are generated together: each at its own length, forced tokens many at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mondrian.model.constrained import CritiqueGrammar, GrammarState
from mondrian.model.kv_cache import BatchKVCache, PrefixCache
from mondrian.model.language import (
    Features,
    compute_logits,
    compute_mrope_positions,
    embed,
    run_decoder_layers,
)
from mondrian.model.sampling import mask_logits, sample
from mondrian.model.vlm import Generation, Vlm


@dataclass(frozen=True)
class SamplingParams:
    """How answers are drawn.

    max_new_tokens        tokens an answer may have
    max_sequences         answers that are generated at a time
    grammar         holds answers to the schema; None lets them be what they are
    temperature  0 takes the likeliest token
    seed         of the draws; those of a row do not depend on other rows
    ignore_eos  do not stop at the end of a text, for measuring
    """

    max_new_tokens: int
    max_sequences: int = 8
    grammar: CritiqueGrammar | None = None
    temperature: float = 0.0
    seed: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.grammar and self.grammar.limit != self.max_new_tokens:
            raise ValueError(
                f"the form ends at {self.grammar.limit} tokens, not at {self.max_new_tokens}"
            )


class SequenceState:
    """One answer as it grows. `pending` is what the model has not seen yet of prompt and answer.

    arm  who answers, where rows of several arms take steps together
    """

    def __init__(
        self,
        prompt: Sequence[int],
        features: Features,
        image: int,
        sampling_params: SamplingParams,
        seed: int,
    ):
        self.features, self.image, self.sampling_params = features, image, sampling_params
        self.arm: Hashable = None
        self.guide: GrammarState | None = (
            sampling_params.grammar.create_state() if sampling_params.grammar else None
        )
        self.output_ids: list[int] = list(self.guide.forced) if self.guide else []
        self.pending = [*prompt, *self.output_ids]
        self.done = 0
        self.position_ids = compute_mrope_positions(
            len(prompt) + sampling_params.max_new_tokens, image, features.grid
        )
        self.rng = np.random.default_rng((sampling_params.seed, seed))
        self.ended = self.full = False
        self.passes, self.seconds = 0, 0.0

    def skip_prefix(self, shared: int) -> None:
        """The model knows so many of its first tokens."""
        self.pending, self.done = self.pending[shared:], shared

    def append_token(self, token: int, ends: frozenset[int]) -> None:
        """The next token, and with it those that must follow."""
        self.passes += 1
        self.done += len(self.pending)
        self.pending = [token]
        if self.guide:
            self.guide.accept_token(token)
            self.pending += self.guide.forced
            self.ended = self.guide.ended
        elif token in ends and not self.sampling_params.ignore_eos:
            self.ended, self.pending = True, []
        self.output_ids += self.pending
        self.full = len(self.output_ids) >= self.sampling_params.max_new_tokens

    def to_generation(self, vlm: Vlm) -> Generation:
        """What it has become."""
        text = vlm.processor.tokenizer.decode(self.output_ids, skip_special_tokens=True)
        return Generation(text, tuple(self.output_ids), self.seconds, self.ended, self.passes)


class BatchGenerator:
    """Rows that take each step together, in slots of one cache; `row_by_slot` says which is where.

    All are drawn in one way (How), by whichever adapter is attached; one may come where
    `has_free_slot`.
    Slots come and go with the rows: what stands empty costs attention too.

    max_rows  rows at a time
    """

    def __init__(self, vlm: Vlm, max_rows: int) -> None:
        self.vlm, self.max_rows = vlm, max_rows
        self.slots = BatchKVCache(vlm.model.language_model.model.layers, max_rows)
        self.row_by_slot: list[SequenceState | None] = [None] * max_rows

    @property
    def active_sequences(self) -> list[SequenceState]:
        """Rows that have not ended."""
        return [row for row in self.row_by_slot if row is not None]

    @property
    def has_free_slot(self) -> bool:
        """Whether another row can come."""
        return len(self.active_sequences) < self.max_rows

    def insert(self, row: SequenceState, prefix: PrefixCache | None = None) -> None:
        """Give it a free place.

        prefix  keys and values of the tokens that it begins with, as `Slots.taken` gave them
        """
        if None not in self.row_by_slot:
            more = min(len(self.row_by_slot), self.max_rows - len(self.row_by_slot))
            self.slots.widen(more)
            self.row_by_slot += [None] * more
        slot = self.row_by_slot.index(None)
        row.skip_prefix(self.slots.assign_slot(slot, prefix))
        self.row_by_slot[slot] = row

    def remove(self, row: SequenceState) -> None:
        """Take a row away, ended or not."""
        slot = self.row_by_slot.index(row)
        self.slots.release_slot(slot)
        self.row_by_slot[slot] = None

    def step(self) -> list[SequenceState]:
        """A token more for every row, and those forced after it; the rows that ended by it."""
        rows = self.active_sequences
        if 2 * len(rows) <= len(self.row_by_slot):
            self.slots.retain_slots(
                [i for i, row in enumerate(self.row_by_slot) if row is not None]
            )
            self.row_by_slot = list(rows)
        self.slots.prepare_step([len(row.pending) if row else 0 for row in self.row_by_slot])
        next_logits = compute_logits(self.vlm.model, self._forward(rows))
        if rows[0].guide:
            next_logits = mask_logits(next_logits, [row.guide.mask for row in rows if row.guide])
        tokens = np.array(
            sample(
                next_logits, rows[0].sampling_params.temperature, [row.rng.random() for row in rows]
            )
        )
        for row, token in zip(rows, tokens, strict=True):
            row.append_token(int(token), self.vlm.end_ids)
        ended = [row for row in rows if row.ended or row.full]
        for row in ended:
            self.remove(row)
        return ended

    def _forward(self, rows: Sequence[SequenceState]) -> mx.array:
        """Hidden states of each row's last token, (rows, width)."""
        text = self.vlm.model.language_model.model
        ids = np.concatenate([row.pending for row in rows]).astype(np.int32)[None]
        position_ids = np.concatenate(
            [row.position_ids[:, row.done : row.done + len(row.pending)] for row in rows], axis=1
        )
        features = [row.features for row in rows if not row.passes]
        h, deep = (
            self._embed_prompts(ids, rows, features)
            if features
            else (text.embed_tokens(mx.array(ids)), [])
        )
        h = run_decoder_layers(text, h, mx.array(position_ids[:, None]), deep, self.slots.layers)
        last = np.cumsum([len(row.pending) for row in rows]) - 1
        return h[0, mx.array(last)]

    def _embed_prompts(
        self, ids: Any, rows: Sequence[SequenceState], features: Sequence[Features]
    ) -> tuple[mx.array, list[mx.array]]:
        """The same with photographs in place of the image tokens of rows that are new."""
        lookup = np.full_like(ids, sum(f.merged.shape[0] for f in features))
        first = n_features = 0
        for row in rows:
            if not row.passes:
                count, start = row.features.merged.shape[0], first + row.image - row.done
                lookup[0, start : start + count] = np.arange(n_features, n_features + count)
                n_features += count
            first += len(row.pending)
        return embed(self.vlm.model, ids, lookup, features)

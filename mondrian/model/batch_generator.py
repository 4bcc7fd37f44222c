"""Rows that are generated together: each at its own length, forced tokens many at a time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mondrian.model.constrained import Form, Guide
from mondrian.model.kv_cache import Kept, Slots
from mondrian.model.language import Features, embed, layers, logits, positions
from mondrian.model.sampling import allowed, drawn
from mondrian.model.vlm import Answer, Vlm


@dataclass(frozen=True)
class How:
    """How answers are drawn.

    limit        tokens an answer may have
    rows         answers that are generated at a time
    form         holds answers to the schema; None lets them be what they are
    temperature  0 takes the likeliest token
    seed         of the draws; those of a row do not depend on other rows
    through_ends  do not stop at the end of a text, for measuring
    """

    limit: int
    rows: int = 8
    form: Form | None = None
    temperature: float = 0.0
    seed: int = 0
    through_ends: bool = False

    def __post_init__(self) -> None:
        if self.form and self.form.limit != self.limit:
            raise ValueError(f"the form ends at {self.form.limit} tokens, not at {self.limit}")


class Row:
    """One answer as it grows. `pending` is what the model has not seen yet of prompt and answer.

    arm  who answers, where rows of several arms take steps together
    """

    def __init__(self, prompt: Sequence[int], seen: Features, image: int, how: How, dice: int):
        self.seen, self.image, self.how = seen, image, how
        self.arm: Hashable = None
        self.guide: Guide | None = how.form.guide() if how.form else None
        self.told: list[int] = list(self.guide.forced) if self.guide else []
        self.pending = [*prompt, *self.told]
        self.done = 0
        self.where = positions(len(prompt) + how.limit, image, seen.grid)
        self.dice = np.random.default_rng((how.seed, dice))
        self.ended = self.full = False
        self.passes, self.seconds = 0, 0.0

    def skip(self, shared: int) -> None:
        """The model knows so many of its first tokens."""
        self.pending, self.done = self.pending[shared:], shared

    def take(self, token: int, ends: frozenset[int]) -> None:
        """The next token, and with it those that must follow."""
        self.passes += 1
        self.done += len(self.pending)
        self.pending = [token]
        if self.guide:
            self.guide.take(token)
            self.pending += self.guide.forced
            self.ended = self.guide.ended
        elif token in ends and not self.how.through_ends:
            self.ended, self.pending = True, []
        self.told += self.pending
        self.full = len(self.told) >= self.how.limit

    def answer(self, vlm: Vlm) -> Answer:
        """What it has become."""
        text = vlm.processor.tokenizer.decode(self.told, skip_special_tokens=True)
        return Answer(text, tuple(self.told), self.seconds, self.ended, self.passes)


class Decoder:
    """Rows that take each step together, in slots of one cache; `at` says which is where.

    All are drawn in one way (How), by whichever adapter is attached; one may come where `free`.
    Slots come and go with the rows: what stands empty costs attention too.

    most  rows at a time
    """

    def __init__(self, vlm: Vlm, most: int) -> None:
        self.vlm, self.most = vlm, most
        self.slots = Slots(vlm.model.language_model.model.layers, most)
        self.at: list[Row | None] = [None] * most

    @property
    def live(self) -> list[Row]:
        """Rows that have not ended."""
        return [row for row in self.at if row is not None]

    @property
    def free(self) -> bool:
        """Whether another row can come."""
        return len(self.live) < self.most

    def admit(self, row: Row, prefix: Kept | None = None) -> None:
        """Give it a free place.

        prefix  keys and values of the tokens that it begins with, as `Slots.taken` gave them
        """
        if None not in self.at:
            more = min(len(self.at), self.most - len(self.at))
            self.slots.widen(more)
            self.at += [None] * more
        slot = self.at.index(None)
        row.skip(self.slots.start(slot, prefix))
        self.at[slot] = row

    def drop(self, row: Row) -> None:
        """Take a row away, ended or not."""
        slot = self.at.index(row)
        self.slots.stop(slot)
        self.at[slot] = None

    def step(self) -> list[Row]:
        """A token more for every row, and those forced after it; the rows that ended by it."""
        rows = self.live
        if 2 * len(rows) <= len(self.at):
            self.slots.keep([i for i, row in enumerate(self.at) if row is not None])
            self.at = list(rows)
        self.slots.lay_out([len(row.pending) if row else 0 for row in self.at])
        told = logits(self.vlm.model, self._forward(rows))
        if rows[0].guide:
            told = allowed(told, [row.guide.mask for row in rows if row.guide])
        tokens = np.array(drawn(told, rows[0].how.temperature, [row.dice.random() for row in rows]))
        for row, token in zip(rows, tokens, strict=True):
            row.take(int(token), self.vlm.end_ids)
        ended = [row for row in rows if row.ended or row.full]
        for row in ended:
            self.drop(row)
        return ended

    def _forward(self, rows: Sequence[Row]) -> mx.array:
        """Hidden states of each row's last token, (rows, width)."""
        text = self.vlm.model.language_model.model
        ids = np.concatenate([row.pending for row in rows]).astype(np.int32)[None]
        where = np.concatenate(
            [row.where[:, row.done : row.done + len(row.pending)] for row in rows], axis=1
        )
        seen = [row.seen for row in rows if not row.passes]
        h, deep = (
            self._embedded(ids, rows, seen) if seen else (text.embed_tokens(mx.array(ids)), [])
        )
        h = layers(text, h, mx.array(where[:, None]), deep, self.slots.layers)
        last = np.cumsum([len(row.pending) for row in rows]) - 1
        return h[0, mx.array(last)]

    def _embedded(
        self, ids: Any, rows: Sequence[Row], seen: Sequence[Features]
    ) -> tuple[mx.array, list[mx.array]]:
        """The same with photographs in place of the image tokens of rows that are new."""
        lookup = np.full_like(ids, sum(one.merged.shape[0] for one in seen))
        first = found = 0
        for row in rows:
            if not row.passes:
                count, start = row.seen.merged.shape[0], first + row.image - row.done
                lookup[0, start : start + count] = np.arange(found, found + count)
                found += count
            first += len(row.pending)
        return embed(self.vlm.model, ids, lookup, seen)

"""A critique's form held to while it is generated, and its end within the token limit.

llguidance says which tokens the schema allows, and which must follow. Lengths in characters do not
bound tokens, so that each text is closed too before it takes what the rest of a critique needs.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from numpy.typing import NDArray

from mondrian.core.errors import EvaluationError
from mondrian.critique.schema import DIMENSIONS, json_schema

TokenBitmask = NDArray[np.int32]  # a bit a token
ITEMS = 5  # of a list, as many as the schema allows
SLACK = 8  # tokens that an escape or a character of many bytes may take before a text can close
PUNCTUATION_MARGIN = (
    2  # tokens more than a text's shortest form, where quotes and commas come one by one
)
TEXT_BUDGET_FRACTION = (
    0.5  # of the tokens that the shortest rest does not need, what one text may take
)


class CritiqueGrammar:
    """The schema for one tokenizer.

    vocabulary  numbers that a row of logits has
    limit       tokens that an answer may have

    Raises EvaluationError where a critique is not sure to fit the limit.
    """

    def __init__(self, tokenizer: Any, vocabulary: int, limit: int) -> None:
        self.tokens = from_tokenizer(tokenizer, n_vocab=vocabulary)
        self.grammar = LLMatcher.grammar_from_json_schema(json.dumps(json_schema()))
        self.words = -(-vocabulary // 32)
        self.limit = limit
        self.text = lru_cache(None)(lambda token: self.tokens.decode_bytes([token]))
        texts = [self.text(token) for token in range(vocabulary)]
        self.closers = self._pack_bitmask([text[:1] == b'"' for text in texts])
        self.whole = self._pack_bitmask([_is_whole(text) for text in texts])
        self.after, self.item = self._count_needed_tokens(tokenizer)
        min_tokens = self.after[0][0]
        if min_tokens > limit:
            raise EvaluationError(
                f"evaluate.max_new_tokens is {limit}; a critique may need {min_tokens}, raise it"
            )

    def _pack_bitmask(self, chosen: list[bool]) -> TokenBitmask:
        padded = [*chosen, *[False] * (32 * self.words - len(chosen))]
        return np.packbits(padded, bitorder="little").view(np.int32)

    def create_state(self) -> GrammarState:
        """For one answer."""
        return GrammarState(self)

    def _count_needed_tokens(self, tokenizer: Any) -> tuple[list[tuple[int, int]], int]:
        """Tokens, and texts, that what comes after each key takes at most; tokens of a list's item.

        Of the shortest critique, its lists as long as they may be. Place 0 stands for all of it,
        place k for what follows the value of key k, in the order of their appearance.
        """
        pieces = _shortest_critique()
        counts = [len(tokenizer(p, add_special_tokens=False)["input_ids"]) for p, _ in pieces]
        texts = [n for _, n in pieces]
        after = [
            (sum(counts[i:]) + PUNCTUATION_MARGIN * sum(texts[i:]), sum(texts[i:]))
            for i in range(len(pieces) + 1)
        ]
        return after, len(
            tokenizer(', "x"', add_special_tokens=False)["input_ids"]
        ) + PUNCTUATION_MARGIN


def _is_whole(text: bytes) -> bool:
    """Whether a token is no part of an escape or of a character."""
    try:
        return "\\" not in text.decode()
    except UnicodeDecodeError:
        return False


def _shortest_critique() -> list[tuple[str, int]]:
    """A critique key by key, each with its value and the texts in it that are free."""
    pieces = [('{"image_description": "x"', 1), (', "dimensions": [', 0)]
    for i, name in enumerate(DIMENSIONS):
        pieces += [
            (f'{", " if i else ""}{{"name": {json.dumps(name)}', 0),
            (', "score": 10.0', 0),
            (', "comment": "x"', 1),
            (', "recommendation": "x"}', 1),
        ]
    items = ", ".join(['"x"'] * ITEMS)
    return [
        *pieces,
        ('], "overall_score": 10.0', 0),
        (f', "key_strengths": [{items}]', ITEMS),
        (f', "priority_improvements": [{items}]', ITEMS),
        (', "technical_notes": "x"}', 1),
    ]


class GrammarState:
    """Where one answer stands. `mask` holds what may come next, a bit a token."""

    def __init__(self, form: CritiqueGrammar) -> None:
        self.form = form
        self.matcher = LLMatcher(form.tokens, form.grammar)
        self.ended = False
        self.mask: TokenBitmask = np.zeros(form.words, np.int32)
        self._used = self._keys = self._items = self._spent = self._text_limit = 0
        self._inside = self._escaped = False
        self.forced = self._advance()

    def accept_token(self, token: int) -> None:
        """Accept a token; `forced` then holds those that must follow it, accepted too."""
        self._accept([token])
        self.forced = self._advance()

    def _accept(self, tokens: list[int]) -> None:
        if not self.matcher.consume_tokens(tokens):
            raise RuntimeError(f"llguidance refuses what it allowed: {self.matcher.get_error()}")
        for token in tokens:
            self._used += 1
            self._spent += 1
            for byte in self.form.text(token):
                self._read(byte)

    def _advance(self) -> list[int]:
        """Accept every token that has no alternative; make the mask of the next one."""
        out: list[int] = []
        while not self.matcher.is_stopped():
            more = self.matcher.compute_ff_tokens()
            if not more:
                self.matcher.unsafe_compute_mask_ptr(self.mask.ctypes.data, self.mask.nbytes)
                self._close()
                only = np.flatnonzero(self.mask)
                if len(only) != 1 or (word := int(self.mask[only[0]]) & 0xFFFFFFFF) & (word - 1):
                    return out
                more = [32 * int(only[0]) + word.bit_length() - 1]
            self._accept(more)
            out += more
        if self.matcher.is_error():
            raise RuntimeError(f"llguidance gave up: {self.matcher.get_error()}")
        self.ended = True
        return out

    def _close(self) -> None:
        """Allow only what closes a text that has had its share; before that, nothing half."""
        if self._inside and self._spent >= self._text_limit:
            self._allow(self.form.closers)
        if not self._inside or self._spent + SLACK >= self._text_limit:
            self._allow(self.form.whole)

    def _allow(self, bitmask: TokenBitmask) -> None:
        """Only these tokens, where any of them may come."""
        left = self.mask & bitmask
        if left.any():
            self.mask = left

    def _read(self, byte: int) -> None:
        """Follow texts, keys and items of a list."""
        if self._inside:
            if self._escaped or byte == ord("\\"):
                self._escaped = not self._escaped
            elif byte == ord('"'):
                self._inside, self._items = False, self._items + 1
        elif byte == ord('"'):
            self._inside, self._spent = True, 0
            self._text_limit = self._compute_text_budget()
        elif byte == ord(":"):
            self._keys, self._items = self._keys + 1, 0

    def _compute_text_budget(self) -> int:
        """Tokens that a text which now begins may take."""
        form = self.form
        needed, texts = form.after[self._keys]
        own = form.after[self._keys - 1][1] - texts if self._keys else 0
        items = max(0, own - 1 - self._items)
        free = form.limit - self._used - needed - items * form.item - PUNCTUATION_MARGIN - 1
        return max(1, int(free * TEXT_BUDGET_FRACTION) if items + texts else free)

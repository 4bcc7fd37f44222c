"""Constrained decoding: completions are schema-valid and end within the token limit.

llguidance computes which tokens the schema allows next and which must follow. The schema bounds
texts in characters, not in tokens, so each text is also closed before it takes tokens that the
rest of the critique needs.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from numpy.typing import NDArray

from mondrian.core.errors import EvaluationError
from mondrian.critique.schema import DIMENSIONS, MAX_LIST_ITEMS, json_schema

TokenBitmask = NDArray[np.int32]  # one bit per token
SLACK_TOKENS = 8  # tokens that an escape or a multi-byte character may take before a text can close
PUNCTUATION_MARGIN = 2  # extra tokens per text, in case quotes and commas are single tokens
TEXT_BUDGET_FRACTION = 0.5  # of the spare tokens that one text may take


class CritiqueGrammar:
    """The critique schema compiled for one tokenizer.

    vocabulary_size  size of a row of logits
    max_tokens       of a completion; EvaluationError if a critique may not fit

    needed_after[k] is how many tokens, and how many texts among them, may follow the value of key k
    (in order of appearance, from 1); needed_after[0] is for the whole critique.
    """

    def __init__(self, tokenizer: Any, vocabulary_size: int, max_tokens: int) -> None:
        self.tokens = from_tokenizer(tokenizer, n_vocab=vocabulary_size)
        schema = LLMatcher.grammar_from_json_schema(json.dumps(json_schema()))
        # Completions copy it in 1/25 of the time. The copies share its lexer, whose states stay: up
        # to 26 MB after thousands of critiques.
        self.matcher = LLMatcher(self.tokens, schema)
        self.mask_words = -(-vocabulary_size // 32)
        self.max_tokens = max_tokens
        self.token_bytes = lru_cache(None)(lambda token: self.tokens.decode_bytes([token]))
        token_bytes = [self.token_bytes(token) for token in range(vocabulary_size)]
        self.closing_mask = self._pack_bitmask([text[:1] == b'"' for text in token_bytes])
        self.complete_mask = self._pack_bitmask([_is_complete(text) for text in token_bytes])

        def count_tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])

        pieces = _shortest_critique()
        texts = [piece.count('"x"') for piece in pieces]
        needed = [count_tokens(p) + PUNCTUATION_MARGIN * p.count('"x"') for p in pieces]
        self.needed_after = [(sum(needed[i:]), sum(texts[i:])) for i in range(len(pieces) + 1)]
        self.item_tokens = count_tokens(', "x"') + PUNCTUATION_MARGIN
        min_tokens = self.needed_after[0][0]
        if min_tokens > max_tokens:
            raise EvaluationError(
                f"max_new_tokens is {max_tokens}; raise it: a critique may need {min_tokens}"
            )

    def _pack_bitmask(self, allowed: list[bool]) -> TokenBitmask:
        padded = [*allowed, *[False] * (32 * self.mask_words - len(allowed))]
        return np.packbits(padded, bitorder="little").view(np.int32)


def _is_complete(text: bytes) -> bool:
    """Return whether a token has no escape and no part of a multi-byte character."""
    try:
        return "\\" not in text.decode()
    except UnicodeDecodeError:
        return False


def _shortest_critique() -> list[str]:
    """Return the shortest critique with full lists as text, split before each key."""
    dimension = {"score": 10.0, "comment": "x", "recommendation": "x"}
    critique = {
        "image_description": "x",
        "dimensions": [{"name": name, **dimension} for name in DIMENSIONS],
        "overall_score": 10.0,
        "key_strengths": ["x"] * MAX_LIST_ITEMS,
        "priority_improvements": ["x"] * MAX_LIST_ITEMS,
        "technical_notes": "x",
    }
    text = json.dumps(critique)
    starts = [match.start() for match in re.finditer(r'((?<=})\], |, {|, |{)"\w+": ', text)]
    return [text[start:end] for start, end in pairwise([*starts, len(text)])]


class GrammarState:
    """The state of one completion.

    mask    one bit per token that may come next
    forced  tokens that had to follow the last one; they are accepted already
    ended   whether the critique is complete
    """

    def __init__(self, grammar: CritiqueGrammar) -> None:
        self.grammar = grammar
        self.matcher = grammar.matcher.deep_copy()
        self.ended = False
        self.mask: TokenBitmask = np.zeros(grammar.mask_words, np.int32)
        self._num_tokens = self._num_keys = self._num_items = 0
        self._text_tokens = self._text_limit = 0
        self._in_text = self._escaped = False
        self.forced = self._advance()

    def allows(self, token: int) -> bool:
        """Return whether a token may come next."""
        return bool(self.mask[token // 32] >> (token % 32) & 1)

    def accept_token(self, token: int) -> None:
        self._accept([token])
        self.forced = self._advance()

    def _accept(self, tokens: list[int]) -> None:
        if not self.matcher.consume_tokens(tokens):
            raise RuntimeError(f"llguidance rejects a token it allowed: {self.matcher.get_error()}")
        for token in tokens:
            self._num_tokens += 1
            self._text_tokens += 1
            for byte in self.grammar.token_bytes(token):
                self._track_byte(byte)

    def _advance(self) -> list[int]:
        """Accept every token that has no alternative; compute the mask of the next one."""
        forced: list[int] = []
        while not self.matcher.is_stopped():
            tokens = self.matcher.compute_ff_tokens()
            if not tokens:
                self.matcher.unsafe_compute_mask_ptr(self.mask.ctypes.data, self.mask.nbytes)
                self._restrict_text()
                words = np.flatnonzero(self.mask)
                word = int(self.mask[words[0]]) & 0xFFFFFFFF if len(words) == 1 else 0
                if word.bit_count() != 1:
                    return forced
                tokens = [32 * int(words[0]) + word.bit_length() - 1]
            self._accept(tokens)
            forced += tokens
        if self.matcher.is_error():
            raise RuntimeError(f"llguidance failed: {self.matcher.get_error()}")
        self.ended = True
        return forced

    def _restrict_text(self) -> None:
        """Allow only tokens that close a text at its limit; near it, only complete characters."""
        if self._in_text and self._text_tokens >= self._text_limit:
            self._restrict(self.grammar.closing_mask)
        if not self._in_text or self._text_tokens + SLACK_TOKENS >= self._text_limit:
            self._restrict(self.grammar.complete_mask)

    def _restrict(self, bitmask: TokenBitmask) -> None:
        """Allow only these tokens, if the schema allows any of them."""
        allowed = self.mask & bitmask
        if allowed.any():
            self.mask = allowed

    def _track_byte(self, byte: int) -> None:
        """Update the position: in a text, and how many keys and list items were read."""
        if self._in_text:
            if self._escaped or byte == ord("\\"):
                self._escaped = not self._escaped
            elif byte == ord('"'):
                self._in_text, self._num_items = False, self._num_items + 1
        elif byte == ord('"'):
            self._in_text, self._text_tokens = True, 0
            self._text_limit = self._compute_text_budget()
        elif byte == ord(":"):
            self._num_keys, self._num_items = self._num_keys + 1, 0

    def _compute_text_budget(self) -> int:
        """Return how many tokens the text that begins now may take."""
        grammar = self.grammar
        needed, texts = grammar.needed_after[self._num_keys]
        own_texts = grammar.needed_after[self._num_keys - 1][1] - texts if self._num_keys else 0
        items_left = max(0, own_texts - 1 - self._num_items)
        reserved = needed + items_left * grammar.item_tokens + PUNCTUATION_MARGIN + 1
        spare = grammar.max_tokens - self._num_tokens - reserved
        return max(1, int(spare * TEXT_BUDGET_FRACTION) if items_left + texts else spare)


def count_passes(grammar: CritiqueGrammar, tokens: Sequence[int]) -> int | None:
    """Return the forward passes that constrained decoding takes for a completion.

    None if it would generate other tokens: one is not allowed, or the critique ends elsewhere.
    """
    state, position, passes = GrammarState(grammar), 0, 0
    while True:
        forced = state.forced
        if list(tokens[position : position + len(forced)]) != forced:
            return None
        position += len(forced)
        if state.ended or position == len(tokens):
            return passes if state.ended and position == len(tokens) else None
        if not state.allows(tokens[position]):
            return None
        state.accept_token(tokens[position])
        position, passes = position + 1, passes + 1

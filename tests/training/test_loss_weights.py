import re

from mondrian.critique.schema import Critique, serialize_critique
from mondrian.training.loss_weights import token_weights


def test_digits_of_scores_count_more_and_derived_parts_not_at_all(critique: Critique) -> None:
    text = serialize_critique(critique)
    tokens = [match.span() for match in re.finditer(r"\w+|\W", text)] + [(len(text), len(text) + 9)]
    plain = token_weights(text, tokens, [], 10.0)
    derived = token_weights(text, tokens, ["key_strengths", "technical_notes"], 10.0)
    said = [text[a:b] for a, b in tokens]
    scored = [word for word, weight in zip(said, plain, strict=True) if weight == 10.0]
    assert [float(n) for n in scored[:7]] == list(critique.scores())
    assert set(plain) == {1.0, 10.0}
    silent = "".join(word for word, weight in zip(said, derived, strict=True) if not weight)
    assert all(strength in silent for strength in critique.key_strengths)
    assert critique.technical_notes in silent
    assert "priority" not in silent
    assert derived[-1] == 1.0  # the end is always learned
    kept = [w for w, d in zip(plain, derived, strict=True) if d]
    assert kept == [d for d in derived if d]

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mondrian.evaluation.preference import Preference, Side, VoteLog, read_preference
from mondrian.labeling.blind_pairs import CritiquePair, assign_sides, build_pairs
from mondrian.labeling.judging import JudgingSession
from tests.labeling.report_photos import make_photo


@pytest.fixture
def pairs() -> list[CritiquePair]:
    return build_pairs([make_photo(i) for i in range(9)])[0]


def start(pairs: list[CritiquePair], folder: Path, seed: int = 1) -> JudgingSession:
    return JudgingSession(pairs, VoteLog(folder / "votes.jsonl"), "a1", Random(seed))


def vote(session: JudgingSession, prefers: str) -> None:
    """Vote for the critique of an arm."""
    blind = session.current
    assert blind is not None
    other: Side = "left" if blind.side == "right" else "right"
    session.vote(blind.token, blind.side if prefers == "fine_tuned" else other)


@given(st.integers(0, 40), st.integers(), st.lists(st.booleans(), max_size=3))
def test_sides_are_balanced_in_each_block(count: int, seed: int, others: list[bool]) -> None:
    random = Random(seed)
    sides = assign_sides(count, [], random)
    assert len(sides) == count
    for start in range(0, count - 3, 4):
        assert sides[start : start + 4].count("left") == 2
    assert abs(sides.count("left") - sides.count("right")) <= count % 2
    first = sides[: len(others)]  # as if the session had ended after these
    both = [*first, *assign_sides(count, first, random)]
    assert abs(both.count("left") - both.count("right")) <= max(1, len(first) - count)


def test_photos_without_a_comparison_are_counted() -> None:
    same = make_photo(1)["base_constrained"]["text"]
    photos = [make_photo(0), make_photo(1, tuned=same), make_photo(2, "group-0")]
    pairs, left_out = build_pairs([*photos, make_photo(3, tuned="no critique")])
    assert [pair.photo_group for pair in pairs] == ["group-0"]
    assert left_out == {"equal critiques": 1, "of the same photo or walk": 1, "no critique": 1}


def test_votes_count_for_the_arm_on_the_chosen_side(
    pairs: list[CritiquePair], tmp_path: Path
) -> None:
    session = start(pairs, tmp_path)
    for prefers in ("fine_tuned", "base", "fine_tuned"):
        vote(session, prefers)
    assert session.current is not None
    session.vote(session.current.token, "equal")
    assert session.preference() == Preference(fine_tuned=2, base=1, equal=1)
    assert read_preference(tmp_path, "a1") == session.preference()
    assert read_preference(tmp_path, "another adapter") is None


def test_a_session_continues_with_the_photos_that_have_no_vote(
    pairs: list[CritiquePair], tmp_path: Path
) -> None:
    session = start(pairs, tmp_path)
    for _ in range(3):
        vote(session, "fine_tuned")
    log = tmp_path / "votes.jsonl"
    log.write_text(log.read_text() + '{"adapter": "a1", "photo_gr')  # killed
    again = start(pairs, tmp_path, seed=2)
    assert again.num_votes == 3
    while again.current:
        vote(again, "base")
    assert again.preference() == Preference(fine_tuned=3, base=6, equal=0)
    lines = log.read_text().splitlines()
    sides = [json.loads(line)["side"] for line in lines if line.endswith("}")]
    assert abs(sides.count("left") - sides.count("right")) == 1


def test_undo_takes_back_one_vote_after_another(pairs: list[CritiquePair], tmp_path: Path) -> None:
    session = start(pairs, tmp_path)
    vote(session, "base")
    first = session.current
    vote(session, "base")
    session.undo()
    assert session.current == first
    session.undo()
    session.undo()  # nothing is left
    assert session.num_votes == 0
    assert read_preference(tmp_path, "a1") is None
    while session.current:
        vote(session, "fine_tuned")
    session.undo()  # the outcome was seen
    assert session.num_votes == len(pairs)


def test_skipped_pairs_come_last_and_older_pages_vote_for_nothing(
    pairs: list[CritiquePair], tmp_path: Path
) -> None:
    session = start(pairs, tmp_path)
    first = session.current
    assert first is not None
    session.skip(first.token)
    assert session.current != first
    session.vote(first.token, "left")
    assert session.num_votes == 0
    for _ in range(len(pairs) - 1):
        vote(session, "base")
    assert session.current == first


def test_a_vote_on_other_critiques_does_not_count_as_one_on_these(
    pairs: list[CritiquePair], tmp_path: Path
) -> None:
    session = start(pairs, tmp_path)
    while session.current:
        vote(session, "base")
    changed = build_pairs([make_photo(i, group=f"group-{i - 20}") for i in range(20, 29)])[0]
    assert start(changed, tmp_path).num_votes == 0


@pytest.mark.parametrize(
    ("preference", "text"),
    [
        (Preference(8, 2, 3), "adapter 8, base 2, equal 3; the adapter is preferred in 80% (95 %"),
        (Preference(0, 0, 3), "blind votes: adapter 0, base 0, equal 3"),
    ],
)
def test_the_share_has_its_exact_interval(preference: Preference, text: str) -> None:
    assert text in preference.describe()
    if preference.fine_tuned:
        share, low, high = preference.estimate_share()
        assert (share, round(low, 4), round(high, 4)) == (0.8, 0.4439, 0.9748)  # R's binom.test

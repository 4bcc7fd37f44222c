import pytest

from mondrian.core.errors import DataError
from mondrian.data.manifest import ManifestRecord
from mondrian.data.quality.score_variation import check_score_variation
from mondrian.sample.corruptions import replace_scores
from tests.data.manifest_records import record

SAME = (8, 7, 9, 6, 7, 8, 6)


def make_records(same: int, others: int, step: float = 0.0) -> list[ManifestRecord]:
    """Return records of different photos; the first ones have the same scores."""
    records = [record(i, f"photo-{i}") for i in range(same + others)]
    for i in range(same):
        scores = (SAME[0] - round(step * (i % 5), 1), *SAME[1:])
        critique = replace_scores(records[i].critique, scores, 7.3)
        records[i] = records[i].model_copy(update={"critique": critique})
    return records


@pytest.mark.parametrize(("same", "others"), [(31, 0), (16, 15)])
def test_scores_that_do_not_vary_are_an_error_with_value_and_fix(same: int, others: int) -> None:
    expected = (
        rf"^prepare ansel: {same} of {same + others} photos have the scores 8 7 9 6 7 8 6, .*"
        r"set link\.template_scores and link\.constant_scores to leave_out or text_only"
    )
    with pytest.raises(DataError, match=expected) as error:
        check_score_variation("ansel", make_records(same, others))
    assert "\n" not in str(error.value)


def test_scores_that_hardly_differ_are_an_error() -> None:
    with pytest.raises(
        DataError, match=r"no dimension has a standard deviation above 0\.07 points"
    ):
        check_score_variation("ansel", make_records(30, 0, step=0.05))


@pytest.mark.parametrize(("same", "warned"), [(8, False), (12, True)])
def test_scores_that_hardly_vary_are_a_warning(same: int, warned: bool) -> None:
    warning = check_score_variation("ansel", make_records(same, 32 - same))
    assert (warning is not None) is warned


def test_a_photo_with_many_critiques_counts_once() -> None:
    records = make_records(20, 20)
    same = records[0].photo
    records[:20] = [r.model_copy(update={"photo": same}) for r in records[:20]]
    assert check_score_variation("ansel", records) is None


def test_unscored_records_do_not_count() -> None:
    records = [r.model_copy(update={"scored": False}) for r in make_records(31, 0)]
    assert check_score_variation("ansel", records + make_records(0, 30)) is None

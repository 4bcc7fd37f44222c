import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mondrian.core.params import LinkParams, Params
from mondrian.critique.schema import Critique, serialize_critique
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.job_counts import JobCounts
from mondrian.data.link_context import LinkContext
from mondrian.data.link_store import open_link_store
from mondrian.data.quality.other_advisors import add_other_texts
from mondrian.data.sources import open_source


def find_other_advisors(path: Path, photos: Path, link_params: LinkParams) -> list[str]:
    """Return the advisors of the texts that are read for ansel."""
    folders = ApplicationFolders(photos, path.parent, path.parent)
    context = LinkContext("ansel", folders, link_params)
    with open_source(path) as jobs, open_link_store() as store:
        add_other_texts(path, context, jobs.count_jobs(), store)
        return [advisor for advisor, _, _ in store.background_texts(100)]


@pytest.mark.parametrize(
    ("fields", "advisors"),
    [
        (["ansel", "weston"], ["weston"]),
        (["", "weston"], ["weston"]),  # for every advisor, so for ansel
        (["ansel, weston", "all", "weston"], ["weston"]),
        (["weston, adams"], ["adams"]),  # one text counts once
        (["ansel", ""], []),
    ],
)
def test_a_text_of_a_list_counts_once_and_not_if_it_is_the_linked_advisors(
    source: Path, critique: Critique, params: Params, fields: Sequence[str], advisors: list[str]
) -> None:
    path = source.parent / "critiques.jsonl"
    with path.open("w") as file:
        for i, advisor in enumerate(fields):
            text = serialize_critique(critique.model_copy(update={"image_description": f"No. {i}"}))
            entry = {"photo": f"{i}.jpg", "advisor": advisor, "critique": text}
            file.write(json.dumps(entry) + "\n")
    assert find_other_advisors(path, source, params.link) == advisors


def test_the_finished_jobs_of_many_advisors_are_counted_in_one_pass() -> None:
    rows = [(f"a{i}", "done", 1) for i in range(50_000)]  # 2.5 billion pairs of row and advisor
    counts = JobCounts([*rows, ("all", "done", 2), ("a1, b", "Completed", 3), ("c", "failed", 4)])
    finished = counts.count_finished_by_advisor()
    assert (len(finished), finished["a0"], finished["a1"]) == (50_002, 3, 6)
    assert (finished["b"], finished["c"]) == (5, 2)
    assert counts.count_finished("c") == 2

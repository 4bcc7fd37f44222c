"""What the service stores is what link reads: today's answers are tomorrow's critiques."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from mondrian.critique import canonical, parse
from mondrian.params import Params
from tests.odd_files import encoded
from tests.serving import running
from tests.test_link import run_link
from tests.test_service_contract import wait_until

ASKED = (("baseline", "ansel"), ("base", "ansel"), ("lora", "ansel"), ("base", "ansel,okeefe"))


@pytest.mark.slow
def test_answers_of_the_base_are_linked_again_and_those_of_an_adapter_never(
    adapters: Path, params: Params, photos: list[Image.Image], tmp_path: Path
) -> None:
    with running(tmp_path, "--lora_path", adapters) as service, service.client() as client:
        ids = []
        for photo, (mode, advisor) in zip(photos, ASKED, strict=False):
            files = {"image": ("lake.jpg", encoded(photo, "JPEG", quality=95))}
            told = client.post("/upload", files=files, data={"advisor": advisor, "mode": mode})
            ids.append(told.json()["job_id"])
        answers = {id: client.get(f"/status/{wait_until(client, id, 'completed')}").json()
                   for id in ids}  # fmt: skip
        # The overall grade of a tiny model is not the mean of its seven; that is not the question.
        place, rules = service.data / "uploads", {"overall_off_mean": "keep"}
        ansel, okeefe = (
            run_link(service.db, params, advisor, source=place, **rules)
            for advisor in ("ansel", "okeefe")
        )
    records = {record.job_id: record for record in ansel.records}
    for id in ids[:2]:
        scores = [one.score for one in records[id].critique.dimensions]
        stored = json.loads(answers[id]["llm_outputs"])["analysis"]["dimensions"]
        assert len(scores) == 7
        assert scores == [one["score"] for one in stored]
        assert Path(records[id].photo.path).name == Path(answers[id]["filename"]).name
    assert ansel.reasons == {ids[2]: "made_by_adapter"}
    both = json.loads(answers[ids[3]]["llm_outputs"])
    for advisor, found in (("ansel", ansel), ("okeefe", okeefe)):
        critique = next(r.critique for r in found.records if r.job_id == ids[3])
        assert canonical(critique) == canonical(parse(both[advisor]))

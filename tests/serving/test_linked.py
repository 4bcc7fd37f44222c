"""The link stage reads the critiques that the service stores."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mondrian.core.errors import DataError
from mondrian.core.params import Params
from mondrian.critique.schema import serialize_critique, validate_critique
from tests.core.odd_photos import encode
from tests.data.link_runs import run_link
from tests.reviewing import post_feedback
from tests.service_process import run_service
from tests.serving.service_jobs import wait_until

REQUESTS = (("baseline", "ansel"), ("base", "ansel"), ("lora", "ansel"), ("base", "ansel,okeefe"))


@pytest.mark.slow
def test_served_critiques_are_linked_once_a_person_has_reviewed_them(
    adapters: Path, params: Params, photos: list[Image.Image], tmp_path: Path
) -> None:
    with run_service(tmp_path, "--lora_path", adapters) as service, service.client() as client:
        ids = []
        for photo, (mode, advisor) in zip(photos, REQUESTS, strict=False):
            files = {"image": ("lake.jpg", encode(photo, "JPEG", quality=95))}
            response = client.post("/upload", files=files, data={"advisor": advisor, "mode": mode})
            ids.append(response.json()["job_id"])
        answers = {
            id: client.get(f"/status/{wait_until(client, id, 'completed')}").json() for id in ids
        }
        # as in docs/guide.md: --db is application.db_path, --data is application.source_dir
        source, rules = service.data, {"made_by_adapter": "keep"}
        for advisor in ("ansel", "okeefe"):
            with pytest.raises(DataError, match="unreviewed"):
                run_link(service.db, params, advisor, source=source, **rules)
        post_feedback(client, ids[0], verdict="accepted")
        post_feedback(client, ids[2], scores={"Lighting": 0.5, "Composition": 9.5}, who="Ana")
        post_feedback(client, ids[3], advisor="okeefe", verdict="accepted")
        ansel, okeefe = (
            run_link(service.db, params, advisor, source=source) for advisor in ("ansel", "okeefe")
        )
    assert ansel.reasons == {ids[1]: "unreviewed", ids[3]: "unreviewed"}
    records = {record.job_id: record for record in ansel.records}
    assert set(records) == {ids[0], ids[2]}
    for id in (ids[0], ids[2]):
        assert records[id].photo.path == str(service.data / answers[id]["filename"])
    stored = json.loads(answers[ids[0]]["llm_outputs"])["response"]
    assert serialize_critique(records[ids[0]].critique) == serialize_critique(
        validate_critique(stored)
    )
    corrected = records[ids[2]]
    assert corrected.critique.scores()[:2] == (9.5, 0.5)
    assert corrected.review
    assert corrected.review.served_by == "fine_tuned"
    assert corrected.review.adapter_version == answers[ids[2]]["adapter_version"]
    both = json.loads(answers[ids[3]]["llm_outputs"])
    (record,) = okeefe.records
    assert serialize_critique(record.critique) == serialize_critique(
        validate_critique(both["okeefe"])
    )

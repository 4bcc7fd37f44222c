"""Calibrated scores in a job: what clients and pages see, and what the record keeps."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from mondrian.core.params import Params
from mondrian.critique.schema import Critique, serialize_critique, validate_critique
from mondrian.serving.assignment import ArmAssigner
from mondrian.serving.engines.base import Completion
from mondrian.serving.jobs.critique_runner import CritiqueRunner, ServedCritique
from mondrian.serving.jobs.view import build_job_view
from mondrian.storage.tables import jobs
from tests.critique.calibrations import make_calibration


def serve(critique: Critique, params: Params, calibration: Any) -> ServedCritique:
    """Return a critique of an engine that answers with the adapter."""
    text = serialize_critique(critique)
    completion = Completion(text, 9, "v", 0.1, 1.0, 0.9, "models/a", calibration=calibration)

    async def answer(_: Any) -> Completion:
        return completion

    engine: Any = SimpleNamespace(critique=answer, state=SimpleNamespace(model="m", adapters={}))
    plan = ArmAssigner("ansel", "fine_tuned", "", 0.5, None).plan("lora", "subject")
    image = Image.new("RGB", (64, 64))
    runner = CritiqueRunner(engine, params)
    return asyncio.run(runner.generate_critique("ansel", plan, image, lambda *_: None, False))


def make_row(served: list[ServedCritique], params: Params, **values: Any) -> dict[str, Any]:
    runner: Any = SimpleNamespace()
    columns = CritiqueRunner(runner, params).result_columns(served, 1.0)
    row = dict.fromkeys(column.name for column in jobs.c)
    advisors = ",".join(critique.advisor for critique in served)
    return row | columns | {"id": "1", "status": "completed", "advisor": advisors} | values


@pytest.fixture
def generated(critique: Critique) -> Critique:
    return critique.with_scores((9.0, 9.0, 6.0, 6.0, 3.0, 3.0, 10.0), 6.6)


def test_clients_see_calibrated_scores_and_the_record_keeps_the_others(
    generated: Critique, params: Params
) -> None:
    served = serve(generated, params, make_calibration(0.5, Composition=0))
    row = make_row([served], params)
    outputs = json.loads(row["llm_outputs"])
    shown = validate_critique(outputs["response"])
    assert shown.scores() == (6.0, 8.0, 6.0, 6.0, 4.0, 4.0, 8.0)
    assert shown.overall_score == outputs["analysis"]["overall_score"] == 6.0 == row["score"]
    assert "Composition</span>" in row["analysis_html"]
    assert "6/10" in row["analysis_html"]
    assert outputs["response"] in row["analysis_markdown"]
    (result,) = build_job_view(row, params).results
    assert result.critique == shown
    assert result.unjudged == ("Composition",)
    assert result.calibration is not None
    assert result.calibration.restore(shown) == generated


def test_without_calibration_nothing_changes(generated: Critique, params: Params) -> None:
    row = make_row([serve(generated, params, None)], params)
    outputs = json.loads(row["llm_outputs"])
    assert outputs["response"] == serialize_critique(generated)
    assert set(outputs) == {"prompt", "response", "summary", "model", "timestamp", "analysis"}
    (result,) = build_job_view(row, params).results
    assert result.calibration is None
    assert result.unjudged == ()


def test_a_damaged_calibration_in_a_row_is_left_out(generated: Critique, params: Params) -> None:
    row = make_row([serve(generated, params, make_calibration(0.5))], params)
    outputs = json.loads(row["llm_outputs"])
    damages: list[Any] = [3, {"ansel": 3}, {"ansel": {"raw_scores": [1]}}, []]
    for damaged in damages:
        changed = json.dumps(outputs | {"score_calibration": damaged})
        (result,) = build_job_view(row | {"llm_outputs": changed}, params).results
        assert result.calibration is None
        assert result.critique == validate_critique(outputs["response"])

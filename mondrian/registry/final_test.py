"""The test split, read once for each adapter, when it is released; nothing is selected by it.

The result is kept in the record of the version. Until that exists, it is kept in .cache, so that a
release that was refused or killed does not read test again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mondrian.core.dvc_paths import read_stage_flags
from mondrian.core.files import file_hash, read_json, write_text
from mondrian.core.params import Params
from mondrian.critique.rows import MIN_GROUPS, read_rows, row_path
from mondrian.evaluation.summary import format_mean_interval
from mondrian.registry.release_record import EstimateRecord, FinalTest, Release

_CACHE = Path(".cache")


def find_test_rows(advisor: str, params: Params) -> Path | None:
    """Return the rows of the advisor's test split, None if there is none."""
    path = row_path(_read_flag("val_data", advisor, params).parent, advisor, "test")
    return path if path.is_file() else None


def _read_flag(flag: str, advisor: str, params: Params) -> Path:
    """Return a path of stage evaluate."""
    return read_stage_flags("evaluate", [flag], params)[params.advisors.index(advisor)][0]


def run_final_test(new: Release, releases: Sequence[Release], params: Params) -> FinalTest | None:
    """Evaluate an adapter on the test split, or return what it said before about these weights.

    new       record of the adapter, still without a test
    releases  earlier records of the advisor

    A killed run resumes. Raises MondrianError if the evaluation fails.
    """
    rows = find_test_rows(new.advisor, params)
    if rows is None:
        return None
    digest = file_hash(rows)
    result_path = _CACHE / "final_test" / f"{new.advisor}-{new.adapter_version}.json"
    earlier = [r.test for r in releases if r.adapter_version == new.adapter_version]
    for result in (*earlier, _read_result(result_path)):
        if result is not None and result.rows_sha256 == digest:
            return result
    result = _evaluate(new, rows, digest, params)
    write_text(result_path, result.model_dump_json(indent=2))
    return result


def _read_result(path: Path) -> FinalTest | None:
    try:
        return FinalTest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _evaluate(new: Release, rows_path: Path, digest: str, params: Params) -> FinalTest:
    """Compare base and adapter as stage evaluate does, without what says nothing about test.

    Scores are calibrated with the weights of val, which are those of the version.
    """
    from mondrian.evaluation.calibration import apply_calibration
    from mondrian.evaluation.evaluate import EvalData, evaluate  # loads MLX
    from mondrian.evaluation.verdict import build_evaluation
    from mondrian.model import vlm
    from mondrian.model.adapter import adapts_merger
    from mondrian.model.memory_limits import set_memory_limits
    from mondrian.model.vision_cache import FeatureCache

    consistency = params.evaluate.consistency.model_copy(update={"photos": 0})
    update = {"few_shot_examples": 0, "consistency": consistency}
    evaluate_params = params.evaluate.model_copy(update=update)
    folder, test = Path(new.path), read_rows(rows_path)
    set_memory_limits(params.machine.cache_limit_gb)
    base, max_gb = vlm.load(params.base.source), params.machine.feature_cache_gb
    features = FeatureCache(base, _CACHE / "features", max_gb, adapts_merger(folder))
    answers = _CACHE / "final_test" / f"{folder.name}.jsonl"  # for resuming
    report = evaluate(features, folder, EvalData(test, []), evaluate_params, answers)
    if new.calibration is not None:
        details = read_json(_read_flag("details", new.advisor, params))
        report = apply_calibration(report, details["calibration"])
    evaluation = build_evaluation(report, evaluate_params)
    answers.unlink(missing_ok=True)
    return _summarize(evaluation, digest)


def _summarize(evaluation: dict[str, Any], rows_sha256: str) -> FinalTest:
    """Return what a record keeps of an evaluation."""
    fields = EstimateRecord.model_fields
    comparisons = {
        name: EstimateRecord(**{field: estimate[field] for field in fields})
        for name, estimate in evaluation["comparisons"].items()
    }
    return FinalTest(
        verdict=evaluation["verdict"],
        photographs=evaluation["photographs"],
        photograph_groups=evaluation["photograph_groups"],
        text_only_photographs=evaluation["text_only_photographs"],
        comparisons=comparisons,
        rows_sha256=rows_sha256,
    )


def describe_final_test(test: FinalTest | None) -> str:
    """Return one line on what test said."""
    if test is None:
        return "test: there is no test split (prepare.test_fraction)"
    text = (
        f"test: {test.verdict} on {test.photographs} critiques of {test.photograph_groups} photos"
    )
    if test.photograph_groups < MIN_GROUPS:
        return f"{text}, too few for a verdict: at least {MIN_GROUPS}"
    labels = {"index": "quality index above base", "score_error": "raw score error below base"}
    figures = (
        f"{label} {format_mean_interval(test.comparisons[name].model_dump())}"
        for name, label in labels.items()
    )
    return f"{text}: {', '.join(figures)}"

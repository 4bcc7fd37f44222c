"""A person's decision: the adapter that dvc repro built becomes a version, if it may.

One commit holds its record (and dvc.yaml, the first time), and GTO's tag names that commit. Killed
between the two, the same command again sets the tag.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mondrian.core.adapter_folder import RECIPE, adapter_version
from mondrian.core.errors import MondrianError, ReleaseError, one_line
from mondrian.core.files import read_json
from mondrian.core.params import Params
from mondrian.evaluation.gates import list_failed_gates
from mondrian.model.provenance import read_recipe
from mondrian.registry import git, release_record, tags
from mondrian.registry.build_check import BuiltAdapter, verify_built_adapter
from mondrian.registry.dvc_artifacts import DVC_YAML, add_artifact
from mondrian.registry.release_record import Release
from mondrian.registry.tags import TaggedVersion
from mondrian.registry.version import Version, check_name, parse_new_version, tag_of


@dataclass(frozen=True)
class ReleaseResult:
    """What was released, and DVC's default remote, if there is one."""

    release: Release
    remote: str | None


def release(
    advisor: str, requested_version: str, reason: str | None, params: Params
) -> ReleaseResult:
    """Make a version of the adapter that dvc repro built.

    reason  releases it although gates fail, and is on record with them

    Raises ReleaseError that says what stands against it; then nothing is changed.
    """
    check_name(advisor)
    git.head()
    reason = (reason or "").strip() or None
    known = tags.list_tagged_versions(advisor)
    version = parse_new_version(advisor, requested_version, [tag.version for tag in known])
    begun = _find_interrupted_release(advisor, version)
    built = verify_built_adapter(advisor, params)
    evaluation = _summarize_evaluation(built, reason, params)
    _check_new(built, known, advisor)
    record = _build_record(built, evaluation, advisor, version, reason)
    commit, committed_record = begun or _commit(record)
    if not release_record.same_files(committed_record.files, record.files):
        raise ReleaseError(
            f"a release of another adapter as {version} was stopped after its commit {commit[:8]}; "
            "give the next version"
        )
    tags.register(advisor, version, commit, _describe_release(committed_record))
    return ReleaseResult(committed_record, built.remote)


def _find_interrupted_release(advisor: str, version: Version) -> tuple[str, Release] | None:
    """The commit of a release that was killed before it set its tag."""
    path = release_record.record_path(advisor, version)
    content = git.show("HEAD", path)
    if content is None:
        return None
    commit = git.git("log", "-1", "--format=%H", "--", path)
    if commit == git.head():
        git.repair_checkout(commit)
    return commit, release_record.read_record(content, advisor, version, path)


def _summarize_evaluation(
    built: BuiltAdapter, reason: str | None, params: Params
) -> dict[str, Any]:
    """The verdict as it goes on record.

    Raises ReleaseError where a gate fails and nobody says why that is all right.
    """
    metrics = read_json(built.metrics)
    try:
        faults = list_failed_gates(metrics, params.evaluate.gates)
        tuned, base = metrics["fine_tuned"], metrics["base"]
        figures = {
            "index": tuned["quality_index"],
            "base_index": base["quality_index"],
            "score_mae": tuned["score_mae"],
            "base_score_mae": base["score_mae"],
            "compliance": tuned["format_compliance"],
        }
    except (KeyError, TypeError, AttributeError):
        raise ReleaseError(f"{built.metrics} holds no verdict; evaluate again: dvc repro") from None
    if faults and not reason:
        raise ReleaseError(
            "\n  ".join(
                [
                    f"{built.metrics}: {len(faults)} gates do not hold; train a better one, or say "
                    'why it may serve all the same: --reason "…"',
                    *faults,
                ]
            )
        )
    return {
        "verdict": metrics["verdict"],
        "photographs": metrics["photographs"],
        "figures": figures,
        "gates": metrics["gates"],
        "failed": tuple(faults),
    }


def _check_new(built: BuiltAdapter, known: list[TaggedVersion], advisor: str) -> None:
    """Raise ReleaseError where these very bytes are a version already."""
    for tag in known:
        path = release_record.record_path(advisor, tag.version)
        content = git.show(tag.commit, path)
        if content is None:
            continue  # a tag that somebody made by hand
        try:
            record = release_record.read_record(content, advisor, tag.version, path)
        except MondrianError:
            continue
        if release_record.same_files(record.files, built.files):
            raise ReleaseError(
                f"{built.folder} is {tag_of(advisor, tag.version)} already, byte for byte; "
                f"promote that: mondrian promote {advisor} --version {tag.version} --stage prod"
            )


def _build_record(
    built: BuiltAdapter,
    evaluation: dict[str, Any],
    advisor: str,
    version: Version,
    reason: str | None,
) -> Release:
    recipe, whole = read_recipe(built.folder), read_json(built.folder / RECIPE)
    if recipe.advisor != advisor:
        raise ReleaseError(f"{built.folder} is {recipe.advisor}'s, not {advisor}'s; dvc repro")
    try:
        return Release.model_validate(
            {
                "form": 1,
                "advisor": advisor,
                "version": str(version),
                "adapter_version": adapter_version(built.folder),
                "path": built.folder.as_posix(),
                "files": built.files,
                "base": recipe.base.model_dump(),
                "prompt_sha256": recipe.prompt_sha256,
                "schema_sha256": whole["schema_sha256"],
                "data_sha256": whole["data_sha256"],
                "image": whole["image"],
                "evaluation": evaluation,
                "commit": built.commit,
                "by": git.git("var", "GIT_AUTHOR_IDENT").rsplit(" ", 2)[0],
                "released_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "reason": reason,
            }
        )
    except (KeyError, ValueError) as error:
        message = one_line(error, 200)
        raise ReleaseError(
            f"{built.folder / RECIPE} lacks what a release needs: {message}; train again"
        ) from None


def _commit(record: Release) -> tuple[str, Release]:
    version = Version(*map(int, record.version[1:].split(".")))
    files = {
        release_record.record_path(record.advisor, version): release_record.serialize_record(record)
    }
    text = (git.show("HEAD", DVC_YAML) or b"").decode()
    if (updated := add_artifact(text, record.advisor)) != text:
        files[DVC_YAML] = updated.encode()
    message = f"Release {record.advisor} {record.version}\n\n{_describe_release(record)}\n"
    return git.commit_files(record.commit, files, message), record


def _describe_release(record: Release) -> str:
    evaluation = record.evaluation
    message = (
        f"{evaluation.verdict}, index {evaluation.figures.index:.1f} (base "
        f"{evaluation.figures.base_index:.1f})"
    )
    if evaluation.failed:
        message += f"; released although {'; '.join(evaluation.failed)}: {record.reason}"
    return message

"""Release the adapter that dvc repro built as a version, if its gates hold or a person overrides.

One commit holds its record and model card (and dvc.yaml, the first time), and a tag as of GTO names
that commit. If the process is killed between the two, the same command again sets the tag.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from mondrian.core.adapter_folder import RECIPE_FILE, adapter_version
from mondrian.core.errors import MondrianError, ReleaseError, one_line
from mondrian.core.files import read_json
from mondrian.core.params import Params
from mondrian.evaluation.gates import list_release_faults
from mondrian.evaluation.headline import (
    CROSSVALIDATION,
    VAL,
    choose_headline,
    headline_gates,
    headline_verdict,
)
from mondrian.evaluation.preference import read_preference
from mondrian.model.provenance import read_recipe
from mondrian.registry import git, release_record, tags
from mondrian.registry.adapter_calibration import read_calibration
from mondrian.registry.build_check import BuiltAdapter, verify_built_adapter
from mondrian.registry.final_test import describe_final_test, run_final_test
from mondrian.registry.model_card import AdapterResults, render_model_card
from mondrian.registry.release_record import CARD_FILE, FinalTest, Release, ReleaseFile
from mondrian.registry.signature import check_key, format_record_line
from mondrian.registry.tags import TaggedVersion
from mondrian.registry.version import Version, check_name, parse_new_version, parse_version

DVC_YAML = "dvc.yaml"
_ARTIFACTS_KEY = re.compile(r"^artifacts:[ \t]*(#.*)?$\n?", re.MULTILINE)


@dataclass(frozen=True)
class ReleaseResult:
    """A release, and DVC's default remote, if any."""

    release: Release
    remote: str | None


def release(
    advisor: str,
    requested_version: str,
    reason: str | None,
    params: Params,
    key: Path | None = None,
) -> ReleaseResult:
    """Release the adapter that dvc repro built, or raise ReleaseError; a reason overrides gates.

    key  SSH key that signs the version
    """
    check_name(advisor)
    git.read_head()
    if key is not None:
        check_key(key)
    reason = (reason or "").strip() or None
    versions = tags.list_tagged_versions(advisor)
    version = parse_new_version(advisor, requested_version, [tag.version for tag in versions])
    interrupted = _find_interrupted_release(advisor, version)
    built = verify_built_adapter(advisor, params)
    summary = _summarize_evaluation(built, reason, params)
    releases = _read_releases(versions, advisor)
    _check_not_released(built, releases)
    new_record = _build_record(built, summary, advisor, version, reason)
    commit, record = interrupted or _commit_release(new_record, releases, built, params)
    if set(record.files) != set(built.files):
        raise ReleaseError(
            f"a release of another adapter as {version} was interrupted after its commit "
            f"{commit[:8]}; use the next version"
        )
    _tag(record, commit, key)
    return ReleaseResult(record, built.remote)


def _find_interrupted_release(advisor: str, version: Version) -> tuple[str, Release] | None:
    """Return the commit and record of a release that was killed before it set its tag."""
    path = release_record.record_path(advisor, version)
    content = git.read_file_at("HEAD", path)
    if content is None:
        return None
    commit = git.git("log", "-1", "--format=%H", "--", path)
    if commit == git.read_head():
        git.repair_checkout(commit)
    return commit, release_record.read_record(content, advisor, version, path)


def _summarize_evaluation(
    built: BuiltAdapter, reason: str | None, params: Params
) -> dict[str, Any]:
    """Return verdict and gates for the record; raise ReleaseError if one fails without a reason."""
    content = read_json(built.evaluation)
    try:
        failed = list_release_faults(content, params.evaluate.gates)
        _ = content["comparisons"], content["photograph_groups"]  # the model card has them
        tuned, base = content["fine_tuned"], content["base"]
        figures = {
            "index": tuned["quality_index"],
            "base_index": base["quality_index"],
            "score_mae": tuned["score_mae"],
            "base_score_mae": base["score_mae"],
            "compliance": tuned["format_compliance"],
        }
    except (KeyError, TypeError, AttributeError):
        raise ReleaseError(
            f"{built.evaluation} has no verdict; evaluate again: dvc repro"
        ) from None
    if failed and not reason:
        first = (
            f"{built.evaluation}: {len(failed)} gates do not hold; train a better adapter, or say "
            'why it may be released anyway: --reason "…"'
        )
        raise ReleaseError("\n  ".join([first, *failed]))
    return {
        "verdict": headline_verdict(content),
        "photographs": choose_headline(content)[1]["photographs"],
        "figures": figures,
        "gates": headline_gates(content),
        "failed": tuple(failed),
    }


def _read_releases(versions: list[TaggedVersion], advisor: str) -> list[Release]:
    """Return the records of all versions, but not of tags made by hand."""
    releases = []
    for tag in versions:
        path = release_record.record_path(advisor, tag.version)
        content = git.read_file_at(tag.commit, path)
        if content is not None:
            with suppress(MondrianError):
                releases.append(release_record.read_record(content, advisor, tag.version, path))
    return releases


def _check_not_released(built: BuiltAdapter, releases: list[Release]) -> None:
    """Raise ReleaseError if the same bytes are a version already."""
    for record in releases:
        if set(record.files) == set(built.files):
            raise ReleaseError(
                f"{built.folder} is {record.tag} already, byte for byte; promote that: "
                f"mondrian promote {record.advisor} --version {record.version} --stage prod"
            )


def _build_record(
    built: BuiltAdapter, metrics: dict[str, Any], advisor: str, version: Version, reason: str | None
) -> Release:
    recipe, recipe_json = read_recipe(built.folder), read_json(built.folder / RECIPE_FILE)
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
                "schema_sha256": recipe_json["schema_sha256"],
                "data_sha256": recipe_json["data_sha256"],
                "image": recipe_json["image"],
                "evaluation": metrics,
                "calibration": read_calibration(built.evaluation, adapter_version(built.folder)),
                "commit": built.commit,
                "by": git.git("var", "GIT_AUTHOR_IDENT").rsplit(" ", 2)[0],
                "released_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "reason": reason,
            }
        )
    except (KeyError, ValueError) as error:
        raise ReleaseError(
            f"{built.folder / RECIPE_FILE} lacks what a release needs: {one_line(error, 200)}; "
            "train again"
        ) from None


def _commit_release(
    record: Release, releases: list[Release], built: BuiltAdapter, params: Params
) -> tuple[str, Release]:
    """Read test, write the model card and commit both; ReleaseError if test refuses."""
    record = _add_final_test(record, run_final_test(record, releases, params))
    results = AdapterResults(
        _read_evaluations(built), read_preference(built.evaluation.parent, record.adapter_version)
    )
    limit = params.evaluate.max_new_tokens
    card = render_model_card(record, results, built.folder, limit).encode()
    card_file = ReleaseFile(name=CARD_FILE, size=len(card), sha256=sha256(card).hexdigest())
    record = record.model_copy(update={"card": card_file})
    return _commit(record, card), record


def _add_final_test(record: Release, test: FinalTest | None) -> Release:
    """Return the record with what test said; a reason overrides that it is WORSE."""
    evaluation = record.evaluation
    if test is not None and test.verdict == "WORSE":
        fault = f"the final {describe_final_test(test)}"
        if record.reason is None:
            raise ReleaseError(
                f'{fault}; do not release this adapter, or say why it may be: --reason "…"'
            )
        failed = (*evaluation.failed, fault)
        evaluation = evaluation.model_copy(update={"failed": failed})
    return record.model_copy(update={"test": test, "evaluation": evaluation})


def _read_evaluations(built: BuiltAdapter) -> dict[str, dict[str, Any]]:
    """Return the evaluation on val, and the cross-validation if there was one."""
    evaluation = read_json(built.evaluation)
    crossvalidation = evaluation.get("crossvalidation")
    others = {CROSSVALIDATION: crossvalidation} if crossvalidation else {}
    return {VAL: evaluation, **others}


def _commit(record: Release, card: bytes) -> str:
    advisor, version = record.advisor, parse_version(record.version)
    files = {
        release_record.record_path(advisor, version): release_record.serialize_record(record),
        release_record.card_path(advisor, version): card,
    }
    text = (git.read_file_at("HEAD", DVC_YAML) or b"").decode()
    if (updated := add_artifact(text, advisor)) != text:
        files[DVC_YAML] = updated.encode()
    message = f"Release {advisor} {record.version}\n\n{_describe_release(record)}\n"
    return git.commit_files(record.commit, files, message)


def _tag(record: Release, commit: str, key: Path | None) -> None:
    """Tag the commit; the message binds the record to the tag, so that a signature covers it."""
    path = release_record.record_path(record.advisor, parse_version(record.version))
    content = git.read_file_at(commit, path)
    assert content is not None
    message = f"{_describe_release(record)}\n\n{format_record_line(content)}\n"
    tags.register(record.tag, commit, message, key)


def _describe_release(record: Release) -> str:
    evaluation, figures = record.evaluation, record.evaluation.figures
    text = f"{evaluation.verdict}, index {figures.index:.1f} (base {figures.base_index:.1f})"
    if record.test is not None:
        text += f", test {record.test.verdict}"
    if evaluation.failed:
        text += f"; released although {'; '.join(evaluation.failed)}: {record.reason}"
    return text


def add_artifact(text: str, advisor: str) -> str:
    """Return dvc.yaml with an entry of the advisor, by which `dvc artifacts get` finds versions.

    Everything else keeps its bytes. Raises ReleaseError if the entry cannot be added.
    """
    pipeline, path = _parse_pipeline(text)
    artifacts = pipeline.get("artifacts") or {}
    if advisor in artifacts:
        return text
    entry = (
        f"  {advisor}:\n    path: {path.replace('${item.advisor}', advisor)}\n    type: model\n"
        f"    desc: adapter that critiques as {advisor} does\n"
    )
    if match := _ARTIFACTS_KEY.search(text):
        before, after = text[: match.end()].removesuffix("\n"), text[match.end() :]
        updated = f"{before}\n{entry}{after}"
    else:
        heading = "# Versions: mondrian release (docs/releases.md).\nartifacts:\n"
        updated = f"{text.rstrip()}\n\n{heading}{entry}"
    updated_pipeline, _ = _parse_pipeline(updated)
    updated_artifacts = dict(updated_pipeline.pop("artifacts", None) or {})
    updated_artifacts.pop(advisor, None)
    pipeline.pop("artifacts", None)
    if (updated_pipeline, updated_artifacts) != (pipeline, artifacts):
        raise ReleaseError(
            f"{DVC_YAML}: artifacts is written in a form that cannot be extended; add {advisor} "
            "with path and type: model there, and commit"
        )
    return updated


def _parse_pipeline(text: str) -> tuple[dict[str, Any], str]:
    """Return the content of dvc.yaml and the adapter's path, the first output of stage train."""
    try:
        pipeline = dict(yaml.safe_load(text))
        first = pipeline["stages"]["train"]["outs"][0]
        return pipeline, str(next(iter(first)) if isinstance(first, dict) else first)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise ReleaseError(f"{DVC_YAML} has no stage train with an output; restore it") from None

"""A person's decision: the adapter that dvc repro built becomes a version, if it may.

One commit holds its record (and dvc.yaml, the first time), and GTO's tag names that commit. Killed
between the two, the same command again sets the tag.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mondrian.core.errors import MondrianError, ReleaseError
from mondrian.core.files import read_json
from mondrian.core.params import Params
from mondrian.evaluation.gates import failed
from mondrian.model.compatibility import adapter_version
from mondrian.model.provenance import RECIPE, read_recipe
from mondrian.registry import git, release_record, tags
from mondrian.registry.build_check import Built, look
from mondrian.registry.dvc_artifacts import FILE, with_artifact
from mondrian.registry.release_record import Release
from mondrian.registry.tags import Tagged
from mondrian.registry.version import Version, check_name, next_version, tag_of


@dataclass(frozen=True)
class Made:
    """What was released, and DVC's default remote, if there is one."""

    release: Release
    remote: str | None


def release(advisor: str, asked: str, because: str | None, params: Params) -> Made:
    """Make a version of the adapter that dvc repro built.

    because  releases it although gates fail, and is on record with them

    Raises ReleaseError that says what stands against it; then nothing is changed.
    """
    check_name(advisor)
    git.head()
    because = (because or "").strip() or None
    known = tags.tagged(advisor)
    version = next_version(advisor, asked, [one.version for one in known])
    begun = _begun(advisor, version)
    built = look(advisor, params)
    evaluation = _evaluation(built, because, params)
    _check_new(built, known, advisor)
    wanted = _record(built, evaluation, advisor, version, because)
    commit, made = begun or _commit(wanted)
    if not release_record.same_files(made.files, wanted.files):
        raise ReleaseError(
            f"a release of another adapter as {version} was stopped after its commit {commit[:8]}; "
            "give the next version"
        )
    tags.register(advisor, version, commit, _told(made))
    return Made(made, built.remote)


def _begun(advisor: str, version: Version) -> tuple[str, Release] | None:
    """The commit of a release that was killed before it set its tag."""
    path = release_record.record_path(advisor, version)
    content = git.show("HEAD", path)
    if content is None:
        return None
    commit = git.git("log", "-1", "--format=%H", "--", path)
    if commit == git.head():
        git.mend_checkout(commit)
    return commit, release_record.read_record(content, advisor, version, path)


def _evaluation(built: Built, because: str | None, params: Params) -> dict[str, Any]:
    """The verdict as it goes on record.

    Raises ReleaseError where a gate fails and nobody says why that is all right.
    """
    found = read_json(built.metrics)
    try:
        faults = failed(found, params.evaluate.gates)
        tuned, base = found["fine_tuned"], found["base"]
        figures = {
            "index": tuned["quality_index"], "base_index": base["quality_index"],
            "score_mae": tuned["score_mae"], "base_score_mae": base["score_mae"],
            "compliance": tuned["format_compliance"],
        }  # fmt: skip
    except (KeyError, TypeError, AttributeError):
        raise ReleaseError(f"{built.metrics} holds no verdict; evaluate again: dvc repro") from None
    if faults and not because:
        raise ReleaseError("\n  ".join([
            f"{built.metrics}: {len(faults)} gates do not hold; train a better one, or say "
            'why it may serve all the same: --because "…"', *faults,
        ]))  # fmt: skip
    return {
        "verdict": found["verdict"], "photographs": found["photographs"], "figures": figures,
        "gates": found["gates"], "failed": tuple(faults),
    }  # fmt: skip


def _check_new(built: Built, known: list[Tagged], advisor: str) -> None:
    """Raise ReleaseError where these very bytes are a version already."""
    for one in known:
        path = release_record.record_path(advisor, one.version)
        content = git.show(one.commit, path)
        if content is None:
            continue  # a tag that somebody made by hand
        try:
            found = release_record.read_record(content, advisor, one.version, path)
        except MondrianError:
            continue
        if release_record.same_files(found.files, built.files):
            raise ReleaseError(
                f"{built.folder} is {tag_of(advisor, one.version)} already, byte for byte; "
                f"promote that: mondrian promote {advisor} --version {one.version} --stage prod"
            )


def _record(
    built: Built, evaluation: dict[str, Any], advisor: str, version: Version, because: str | None
) -> Release:
    recipe, whole = read_recipe(built.folder), read_json(built.folder / RECIPE)
    if recipe.advisor != advisor:
        raise ReleaseError(f"{built.folder} is {recipe.advisor}'s, not {advisor}'s; dvc repro")
    try:
        return Release.model_validate(
            {
                "form": 1, "advisor": advisor, "version": str(version),
                "adapter_version": adapter_version(built.folder),
                "path": built.folder.as_posix(), "files": built.files,
                "base": recipe.base.model_dump(), "prompt_sha256": recipe.prompt_sha256,
                "schema_sha256": whole["schema_sha256"], "data_sha256": whole["data_sha256"],
                "image": whole["image"], "evaluation": evaluation, "commit": built.commit,
                "by": git.git("var", "GIT_AUTHOR_IDENT").rsplit(" ", 2)[0],
                "at": datetime.now(UTC).isoformat(timespec="seconds"), "because": because,
            }
        )  # fmt: skip
    except (KeyError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise ReleaseError(f"{built.folder / RECIPE} lacks what a release needs: {told}; "
                           "train again") from None  # fmt: skip


def _commit(wanted: Release) -> tuple[str, Release]:
    version = Version(*map(int, wanted.version[1:].split(".")))
    files = {release_record.record_path(wanted.advisor, version): release_record.written(wanted)}
    text = (git.show("HEAD", FILE) or b"").decode()
    if (told := with_artifact(text, wanted.advisor)) != text:
        files[FILE] = told.encode()
    message = f"Release {wanted.advisor} {wanted.version}\n\n{_told(wanted)}\n"
    return git.commit_files(wanted.commit, files, message), wanted


def _told(made: Release) -> str:
    found = made.evaluation
    told = f"{found.verdict}, index {found.figures.index:.1f} (base {found.figures.base_index:.1f})"
    if found.failed:
        told += f"; released although {'; '.join(found.failed)}: {made.because}"
    return told

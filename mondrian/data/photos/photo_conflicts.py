"""Find photos that rows claim from different folders: at least one of these claims is wrong."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from mondrian.core.errors import PhotoError
from mondrian.data.photos.photo_index import PhotoIndex
from mondrian.data.photos.stored_path import is_ending

Claim = tuple[Path, str]  # a photo, and the folders that a stored path takes for the source folder


def find_conflicts(
    index: PhotoIndex, filenames: Iterable[str], doubtful: Collection[Claim]
) -> dict[Claim, str]:
    """Return the doubtful claims that another one contradicts, each with a message that names it.

    filenames  of all rows, for any advisor
    doubtful   claims of the rows to check: their source folder is assumed, not known
    """
    paths = {path for path, _ in doubtful}
    filename_by_claim: dict[Path, dict[str, str]] = {}
    for filename in filenames if paths else ():
        with suppress(PhotoError):
            match = index.find(filename)
            if match.path in paths and match.assumed_source is not None:
                claims = filename_by_claim.setdefault(match.path, {})
                claims.setdefault(match.assumed_source, filename)
    conflicts = {}
    for path, assumed in doubtful:
        is_direct = path.parent == index.folder
        if other := _find_conflict(assumed, filename_by_claim.get(path, {}), is_direct):
            detail = f"{other!r:.200} of another row leads to {path} too, from another folder"
            conflicts[path, assumed] = detail
    return conflicts


def _find_conflict(assumed: str, filenames: Mapping[str, str], is_direct: bool) -> str | None:
    """Return the filename of a claim that contradicts this one.

    `pictures` and `/home/me/pictures` may be one folder. A row with the exact path of the file
    contradicts one with the same name only, but not one with the same sub-folder too.
    """
    for other, filename in filenames.items():
        shorter, longer = sorted((assumed, other), key=len)
        if not shorter:
            agree = not longer or not is_direct
        else:
            agree = is_ending(shorter.split("/"), longer.split("/"))
        if not agree:
            return filename
    return None

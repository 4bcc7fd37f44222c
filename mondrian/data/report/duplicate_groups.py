"""Groups of near-duplicate photos by the kind of their copies, for the data report."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from mondrian.data.manifest import Photo
from mondrian.data.photos.copy_kinds import SAME_BYTES

UNNAMED_KIND = "near-duplicate"
_GROUPS_PER_KIND = 3
_MAX_KINDS = 12


@dataclass
class PhotoFile:
    """A file of a group: how it differs from the first one, and all names it has."""

    kind: str  # empty for the first
    paths: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DuplicateGroup:
    is_used: bool  # at least one of its photos is in a pair
    files: tuple[PhotoFile, ...]

    @property
    def num_names(self) -> int:
        return sum(len(file.paths) for file in self.files)

    def count_kinds(self) -> Counter[str]:
        """Return how many copies of each kind the group has."""
        kinds = Counter(file.kind for file in self.files if file.kind)
        identical = self.num_names - len(self.files)
        return kinds + Counter({SAME_BYTES: identical})


@dataclass(frozen=True)
class KindOfCopy:
    name: str
    copies: int
    groups: int
    examples: list[DuplicateGroup]  # that have no rarer kind


class DuplicateGroups:
    """Collects the photos of records, used or left out."""

    def __init__(self) -> None:
        self._photos: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        self._used: set[str] = set()

    def add(self, photo: Photo, is_used: bool) -> None:
        self._photos[photo.group].setdefault(photo.path, (photo.sha256, photo.copy_kind))
        if is_used:
            self._used.add(photo.group)

    def find_groups(self) -> list[DuplicateGroup]:
        """Return the groups with more than one name, the largest first."""
        names = [name for name, photos in self._photos.items() if len(photos) > 1]
        names.sort(key=lambda name: (-len(self._photos[name]), name))
        return [self._build_group(name) for name in names]

    def _build_group(self, name: str) -> DuplicateGroup:
        files: dict[str, PhotoFile] = {}
        for path, (sha256, stored_kind) in self._photos[name].items():
            # Another name of the first file is no copy of a kind of its own.
            kind = stored_kind if stored_kind != SAME_BYTES else ""
            is_first = not kind and all(file.kind for file in files.values())
            default = PhotoFile(kind or ("" if is_first else UNNAMED_KIND))
            files.setdefault(sha256, default).paths.append(path)
        ordered = sorted(files.values(), key=lambda file: file.kind != "")
        return DuplicateGroup(name in self._used, tuple(ordered))


def list_kinds(groups: Iterable[DuplicateGroup]) -> list[KindOfCopy]:
    """Return the kinds of copies, the most frequent first, with groups as examples."""
    copies: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    kinds_of_group = [(group, group.count_kinds()) for group in groups]
    for _, kinds in kinds_of_group:
        copies.update(kinds)
        sizes.update(kinds.keys())
    examples: dict[str, list[DuplicateGroup]] = defaultdict(list)
    for group, kinds in kinds_of_group:
        rarest = min(kinds, key=lambda kind: (copies[kind], kind))
        if len(examples[rarest]) < _GROUPS_PER_KIND:
            examples[rarest].append(group)
    order = sorted(copies, key=lambda kind: (-copies[kind], kind))[:_MAX_KINDS]
    return [KindOfCopy(kind, copies[kind], sizes[kind], examples[kind]) for kind in order]

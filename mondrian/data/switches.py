"""The pairs that other settings of `link` would add, counted exactly from the left-out records."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from mondrian.core.params import LinkParams
from mondrian.data.manifest import ManifestRecord, RejectedJob
from mondrian.data.quality_flags import FLAGS, find_excluding_flags

_MAX_COLUMNS = 100  # of a printed line
_MAX_LINES = 2
# Settings that also accept jobs whose photo or text was not examined: some of them will fail then.
_UNEXAMINED = {"thumbnails": "use", "include_served": "reviewed", "unscored": "text_only"}
_SETTING = re.compile(r"\blink\.(\w+)")


@dataclass(frozen=True)
class Switch:
    """A setting of `link`, and the pairs that its values add; each of `values` adds as many."""

    name: str
    values: tuple[str, ...]
    alone: int  # if nothing else is changed
    combined: int  # if all other switches are on

    @property
    def label(self) -> str:
        return f"{self.name}: {' or '.join(self.values)}"


@dataclass(frozen=True)
class SwitchCounts:
    switches: Sequence[Switch]  # that add a pair, alone or combined; the largest first
    together: int  # pairs that all of them add
    up_to: dict[str, int]  # jobs that were not examined because of a setting, by `name: value`


class SwitchCounter:
    """Collects the records that link left out, then those that it used, and counts."""

    def __init__(self, params: LinkParams) -> None:
        self._params = params
        # Link uses one record of each text about each photo.
        self._pairs: dict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)  # by flags
        self._unexamined: Counter[str] = Counter()

    def add_rejected(self, job: RejectedJob) -> None:
        if job.reason in FLAGS:
            return
        for name in set(_SETTING.findall(job.detail)) & _UNEXAMINED.keys():
            self._unexamined[f"{name}: {_UNEXAMINED[name]}"] += 1

    def add_left_out(self, record: ManifestRecord) -> None:
        if record.reason in FLAGS:
            self._pairs[record.suspicions].add((record.photo.group, record.words))

    def add_used(self, record: ManifestRecord) -> None:
        """Discount left-out records that would be duplicates of this one; call it last."""
        for pairs in self._pairs.values():
            pairs.discard((record.photo.group, record.words))

    def count(self) -> SwitchCounts:
        changes = list_switches(self._params)
        everything = self._params.model_copy(update=dict(changes))
        total = self._count_pairs(everything)
        merged: dict[tuple[str, int, int], list[str]] = defaultdict(list)
        for name, value in changes:
            alone = self._count_pairs(self._params.model_copy(update={name: value}))
            others = everything.model_copy(update={name: getattr(self._params, name)})
            same_value = everything.model_copy(update={name: value})
            combined = self._count_pairs(same_value) - self._count_pairs(others)
            if alone or combined:
                merged[name, alone, combined].append(value)
        switches = [Switch(key[0], tuple(values), *key[1:]) for key, values in merged.items()]
        switches.sort(key=lambda switch: (-switch.alone, -switch.combined))
        return SwitchCounts(switches, total, dict(sorted(self._unexamined.items())))

    def _count_pairs(self, params: LinkParams) -> int:
        """Return the number of pairs that these params would add to those of the manifest."""
        usable = [p for flags, p in self._pairs.items() if not find_excluding_flags(flags, params)]
        return len(set().union(*usable))


def allowing_values(name: str) -> list[str]:
    """Return the values of a flag's setting that use its records, the most careful one first."""
    values = get_args(LinkParams.model_fields[name].annotation)
    return sorted(set(values) - {"leave_out"}, key=("text_only", "keep").index)


def list_switches(params: LinkParams) -> list[tuple[str, str]]:
    """Return each flag's setting that leaves records out, with each other value of it."""
    names = [name for name in FLAGS if getattr(params, name) == "leave_out"]
    return [(name, value) for name in names for value in allowing_values(name)]


def format_switches(counts: SwitchCounts) -> list[str]:
    """Return at most two lines of 100 columns on what the settings would add."""
    items = [f"{switch.label} +{switch.alone}" for switch in counts.switches if switch.alone]
    items += [f"{label} up to +{count}" for label, count in counts.up_to.items()]
    last = f"together +{counts.together}" if len(counts.switches) > 1 else ""
    if not items and not last:
        return []
    for num_cut in range(len(items) + 1):
        shown = items[: len(items) - num_cut]
        more = [f"{num_cut} more in the report"] if num_cut else []
        lines = _wrap_items([*shown, *more, *filter(None, [last])])
        if len(lines) <= _MAX_LINES:
            break
    return lines


def _wrap_items(items: Iterable[str]) -> list[str]:
    lines = ["  pairs that link in params.yaml could add:"]
    for item in items:
        separator = " " if lines[-1].endswith(":") else " · "
        if len(lines[-1] + separator + item) > _MAX_COLUMNS:
            lines.append("    " + item)
        else:
            lines[-1] += separator + item
    return lines

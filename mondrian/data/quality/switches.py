"""The pairs that other settings of `link` would add, counted exactly from the left-out records."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from mondrian.core.params import LinkParams
from mondrian.core.terminal import LINE_WIDTH
from mondrian.data.manifest import ManifestRecord, RejectedJob
from mondrian.data.quality.quality_flags import FLAGS, find_excluding_flags

# Settings that also accept jobs whose photo or text was not examined: some of them will fail then.
_UNEXAMINED = {"thumbnails": "use", "include_served": "reviewed"}
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
    """Return at most one line: values of `link` to set, and the pairs that they would add.

    Of a setting the line has the value that adds most, of equal ones the most careful. A setting
    that adds pairs only with others is not named next to settings that add some alone.
    """
    names = dict.fromkeys(switch.name for switch in counts.switches)
    values: dict[str, str] = {}
    for switch in counts.switches:  # the largest first
        if switch.alone:
            values.setdefault(switch.name, f"{switch.values[0]} +{switch.alone}")
    if values:
        items = [f"{name}: {value}" for name, value in values.items()]
        what = "all" if names.keys() == values.keys() else "every setting"
        end = f"; {what} +{counts.together}" if len(names) > 1 else ""
        return [_fit_line("  more pairs if params.yaml has link.", items, end)]
    if not counts.together:
        return []
    start = f"  {counts.together} more pairs only by several settings: link."
    return [_fit_line(start, list(names), "")]


def _fit_line(start: str, items: Sequence[str], end: str) -> str:
    """Join the first items that fit, and say how many more there are."""
    for count in range(len(items), -1, -1):
        more = [f"{len(items) - count} more"] if count < len(items) else []
        line = f"{start}{' · '.join([*items[:count], *more])}{end}"
        if len(line) <= LINE_WIDTH:
            break
    return line

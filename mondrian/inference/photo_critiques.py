"""Critique the photos of a listing, except those that were critiqued before."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mondrian.core.errors import PhotoError, one_line
from mondrian.core.parallel import split_into_batches
from mondrian.core.params import ImageParams
from mondrian.core.terminal import progress_bar
from mondrian.critique.schema import validate_critique
from mondrian.inference.critic import Arm, Critic, CritiqueRequest
from mondrian.inference.critique_log import CritiqueLog, CritiqueRecord
from mondrian.inference.photo_files import PhotoFile, PhotoListing, SkippedFile
from mondrian.inference.photo_reader import PreviewFolder, decode_ahead

_MAX_EXAMPLES = 10  # skipped files in a message
_USUAL = ("sidecar", "system_file")  # reasons of which a message shows only the number


@dataclass(frozen=True)
class CritiquedPhoto:
    """A photo with the critique of each arm, that of the adapter first."""

    file: PhotoFile
    records: tuple[CritiqueRecord, ...]

    @property
    def overall_score(self) -> float:
        return self.records[0].critique.overall_score


class PhotoCritiques:
    """The critiques of a listing's photos by one model.

    `photos` are those that all arms have critiqued, in the listing's order.
    """

    def __init__(self, critic: Critic, advisor: str, listing: PhotoListing) -> None:
        self.critic, self.advisor, self.listing = critic, advisor, listing
        self.photos: list[CritiquedPhoto] = []
        self.num_new = 0  # critiques that were generated now

    def run(self, log: CritiqueLog, previews: PreviewFolder, image_params: ImageParams) -> None:
        """Generate what is missing in the log; raises DataError if no photo is critiqued."""
        missing = self._find_missing(log)
        num_missing = sum(map(len, missing.values()))
        total = len(self._first_files()) * len(self.critic.arms)
        bar = progress_bar(total=total, initial=total - num_missing, unit="critique")
        with bar:
            requests = self._decode(missing, previews, image_params)
            for chunk in split_into_batches(requests, self.critic.chunk_size):
                for photo, arm, text in self.critic.critique(chunk):
                    self._add(log, photo, arm, text)
                    bar.update()
        self._collect(log)

    def _first_files(self) -> dict[str, PhotoFile]:
        """Return the first file of each content, by sha256."""
        first: dict[str, PhotoFile] = {}
        for photo in self.listing.photos:
            first.setdefault(photo.sha256, photo)
        return first

    def _find_missing(self, log: CritiqueLog) -> dict[PhotoFile, tuple[Arm, ...]]:
        """Return the arms to ask by photo; of files with the same content the first is asked."""
        arms = {
            photo: tuple(a for a in self.critic.arms if (sha256, a.settings) not in log.records)
            for sha256, photo in self._first_files().items()
        }
        return {photo: missing for photo, missing in arms.items() if missing}

    def _decode(
        self,
        missing: dict[PhotoFile, tuple[Arm, ...]],
        previews: PreviewFolder,
        image_params: ImageParams,
    ) -> Iterator[CritiqueRequest]:
        """Yield requests; photos that cannot be decoded are skipped."""
        for photo, image in decode_ahead(list(missing), previews, image_params):
            if isinstance(image, PhotoError):
                self._skip(photo, image.reason, one_line(image))
            else:
                yield CritiqueRequest(photo, image, missing[photo])

    def _skip(self, photo: PhotoFile, reason: str, detail: str) -> None:
        """Skip all files with the content of a photo."""
        skipped = {file.name for file in self.listing.skipped}
        for other in self.listing.photos:
            if other.sha256 == photo.sha256 and other.name not in skipped:
                self.listing.skip(other.path, reason, detail)

    def _add(self, log: CritiqueLog, photo: PhotoFile, arm: Arm, text: str) -> None:
        try:
            critique = validate_critique(text)
        except ValueError as error:
            self._skip(photo, "invalid_critique", f"{arm.name}: {one_line(error, 160)}")
            return
        record = CritiqueRecord(
            photo=photo.name,
            sha256=photo.sha256,
            advisor=self.advisor,
            arm=arm.name,
            base=self.critic.vlm.hash,
            adapter=arm.adapter,
            settings=arm.settings,
            critique=critique,
        )
        log.add(record.recalibrate(arm.calibration))
        self.num_new += 1

    def _collect(self, log: CritiqueLog) -> None:
        """Gather the records of each photo, and order the log."""
        for photo in self.listing.photos:
            arms = self.critic.arms
            by_arm = [log.records.get((photo.sha256, arm.settings)) for arm in arms]
            records = [record for record in by_arm if record]
            if len(records) == len(arms):
                pairs = zip(records, arms, strict=True)
                calibrated = tuple(r.recalibrate(arm.calibration) for r, arm in pairs)
                self.photos.append(CritiquedPhoto(photo, calibrated))
        if not self.photos:
            raise self.listing.explain_nothing()
        first = self._first_files()
        log.rewrite(
            record.model_copy(update={"photo": photo.file.name})
            for photo in self.photos
            if photo.file is first[photo.file.sha256]
            for record in photo.records
        )


def describe_skipped(
    skipped: Sequence[SkippedFile], full_list: str = "in critiques.csv"
) -> list[str]:
    """Return the counts by reason and the first names, as lines; none without skipped files."""
    if not skipped:
        return []
    counts = Counter(file.reason for file in skipped)
    by_reason = " · ".join(f"{reason} {count}" for reason, count in counts.most_common())
    lines = [f"skipped {len(skipped)}: {by_reason}"]
    examples = [file for file in skipped if file.reason not in _USUAL][:_MAX_EXAMPLES]
    lines += [f"  {f.name}: {f.describe()}" for f in examples]
    if number := len(skipped) - len(examples):
        lines.append(f"  {f'and {number} more,' if examples else 'all'} {full_list}")
    return lines

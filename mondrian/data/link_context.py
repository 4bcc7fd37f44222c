"""Whose critiques link reads, from which folders, and by which settings."""

from dataclasses import dataclass
from functools import cached_property

from mondrian.core.params import LinkParams
from mondrian.data.critique_lookup import ApplicationFolders
from mondrian.data.photos.photo_index import PhotoIndex


@dataclass(frozen=True)
class LinkContext:
    advisor: str
    folders: ApplicationFolders
    params: LinkParams

    @cached_property
    def photo_index(self) -> PhotoIndex:
        return PhotoIndex(self.folders.source, self.params.thumbnails == "use")

"""Names of photos on pages: cameras repeat IMG_0001.JPG in each folder, so folders are shown."""

from os.path import commonpath, dirname


class PhotoNames:
    """Shortens paths to their part below the folder that all of them are in."""

    def __init__(self) -> None:
        self._folder: str | None = None

    def add(self, path: str) -> None:
        folder = dirname(path)
        self._folder = folder if self._folder is None else commonpath((self._folder, folder))

    def shorten(self, path: str) -> str:
        return path.removeprefix(self._folder or "").lstrip("/")

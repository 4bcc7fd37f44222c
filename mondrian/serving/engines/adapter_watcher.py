"""Adapters on the disk: found below --lora_path, and looked at again while the service runs."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from mondrian.core.adapter_folder import CONFIG, RECIPE, REQUIRED_FILES, WEIGHTS
from mondrian.core.errors import AdapterError
from mondrian.core.params import Params
from mondrian.critique.prompt import prompt_hash
from mondrian.serving.engines.base import Adapter, ModelDied
from mondrian.serving.engines.ipc import LoadAdapterRequest
from mondrian.serving.engines.local import LocalEngine

SCAN_INTERVAL = 0.25  # seconds between two looks
log = logging.getLogger("mondrian.adapters")
Stamp = tuple[tuple[int, int, int], ...]  # inode, size and time of each file


def find_adapters(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Adapter folders by advisor: the folder itself, those in it, and their `current`; faults.

    Raises AdapterError where there is none that could serve.
    """
    if not path.exists():
        raise AdapterError(f"--lora_path {path} does not exist; train (dvc repro) or mondrian pull")
    if (path / RECIPE).is_file():
        folders = [path]
    else:
        inside = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
        folders = [
            p for child in inside for p in (child, child / "current") if (p / RECIPE).is_file()
        ]
    # Where a link leads: it may be switched while the files of a folder are read.
    folders = [folder.resolve() for folder in folders]
    if not folders:
        raise AdapterError(
            f"--lora_path {path} holds no adapter ({RECIPE}, {CONFIG}, "
            f"{WEIGHTS}) and no "
            "folder of one; train one (dvc repro), or fetch one (mondrian pull)"
        )
    folder_by_advisor: dict[str, Path] = {}
    faults = []
    for folder in folders:
        try:
            advisor = _read_advisor(folder)
        except AdapterError as error:
            faults.append(str(error))
            continue
        if advisor in folder_by_advisor:
            faults.append(
                f"{folder_by_advisor[advisor]} and {folder} are both {advisor}'s: the first serves"
            )
            continue
        folder_by_advisor[advisor] = folder
    if not folder_by_advisor:
        raise AdapterError(f"--lora_path {path}: {faults[0]}")
    return folder_by_advisor, faults


def _read_advisor(folder: Path) -> str:
    try:
        advisor = json.loads((folder / RECIPE).read_bytes())["advisor"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise AdapterError(f"{folder / RECIPE} is damaged; train again or copy again") from None
    if not isinstance(advisor, str):
        raise AdapterError(f"{folder / RECIPE}: advisor is {advisor!r}, no name")
    return advisor


def _stamp(folder: Path) -> Stamp:
    stats = [(folder / name).stat() for name in REQUIRED_FILES if (folder / name).is_file()]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class AdapterWatcher:
    """Keeps the adapters of an engine as they are on the disk.

    merge  put each into weights of its own, where that is possible
    """

    def __init__(self, engine: LocalEngine, path: Path, params: Params, merge: bool) -> None:
        self.engine, self.path, self.params, self.merge = engine, path, params, merge
        self.fault = ""  # why the folder as a whole could not be read
        self._known: dict[str, tuple[Path, Stamp]] = {}

    async def scan(self) -> None:
        """Adopt what is new or changed, drop what is gone; what cannot be loaded changes nothing.

        A folder that just cannot be read (half copied, unmounted) takes no adapter away.
        """
        try:
            folder_by_advisor, faults = await asyncio.to_thread(find_adapters, self.path)
        except (AdapterError, OSError) as error:
            if self.path.is_dir() and not any(self._holds(f) for f, _ in self._known.values()):
                folder_by_advisor = {}
            else:
                self._log_fault(str(error))
                return
        else:
            self._log_fault("; ".join(faults))
        for name in set(self._known) - set(folder_by_advisor):
            if self._holds(self._known[name][0]):
                continue  # it is damaged now: what was loaded serves on
            log.info("adapter of %s was taken away: %s", name, self._known[name][0])
            del self._known[name]
            self.engine.unload_adapter(name)
        for name, folder in folder_by_advisor.items():
            stamp = await asyncio.to_thread(_stamp, folder)
            if self._known.get(name) != (folder, stamp):
                self._known[name] = (folder, stamp)
                await self._load_or_reject(name, folder)

    async def _load_or_reject(self, name: str, folder: Path) -> None:
        if name not in self.params.advisors:
            known = ", ".join(self.params.advisors)
            fault = f"{folder} is {name}'s, who is no advisor of params.yaml ({known})"
            self.engine.state.adapters[name] = Adapter(name, str(folder), "", fault=fault)
            log.error("adapter refused: %s", fault)
            return
        await self.load_adapter(name, name, folder)

    async def load_adapter(self, advisor: str, name: str, folder: Path) -> Adapter | None:
        """Load an advisor's adapter under a name; None where the model process died under it."""
        image = self.params.image
        size = {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
        prompt = prompt_hash(self.params.persona(advisor))
        request = LoadAdapterRequest(name, str(folder), self.merge, prompt, size, advisor)
        try:
            return await self.engine.load_or_replace_adapter(request)
        except ModelDied:
            return None  # the next process loads it first

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(SCAN_INTERVAL)
            try:
                await self.scan()
            except OSError as error:  # a disk that is away for a while
                self._log_fault(str(error))

    def _log_fault(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.error("%s", fault)
        self.fault = fault

    def _holds(self, folder: Path) -> bool:
        return (folder / RECIPE).is_file()

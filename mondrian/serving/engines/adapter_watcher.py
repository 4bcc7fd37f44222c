"""Adapters on the disk: found below --lora_path, and looked at again while the service runs."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

from mondrian.core.errors import AdapterError
from mondrian.core.params import Params
from mondrian.critique.prompt import prompt_hash
from mondrian.serving.engines.base import Adapter, ModelDied
from mondrian.serving.engines.ipc import Adopt
from mondrian.serving.engines.local import LocalEngine

FILES = ("recipe.json", "adapter_config.json", "adapter_model.safetensors")
EVERY = 0.25  # seconds between two looks
log = logging.getLogger("mondrian.adapters")
Stamp = tuple[tuple[int, int, int], ...]  # inode, size and time of each file


def find(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Adapter folders by advisor: the folder itself, those in it, and their `current`; faults.

    Raises AdapterError where there is none that could serve.
    """
    if not path.exists():
        raise AdapterError(f"--lora_path {path} does not exist; train (dvc repro) or mondrian pull")
    if (path / FILES[0]).is_file():
        folders = [path]
    else:
        inside = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
        folders = [p for one in inside for p in (one, one / "current") if (p / FILES[0]).is_file()]
    # Where a link leads: it may be switched while the files of a folder are read.
    folders = [folder.resolve() for folder in folders]
    if not folders:
        raise AdapterError(
            f"--lora_path {path} holds no adapter ({FILES[0]}, {FILES[1]}, {FILES[2]}) and no "
            "folder of one; train one (dvc repro), or fetch one (mondrian pull)"
        )
    found: dict[str, Path] = {}
    faults = []
    for folder in folders:
        try:
            advisor = _advisor(folder)
        except AdapterError as error:
            faults.append(str(error))
            continue
        if advisor in found:
            faults.append(f"{found[advisor]} and {folder} are both {advisor}'s: the first serves")
            continue
        found[advisor] = folder
    if not found:
        raise AdapterError(f"--lora_path {path}: {faults[0]}")
    return found, faults


def _advisor(folder: Path) -> str:
    try:
        advisor = json.loads((folder / FILES[0]).read_bytes())["advisor"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise AdapterError(f"{folder / FILES[0]} is damaged; train again or copy again") from None
    if not isinstance(advisor, str):
        raise AdapterError(f"{folder / FILES[0]}: advisor is {advisor!r}, no name")
    return advisor


def _stamp(folder: Path) -> Stamp:
    stats = [(folder / name).stat() for name in FILES if (folder / name).is_file()]
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class Watch:
    """Keeps the adapters of an engine as they are on the disk.

    merge  put each into weights of its own, where that is possible
    """

    def __init__(self, engine: LocalEngine, path: Path, params: Params, merge: bool) -> None:
        self.engine, self.path, self.params, self.merge = engine, path, params, merge
        self.fault = ""  # why the folder as a whole could not be read
        self._known: dict[str, tuple[Path, Stamp]] = {}

    async def look(self) -> None:
        """Adopt what is new or changed, drop what is gone; what cannot be loaded changes nothing.

        A folder that just cannot be read (half copied, unmounted) takes no adapter away.
        """
        try:
            found, faults = await asyncio.to_thread(find, self.path)
        except (AdapterError, OSError) as error:
            if self.path.is_dir() and not any(self._holds(f) for f, _ in self._known.values()):
                found = {}
            else:
                self._say(str(error))
                return
        else:
            self._say("; ".join(faults))
        for name in set(self._known) - set(found):
            if self._holds(self._known[name][0]):
                continue  # it is damaged now: what was loaded serves on
            log.info("adapter of %s was taken away: %s", name, self._known[name][0])
            del self._known[name]
            self.engine.drop(name)
        for name, folder in found.items():
            stamp = await asyncio.to_thread(_stamp, folder)
            if self._known.get(name) != (folder, stamp):
                self._known[name] = (folder, stamp)
                await self._adopt(name, folder)

    async def _adopt(self, name: str, folder: Path) -> None:
        if name not in self.params.advisors:
            known = ", ".join(self.params.advisors)
            fault = f"{folder} is {name}'s, who is no advisor of params.yaml ({known})"
            self.engine.state.adapters[name] = Adapter(name, str(folder), "", fault=fault)
            log.error("adapter refused: %s", fault)
            return
        await self.adopt(name, name, folder)

    async def adopt(self, advisor: str, name: str, folder: Path) -> Adapter | None:
        """Load an advisor's adapter under a name; None where the model process died under it."""
        image = self.params.image
        size = {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
        prompt = prompt_hash(self.params.persona(advisor))
        asked = Adopt(name, str(folder), self.merge, prompt, size, advisor)
        try:
            return await self.engine.adopt(asked)
        except ModelDied:
            return None  # the next process loads it first

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                await self.look()
            except OSError as error:  # a disk that is away for a while
                self._say(str(error))

    def _say(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.error("%s", fault)
        self.fault = fault

    def _holds(self, folder: Path) -> bool:
        return (folder / FILES[0]).is_file()

"""Adapters on disk: found in --lora_path, and scanned again while the service runs."""

import asyncio
import json
import logging
from pathlib import Path

from mondrian.core.adapter_folder import CONFIG_FILE, RECIPE_FILE, REQUIRED_FILES, WEIGHTS_FILE
from mondrian.core.errors import AdapterError, one_line
from mondrian.core.files import suggest_path
from mondrian.core.params import Params
from mondrian.critique.prompt import prompt_hash
from mondrian.registry.adapter_calibration import build_calibration_finder, find_calibration
from mondrian.serving.engines.base import Adapter, ModelDied
from mondrian.serving.engines.ipc import LoadAdapterRequest
from mondrian.serving.engines.local import LocalEngine

SCAN_INTERVAL = 0.25  # seconds
log = logging.getLogger("mondrian.adapters")
FolderStamp = list[tuple[int, int, int]]  # inode, size and modification time of each file


def find_adapters(path: Path) -> tuple[dict[str, Path], list[str]]:
    """Return the adapter folder of each advisor, and what is wrong with other folders.

    Searches the folder itself, or its subfolders and their `current` links. Raises AdapterError if
    no adapter can be loaded.
    """
    if not path.exists():
        hint = suggest_path(path) or "; train (dvc repro) or mondrian pull"
        raise AdapterError(f"--lora_path {path} does not exist{hint}")
    candidates = [path]
    if not _has_recipe(path):
        children = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
        candidates = [p for child in children for p in (child, child / "current")]
    # Resolved, as `current` may be switched while the files of a folder are read.
    folders = [folder.resolve() for folder in candidates if _has_recipe(folder)]
    if not folders:
        foreign = next((f for f in (path, *candidates) if (f / CONFIG_FILE).is_file()), None)
        if foreign:
            raise AdapterError(
                f"--lora_path {path}: {foreign} has no {RECIPE_FILE}; "
                "mondrian import-adapter writes one for an adapter that was trained elsewhere"
            )
        raise AdapterError(
            f"--lora_path {path} holds no adapter ({RECIPE_FILE}, {CONFIG_FILE}, {WEIGHTS_FILE}) "
            "and no folder of one; train one (dvc repro), or fetch one (mondrian pull)"
        )
    folder_by_advisor: dict[str, Path] = {}
    faults = []
    for folder in folders:
        try:
            advisor = _read_advisor(folder)
        except AdapterError as error:
            faults.append(str(error))
            continue
        first = folder_by_advisor.setdefault(advisor, folder)
        if first is not folder:
            faults.append(f"{first} and {folder} are both {advisor}'s: the first serves")
    if not folder_by_advisor:
        raise AdapterError(f"--lora_path {path}: {faults[0]}")
    return folder_by_advisor, faults


def _has_recipe(folder: Path) -> bool:
    return (folder / RECIPE_FILE).is_file()


def _read_advisor(folder: Path) -> str:
    file = folder / RECIPE_FILE
    try:
        recipe = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error, 160)
        raise AdapterError(f"{file} cannot be read: {reason}; train again or copy again") from None
    advisor = recipe.get("advisor") if isinstance(recipe, dict) else None
    if not isinstance(advisor, str):
        raise AdapterError(f"{file}: advisor is {advisor!r:.80}; it must be a name")
    return advisor


def _stamp(folder: Path, calibration_file: Path | None) -> FolderStamp:
    files = [folder / name for name in REQUIRED_FILES]
    files += [calibration_file] if calibration_file else []
    stats = [file.stat() for file in files if file.is_file()]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]


class AdapterWatcher:
    """Loads the adapters on disk into an engine, and follows their changes."""

    def __init__(self, engine: LocalEngine, path: Path, params: Params, merge: bool) -> None:
        self.engine, self.path, self.params, self.merge = engine, path, params, merge
        self.fault = ""  # why the folder as a whole could not be read
        self._find_calibration_file = build_calibration_finder(params)
        self._loaded: dict[str, tuple[Path, FolderStamp]] = {}

    async def scan(self) -> None:
        """Load adapters that are new or changed, and unload those that were deleted.

        A folder that cannot be read now (half copied, unmounted) unloads nothing.
        """
        try:
            folder_by_advisor, faults = await asyncio.to_thread(find_adapters, self.path)
        except (AdapterError, OSError) as error:
            if not self.path.is_dir() or any(_has_recipe(f) for f, _ in self._loaded.values()):
                self._log_fault(str(error))
                return
            folder_by_advisor = {}
        else:
            self._log_fault("; ".join(faults))
        for name in set(self._loaded) - set(folder_by_advisor):
            folder = self._loaded[name][0]
            if not _has_recipe(folder):  # else damaged: the loaded weights continue to serve
                log.info("adapter of %s was removed: %s", name, folder)
                del self._loaded[name]
                self.engine.unload_adapter(name)
        for name, folder in folder_by_advisor.items():
            calibration_file = self._find_calibration_file(folder)
            stamp = await asyncio.to_thread(_stamp, folder, calibration_file)
            if self._loaded.get(name) != (folder, stamp):
                self._loaded[name] = (folder, stamp)
                if name in self.params.advisors:
                    await self.load_adapter(name, name, folder)
                    continue
                known = ", ".join(self.params.advisors)
                fault = f"{folder} is {name}'s, who is not an advisor of params.yaml ({known})"
                self.engine.state.adapters[name] = Adapter(name, str(folder), "", fault=fault)
                log.error("adapter rejected: %s", fault)

    async def load_adapter(self, advisor: str, name: str, folder: Path) -> Adapter | None:
        """Load an advisor's adapter under a name; return None if the model process ended."""
        image = self.params.image
        image_size = {"min_pixels": image.min_pixels, "max_pixels": image.max_pixels}
        prompt = prompt_hash(self.params.persona(advisor))
        calibration = await asyncio.to_thread(find_calibration, folder, self._find_calibration_file)
        request = LoadAdapterRequest(
            name, str(folder), self.merge, prompt, image_size, advisor, calibration
        )
        try:
            return await self.engine.load_or_replace_adapter(request)
        except ModelDied:
            return None  # the next process loads it first

    async def run(self) -> None:
        while True:
            await asyncio.sleep(SCAN_INTERVAL)
            try:
                await self.scan()
            except OSError as error:  # a disk that is unmounted for a while
                self._log_fault(str(error))

    def _log_fault(self, fault: str) -> None:
        if fault and fault != self.fault:
            log.error("%s", fault)
        self.fault = fault

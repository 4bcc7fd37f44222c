"""Carry an environment to a machine without a network, in parts of limited size.

carry_wheels.py download FOLDER --python 3.12 --skip torch numpy … -- LOCK…
carry_wheels.py install --target FOLDER PART…

download  fetch the wheels of lock files for Linux on x86-64 into FOLDER/part-1, part-2, …; a wheel
          larger than a part is cut. --skip names what the other machine has. With a lock of CUDA,
          mlx-cpu is left out: both hold the same libmlx.so.
install   join the parts and install them into a folder for PYTHONPATH, with pip and no index

Needs only Python's standard library and pip.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

PLATFORMS = ("manylinux1_x86_64", "manylinux2014_x86_64", "linux_x86_64") + tuple(
    f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)
)
MIB = 2**20
_PIECE = re.compile(r"(.+\.whl)\.\d{3}$")


def filter_lock(text: str, skip: Collection[str]) -> str:
    """Return a lock without the requirements of some names, which go over several lines."""
    names = {normalize(name) for name in skip}
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    return "".join(block for block in blocks if normalize(_name(block)) not in names)


def _name(block: str) -> str:
    return re.split(r"[=\s;\[]", block, maxsplit=1)[0]


def normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def download(folder: Path, locks: Sequence[Path], skip: Collection[str], python: str) -> None:
    """Fetch wheels with pip, which checks the hashes of the locks."""
    if any("cuda" in lock.name for lock in locks):
        skip = {*skip, "mlx-cpu"}
    texts = [lock.read_text() for lock in locks]
    folder.mkdir(parents=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(filter_lock(text, skip) for text in texts))
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--implementation", "cp", "--python-version", python]
    command += [*platforms, "--dest", str(folder / "all"), "--requirement", str(requirements)]
    if subprocess.run(command).returncode:
        shutil.rmtree(folder)
        raise SystemExit("error: pip failed; --skip what has no wheel (it then is not carried)")


def split(wheels: Sequence[Path], folder: Path, part_bytes: int) -> list[Path]:
    """Move wheels into folders of at most part_bytes each; return them."""
    parts: list[Path] = []
    free = 0
    for wheel in sorted(wheels, key=lambda path: -path.stat().st_size):
        for name, content in _cut(wheel, part_bytes):
            if len(content) > free:
                parts.append(folder / f"part-{len(parts) + 1}")
                parts[-1].mkdir()
                free = part_bytes
            (parts[-1] / name).write_bytes(content)
            free -= len(content)
        wheel.unlink()
    return parts


def _cut(wheel: Path, part_bytes: int) -> Iterator[tuple[str, bytes]]:
    content = wheel.read_bytes()
    if len(content) <= part_bytes:
        yield wheel.name, content
        return
    for i, start in enumerate(range(0, len(content), part_bytes)):
        yield f"{wheel.name}.{i:03}", content[start : start + part_bytes]


def join(parts: Sequence[Path], folder: Path) -> list[Path]:
    """Copy the wheels of parts into a folder, cut ones put together; return them."""
    files = [file for part in parts for file in part.iterdir() if ".whl" in file.name]
    for file in sorted(files, key=lambda path: path.name):
        piece = _PIECE.match(file.name)
        with (folder / (piece[1] if piece else file.name)).open("ab") as wheel:
            wheel.write(file.read_bytes())
    return sorted(folder.glob("*.whl"))


def install(parts: Sequence[Path], target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wheels = join(parts, Path(folder))
        if not wheels:
            raise SystemExit(f"error: no wheel in {', '.join(map(str, parts))}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        if subprocess.run([*command, "--target", str(target), *map(str, wheels)]).returncode:
            raise SystemExit(f"error: pip failed to install {len(wheels)} wheels")
    sys.stdout.write(f"installed {len(wheels)} wheels; export PYTHONPATH={target}\n")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Carry wheels to a machine without a network.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetch = commands.add_parser("download")
    fetch.add_argument("folder", type=Path)
    fetch.add_argument("locks", type=Path, nargs="+")
    fetch.add_argument("--python", required=True, help="version on the other machine, such as 3.12")
    fetch.add_argument("--skip", nargs="*", default=[], help="packages that the other machine has")
    fetch.add_argument("--part_mib", type=int, default=60, help="size of a part in MiB")
    add = commands.add_parser("install")
    add.add_argument("parts", type=Path, nargs="+")
    add.add_argument("--target", type=Path, required=True)
    args = parser.parse_args()
    if args.command == "download":
        if args.part_mib < 1:
            parser.error(f"--part_mib is {args.part_mib}; it must be at least 1")
        if not re.fullmatch(r"3\.\d+", args.python):
            parser.error(f"--python is {args.python}; it must be a version such as 3.12")
        if args.folder.exists():
            parser.error(f"{args.folder} exists; name a new folder, or remove it")
        if missing := [str(lock) for lock in args.locks if not lock.is_file()]:
            parser.error(f"no lock file {', '.join(missing)}")
    elif missing := [str(part) for part in args.parts if not part.is_dir()]:
        parser.error(f"no folder {', '.join(missing)}")
    return args


def main() -> None:
    args = parse_args()
    if args.command == "install":
        install(args.parts, args.target)
        return
    download(args.folder, args.locks, args.skip, args.python)
    wheels = list((args.folder / "all").glob("*.whl"))
    parts = split(wheels, args.folder, args.part_mib * MIB)
    shutil.rmtree(args.folder / "all")
    for part in parts:
        size = sum(file.stat().st_size for file in part.iterdir())
        sys.stdout.write(f"{part}: {size / MIB:.1f} MiB\n")


if __name__ == "__main__":
    main()

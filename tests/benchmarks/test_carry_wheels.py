"""An environment that is carried in parts arrives as it was."""

from pathlib import Path

from benchmarks.carry_wheels import filter_lock, join, split

LOCK = """\
# written by uv
mlx==0.32.4 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
mlx-cpu==0.32.4 ; sys_platform == 'linux' \\
    --hash=sha256:ac
Jinja2==3.1.6 \\
    --hash=sha256:ad
"""


def test_a_lock_is_filtered_by_whole_requirements() -> None:
    filtered = filter_lock(LOCK, ["mlx_cpu", "jinja2", "torch"])
    assert "mlx==0.32.4" in filtered
    assert filtered.count("--hash") == 2
    assert "mlx-cpu" not in filtered
    assert "Jinja2" not in filtered


def test_wheels_in_parts_are_joined_to_the_same_bytes(tmp_path: Path) -> None:
    contents = {"large-1-py3.whl": bytes(range(250)), "a-1-py3.whl": b"a" * 60, "b-1.whl": b"b"}
    (tmp_path / "all").mkdir()
    for name, content in contents.items():
        (tmp_path / "all" / name).write_bytes(content)
    parts = split(list((tmp_path / "all").iterdir()), tmp_path, 100)
    assert all(sum(f.stat().st_size for f in part.iterdir()) <= 100 for part in parts)
    assert len(parts) == 4
    (tmp_path / "joined").mkdir()
    wheels = join(list(reversed(parts)), tmp_path / "joined")
    assert {wheel.name: wheel.read_bytes() for wheel in wheels} == contents

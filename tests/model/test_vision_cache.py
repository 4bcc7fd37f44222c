from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_map
from PIL import Image

from mondrian.core.images import resize_to_fit
from mondrian.model.vision_cache import FeatureCache


@pytest.fixture
def paths(photos: list[Image.Image], tmp_path: Path) -> list[str]:
    out = []
    for i, photo in enumerate(photos[:4]):
        out.append(str(tmp_path / f"{i}.png"))
        resize_to_fit(photo, 4096, 20_480).save(out[-1])
    return out


def is_same(a: Any, b: Any) -> bool:
    pairs = zip((a.merged, *a.deepstack), (b.merged, *b.deepstack), strict=True)
    return all(mx.array_equal(x, y) for x, y in pairs) and a.grid == b.grid


def limit_gb(vlm: Any) -> float:
    """Return a limit for three entries of four, in any type."""
    return 100_000 * vlm.float_type.size / 4 / 1e9


@pytest.mark.device
def test_each_photo_is_encoded_once(base_vlm: Any, paths: list[str], tmp_path: Path) -> None:
    first = FeatureCache(base_vlm, tmp_path / "cache", 1)
    first.precompute([*paths, *paths])
    assert first.num_encoded == 4
    second = FeatureCache(base_vlm, tmp_path / "cache", 1)
    second.precompute(paths)
    assert second.num_encoded == 0
    assert all(is_same(first.get(p), second.get(p)) for p in paths)


def test_the_key_is_the_content_not_the_file_name(
    base_vlm: Any, paths: list[str], tmp_path: Path
) -> None:
    cache = FeatureCache(base_vlm, tmp_path / "cache", 1)
    cache.precompute(paths[:1])
    copy = tmp_path / "copy.png"
    copy.write_bytes(Path(paths[0]).read_bytes())
    cache.precompute([str(copy)])
    assert cache.num_encoded == 1
    Path(paths[0]).write_bytes(Path(paths[1]).read_bytes())
    changed = FeatureCache(base_vlm, tmp_path / "cache", 1)
    changed.precompute(paths[:1])
    assert changed.num_encoded == 1
    assert not is_same(changed.get(paths[0]), changed.get(str(copy)))


@pytest.mark.device
def test_a_damaged_entry_is_computed_again_to_the_same_bytes(
    base_vlm: Any, paths: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    FeatureCache(base_vlm, folder, 1).precompute(paths[:1])
    (file,) = folder.glob("*.safetensors")
    content = file.read_bytes()
    for damaged in (content[:200], b"", content[: len(content) // 2]):
        file.write_bytes(damaged)
        cache = FeatureCache(base_vlm, folder, 1)
        cache.precompute(paths[:1])
        assert cache.num_encoded == 1
        assert file.read_bytes() == content


def test_the_folder_stays_within_its_limit(base_vlm: Any, paths: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cache = FeatureCache(base_vlm, folder, limit_gb(base_vlm))
    cache.precompute(paths)
    sizes = [file.stat().st_size for file in folder.iterdir()]
    assert 0 < len(sizes) < 4
    assert sum(sizes) <= 1e9 * limit_gb(base_vlm)
    assert cache.get(paths[0]).merged.shape[0] == 20


def test_without_a_folder_nothing_is_written(
    base_vlm: Any, paths: list[str], tmp_path: Path
) -> None:
    cache = FeatureCache(base_vlm, None, 1)
    cache.precompute(paths)
    assert cache.num_encoded == 4
    assert not (tmp_path / "cache").exists()


def test_entries_computed_again_respect_the_limit(
    base_vlm: Any, paths: list[str], tmp_path: Path
) -> None:
    for limit, max_files in ((limit_gb(base_vlm), 3), (0.0, 0)):
        folder = tmp_path / str(limit)
        cache = FeatureCache(base_vlm, folder, limit)
        cache.precompute(paths)
        cache._memory.remove(lambda _: True)
        for path in paths:
            cache.get(path)
            cache._memory.remove(lambda _: True)
        assert cache.num_encoded > 4
        assert len(list(folder.glob("*"))) <= max_files


def test_another_package_version_computes_features_again(
    base_vlm: Any, paths: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(base_vlm, tmp_path / "cache", 1).precompute(paths[:1])
    monkeypatch.setattr("mondrian.model.vision_cache.package_versions", lambda: {"mlx": "0"})
    other = FeatureCache(base_vlm, tmp_path / "cache", 1)
    other.precompute(paths[:1])
    assert other.num_encoded == 1


def test_the_key_has_the_type_of_the_features(
    base_vlm: Any, paths: list[str], tmp_path: Path
) -> None:
    FeatureCache(base_vlm, tmp_path / "cache", 1).precompute(paths[:1])
    weights = base_vlm.model.parameters()
    other_type = mx.float16 if base_vlm.float_type != mx.float16 else mx.float32
    try:
        base_vlm.model.update(tree_map(lambda value: value.astype(other_type), weights))
        cache = FeatureCache(base_vlm, tmp_path / "cache", 1)
        assert cache.get(paths[0]).merged.dtype == other_type
    finally:
        base_vlm.model.update(weights)
    assert cache.num_encoded == 1

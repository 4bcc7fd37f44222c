import time
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mondrian.core.errors import PhotoError
from mondrian.data.photos.photo_conflicts import find_conflicts
from mondrian.data.photos.photo_index import MatchKind, PhotoIndex, PhotoMatch
from mondrian.data.photos.stored_path import split_path
from tests.conftest import ROOT

UPLOAD = "0b9b6e0e-5f2e-4bd4-8f39-6a1d3f0c9a11_"
UPLOAD_2 = "1c9b6e0e-5f2e-4bd4-8f39-6a1d3f0c9a12_"


def make_folder(parent: Path, *names: str) -> Path:
    """Write files into `parent`/source; a name that ends in a slash is a folder."""
    source = parent / "source"
    source.mkdir()
    for name in names:
        path = source / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(name)
    return source


def find(folder: Path, stored: str, use_thumbnails: bool = False) -> tuple[str, str]:
    """Return the photo's path in the folder and the kind of match, or the reason and the detail."""
    try:
        match = PhotoIndex(folder, use_thumbnails).find(stored)
    except PhotoError as error:
        return error.reason, str(error)
    return match.path.relative_to(folder).as_posix(), match.kind


def find_reason(folder: Path, stored: str) -> str:
    return find(folder, stored)[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.jpg").write_bytes(b"x")
    return make_folder(
        tmp_path,
        *("a.jpg", "Gärten.JPG", "b_thumb.jpg", "2024/c.jpg", "thumbnails/d.jpg", "new\nline.jpg"),
        *(f"{UPLOAD}e.jpg", "trips/2024/f.jpg", "p%20q.jpg", "what?#.jpg", "$HOME.jpg", "`x`.jpg"),
    )


@pytest.mark.parametrize(
    ("stored", "name", "kind"),
    [
        ("a.jpg", "a.jpg", "as_stored"),
        ("./a.jpg", "a.jpg", "as_stored"),
        ("2024/c.jpg", "2024/c.jpg", "as_stored"),
        ("2024//./c.jpg", "2024/c.jpg", "as_stored"),
        ("2024\\c.jpg", "2024/c.jpg", "as_stored"),
        ("2023/../2024/c.jpg", "2024/c.jpg", "as_stored"),
        ("new\nline.jpg", "new\nline.jpg", "as_stored"),
        ("p%20q.jpg", "p%20q.jpg", "as_stored"),
        ("what?#.jpg", "what?#.jpg", "as_stored"),
        ("$HOME.jpg", "$HOME.jpg", "as_stored"),
        ("`x`.jpg", "`x`.jpg", "as_stored"),
        (f"uploads/{UPLOAD}e.jpg", f"{UPLOAD}e.jpg", "as_stored"),
        ("mondrian/source/a.jpg", "a.jpg", "path_ending"),
        ("source/2024/c.jpg", "2024/c.jpg", "path_ending"),
        ("../../source/a.jpg", "a.jpg", "path_ending"),
        ("C:\\Users\\x\\source\\2024\\c.jpg", "2024/c.jpg", "path_ending"),
        ("C:/Users/x/Pictures/2024/c.jpg", "2024/c.jpg", "path_ending"),
        ("\\\\nas\\photos\\trips\\2024\\f.jpg", "trips/2024/f.jpg", "path_ending"),
        ("/Volumes/Photos/2024/c.jpg", "2024/c.jpg", "path_ending"),
        ("/Users/source/mondrian/source/a.jpg", "a.jpg", "path_ending"),
        ("A.JPG", "a.jpg", "other_spelling"),
        ("/Users/x/source/2024/C.jpg", "2024/c.jpg", "other_spelling"),
        ("Ga\u0308rten.jpg", "Gärten.JPG", "other_spelling"),
        (f"uploads/{UPLOAD}a.jpg", "a.jpg", "without_upload_prefix"),
        (f"mondrian/uploads/{UPLOAD}a.jpg", "a.jpg", "without_upload_prefix"),
        (f"{UPLOAD}a.jpg", "a.jpg", "without_upload_prefix"),
        (f"2024/{UPLOAD}c.jpg", "2024/c.jpg", "without_upload_prefix"),
        ("c.jpg", "2024/c.jpg", "in_subfolder"),
        ("C:\\source\\f.jpg", "trips/2024/f.jpg", "in_subfolder"),
        (f"uploads/{UPLOAD}f.jpg", "trips/2024/f.jpg", "in_subfolder"),
        ("/Users/me/a.jpg", "a.jpg", "name_only"),
        ("C:\\photos\\a.jpg", "a.jpg", "name_only"),
        ("2023/a.jpg", "a.jpg", "name_only"),
        ("../../a.jpg", "a.jpg", "name_only"),
    ],
)
def test_a_photo_is_matched_and_the_kind_of_match_is_returned(
    folder: Path, stored: str, name: str, kind: str
) -> None:
    assert find(folder, stored) == (name, kind)


def test_an_absolute_path_of_this_machine_is_taken_as_it_is(folder: Path) -> None:
    (folder.parent / "link").symlink_to("source")
    for own in (folder, folder.parent / "link"):
        assert find(own, f"{folder}/2024/c.jpg") == ("2024/c.jpg", "as_stored")
        assert find_reason(own, f"{folder}/2024/a.jpg") == "image_missing"


@pytest.mark.parametrize(
    "stored",
    [
        *("", "..", ".", "/", "missing.jpg", "../secret.jpg", "2024/../../secret.jpg", "2024"),
        *("a" * 5000, "\x00", "2024/", "2024/" + "c" * 5000, "2024/\x00", "p q.jpg", "/root.jpg"),
        *("2024/a.jpg", "C:\\Users\\x\\source\\2024\\a.jpg", "/Users/x/2024/a.jpg", "2024/b/a.jpg"),
        *("TRIPS/a.jpg", "trips/2023/a.jpg", "source/2024/f.jpg", "2023/c.jpg", "D:\\2023\\c.jpg"),
        *("/home/me/what", "file:///a%2Ejpg", "~/no.jpg", "${HOME}.jpg", "a.jpg?x=1", "uploads/"),
    ],
)
def test_a_path_without_a_photo_is_missing(folder: Path, stored: str) -> None:
    assert find(folder, stored, use_thumbnails=True)[0] == "image_missing"


def test_a_file_of_another_folder_is_named_but_not_used(folder: Path) -> None:
    _, detail = find(folder, "2023/c.jpg")
    assert detail.endswith("; '2024/c.jpg' has its name, but another folder")


@pytest.mark.parametrize("stored", ["2022/IMG_1.jpg", "/x/IMG_1.jpg", f"uploads/{UPLOAD}IMG_1.jpg"])
def test_a_name_in_two_folders_is_ambiguous_unless_the_path_says_which(
    tmp_path: Path, stored: str
) -> None:
    folder = make_folder(tmp_path, "2023/IMG_1.jpg", "2024/IMG_1.jpg")
    assert find_reason(folder, stored) == "image_ambiguous"
    assert find_reason(folder, "IMG_1.jpg") == "image_ambiguous"
    for year in ("2023", "2024"):
        assert find_reason(folder, f"D:\\{year}\\img_1.jpg") == f"{year}/IMG_1.jpg"


def test_a_stored_sub_folder_is_found_in_a_deeper_one_but_not_replaced_by_another(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path, "old/2023/raw/a.jpg", "2024/raw/b.jpg", "c.jpg", "old/2022/")
    assert find(folder, "2023/raw/a.jpg") == ("old/2023/raw/a.jpg", "in_subfolder")
    assert find_reason(folder, "2023/raw/b.jpg") == "image_missing"
    assert find_reason(folder, "2022/c.jpg") == "image_missing"
    assert find_reason(folder, "/Users/me/raw/c.jpg") == "image_missing"


def test_a_folder_of_an_absent_photo_is_not_skipped_for_a_shorter_ending(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a/b/x.jpg", "b/y.jpg", "y.jpg")
    assert find_reason(folder, "a/b/y.jpg") == "image_missing"
    assert find_reason(folder, "/Users/a/b/y.jpg") == "image_missing"


def test_a_sub_folder_named_as_the_source_folder_is_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "a.jpg", "b.jpg", "source/a.jpg")
    assert find(folder, "source/a.jpg") == ("source/a.jpg", "as_stored")
    assert find_reason(folder, "source/b.jpg") == "image_missing"
    assert find(folder, "/home/me/mondrian/source/b.jpg")[0] == "image_missing"


def test_two_uploads_of_one_name_are_one_photo_unless_another_upload_shows_that_they_are_not(
    tmp_path: Path,
) -> None:
    folder = make_folder(tmp_path, "a.jpg", "b.jpg", "uploads/")
    for prefix in (UPLOAD, UPLOAD_2):
        assert find(folder, f"uploads/{prefix}a.jpg") == ("a.jpg", "without_upload_prefix")
    (folder / f"uploads/{UPLOAD}a.jpg").write_bytes((folder / "a.jpg").read_bytes())
    assert find_reason(folder, f"uploads/{UPLOAD_2}a.jpg") == "a.jpg"
    (folder / f"uploads/{UPLOAD}a.jpg").write_bytes(b"another photo")
    assert find_reason(folder, f"uploads/{UPLOAD_2}a.jpg") == "image_ambiguous"
    assert find_reason(folder, f"uploads/{UPLOAD}a.jpg") == f"uploads/{UPLOAD}a.jpg"


def test_a_link_out_of_the_folder_is_never_followed(folder: Path) -> None:
    (folder / "out.jpg").symlink_to("../secret.jpg")
    (folder / "inside.jpg").symlink_to("a.jpg")
    (folder / "gone").symlink_to("..")
    (folder / "latest").symlink_to("2024")
    (folder / "circle").symlink_to("circle")
    for stored in ("out.jpg", "gone/secret.jpg", "/Users/x/source/gone/secret.jpg"):
        assert find_reason(folder, stored) == "image_outside_source"
    assert find_reason(folder, "secret.jpg") == "image_missing"
    assert find(folder, "inside.jpg") == ("inside.jpg", "as_stored")
    assert find(folder, "latest/c.jpg") == ("latest/c.jpg", "as_stored")
    assert find_reason(folder, "latest/a.jpg") == "image_missing"


def test_links_to_one_photo_are_not_ambiguous(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "2024/a.jpg", "best/")
    (folder / "best/a.jpg").symlink_to("../2024/a.jpg")
    assert find(folder, "a.jpg") == ("2024/a.jpg", "in_subfolder")


@pytest.mark.parametrize(
    ("stored", "name", "kind"),
    [
        ("b.jpg", "b_thumb.jpg", "thumbnail"),
        (f"{UPLOAD}d.jpg", "thumbnails/d.jpg", "thumbnail"),
        ("C:\\x\\source\\d.jpg", "thumbnails/d.jpg", "thumbnail"),
        ("b_thumb.jpg", "b_thumb.jpg", "as_stored"),
        ("thumbnails/d.jpg", "thumbnails/d.jpg", "as_stored"),
    ],
)
def test_a_thumbnail_is_used_only_if_the_setting_is_use(
    folder: Path, stored: str, name: str, kind: str
) -> None:
    assert find(folder, stored, use_thumbnails=True) == (name, kind)
    reason, detail = find(folder, stored)
    assert reason == "image_missing"
    assert "only a thumbnail, which link.thumbnails: use accepts" in detail


def test_a_thumbnail_of_another_folder_is_not_used(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, "thumbnails/a.jpg", "2024/thumbs/b.jpg", "thumbs/2023/b.jpg")
    assert find_reason(folder, "2024/a.jpg") == "image_missing"
    assert find(folder, "2024/b.jpg", use_thumbnails=True) == ("2024/thumbs/b.jpg", "thumbnail")
    assert find(folder, "2023/b.jpg", use_thumbnails=True) == ("thumbs/2023/b.jpg", "thumbnail")
    assert find(folder, "2024/a.jpg", use_thumbnails=True)[0] == "image_missing"


@pytest.mark.parametrize("name", ["A.jpg", "2024/C.jpg"])
def test_two_names_that_differ_in_spelling_only_are_ambiguous(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"x")
    if (folder / name.lower()).read_bytes() != b"x":  # not so on a Mac
        assert find_reason(folder, name.upper()) == "image_ambiguous"
        assert find_reason(folder, f"/Users/x/source/{name}") == name
        assert find_reason(folder, name.lower()) == name.lower()


def test_what_systems_put_into_folders_is_no_photo(tmp_path: Path) -> None:
    junk = ("._a.jpg", "@eaDir/a.jpg", "__MACOSX/a.jpg", ".Trash-1000/files/a.jpg", ".cache/b.jpg")
    folder = make_folder(tmp_path, "2024/a.jpg", *junk)
    assert find(folder, "a.jpg") == ("2024/a.jpg", "in_subfolder")
    for stored in ("b.jpg", *junk):
        assert find_reason(folder, stored) != "b.jpg"
        assert find_reason(folder, stored) not in junk


CONFLICTS = [
    (["2023/a.jpg", "2024/a.jpg"], ["2023/a.jpg", "2024/a.jpg"]),
    (["/x/a.jpg", "D:\\y\\a.jpg"], ["/x/a.jpg", "D:\\y\\a.jpg"]),
    (["/x/in/b.jpg", "/y/in/b.jpg"], ["/x/in/b.jpg", "/y/in/b.jpg"]),
    (["a.jpg", "2024/a.jpg"], ["2024/a.jpg"]),
    (["/x/source/a.jpg", "/y/a.jpg"], ["/y/a.jpg"]),
    (["/x/source/a.jpg", "C:\\y\\source\\a.jpg", "a.jpg"], []),
    (["C:\\Users\\me\\pictures\\a.jpg", "/Users/me/pictures/a.jpg", "pictures/a.jpg"], []),
    (["in/b.jpg", "/x/in/b.jpg", "b.jpg"], []),
    ([f"uploads/{UPLOAD}a.jpg", f"uploads/{UPLOAD_2}a.jpg", "a.jpg"], []),
    ([f"uploads/{UPLOAD}a.jpg", "/x/a.jpg"], []),
    ([f"{UPLOAD}a.jpg", "/x/a.jpg", f"C:\\source\\{UPLOAD_2}a.jpg"], []),
]


@pytest.mark.parametrize(("filenames", "refused"), CONFLICTS)
def test_a_photo_that_paths_of_different_folders_lead_to_is_refused_to_each_that_assumes_it(
    tmp_path: Path, filenames: list[str], refused: list[str]
) -> None:
    index = PhotoIndex(make_folder(tmp_path, "a.jpg", "in/b.jpg"), use_thumbnails=False)
    matches = {name: index.find(name) for name in filenames}
    doubtful = {(m.path, m.assumed_source) for m in matches.values() if m.assumed_source}
    conflicts = find_conflicts(index, filenames, doubtful)
    claims = {name: (match.path, match.assumed_source or "") for name, match in matches.items()}
    assert [name for name in filenames if claims[name] in conflicts] == refused
    for name in refused:
        detail = conflicts[claims[name]]
        assert any(repr(other) in detail for other in filenames if other != name)


def test_the_documentation_lists_every_kind_of_match() -> None:
    text = (ROOT / "docs/database.md").read_text()
    assert [kind for kind in MatchKind if f"\n| `{kind}` | " not in text] == []


PARTS = st.sampled_from(["2023", "2024", "raw", "Raw", "source", "mondrian", "uploads", "Users"])
NAMES = st.sampled_from(
    ["a.jpg", "A.JPG", "b.jpg", f"{UPLOAD}a.jpg", f"{UPLOAD_2}b.jpg", "100%.jpg"]
)
PREFIXES = st.sampled_from(
    ["", "", "./", "../", "/", "C:\\", "\\\\nas\\", "/Volumes//", "~/", "a/../"]
)
FILES = st.sets(
    st.tuples(st.lists(PARTS, max_size=3), NAMES).map(lambda t: "/".join([*t[0], t[1]]))
)


@st.composite
def stored_paths(draw: st.DrawFn) -> str:
    separator = draw(st.sampled_from(["/", "\\", "//"]))
    parts = [*draw(st.lists(PARTS, max_size=4)), draw(NAMES)]
    return draw(PREFIXES) + separator.join(parts)


@settings(max_examples=150, deadline=None)
@given(FILES, st.lists(stored_paths() | st.text(max_size=20), max_size=20))
def test_no_match_is_outside_or_contradicts_the_stored_folder(
    files: set[str], filenames: list[str]
) -> None:
    with TemporaryDirectory() as parent:
        folder = make_folder(Path(parent), *files)
        index = PhotoIndex(folder, use_thumbnails=True)
        for stored in filenames:
            with suppress(PhotoError):
                check_match(folder, stored, index.find(stored))


def check_match(folder: Path, stored: str, match: PhotoMatch) -> None:
    """Fail if the file is outside, or if its folder contradicts the stored one."""
    assert match.path.is_file()
    assert match.path.resolve().is_relative_to(folder.resolve())
    *folders, name = split_path(stored.casefold())
    match_path = PurePosixPath(match.path.relative_to(folder).as_posix().casefold())
    match_folders = list(match_path.parts[:-1])
    assert match_path.name in (name, name[len(UPLOAD) :])
    if name.startswith((UPLOAD, UPLOAD_2)) and match.assumed_source is None:
        return  # an upload: the stored folder is not where it was before
    is_stored_folder_here = any(
        [part.casefold() for part in path.relative_to(folder).parts] == folders
        for path in folder.rglob("*")
        if path.is_dir()
    )
    if folders and is_stored_folder_here:
        assert match_folders == folders
    elif match.kind is MatchKind.IN_SUBFOLDER:
        starts = [0, *(i + 1 for i, part in enumerate(folders) if part == "source")]
        endings = [folders[start:] for start in starts]
        assert any(match_folders[len(match_folders) - len(e) :] == e for e in endings)
    else:
        assert folders[len(folders) - len(match_folders) :] == match_folders


def test_ten_thousand_photos_in_nested_folders_are_indexed_in_a_second(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    for album in range(100):
        (folder / f"{album % 10}/album-{album}").mkdir(parents=True)
        for i in range(100):
            (folder / f"{album % 10}/album-{album}/IMG_{i:04}.jpg").touch()
    start = time.process_time()
    index = PhotoIndex(folder, use_thumbnails=False)
    for album in range(100):
        stored = f"D:\\photos\\{album % 10}\\album-{album}\\IMG_0007.jpg"
        assert index.find(stored).path.parent.name == f"album-{album}"
    assert time.process_time() - start < 1

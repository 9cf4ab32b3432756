"""Image sets from outside: damaged, among other files, in splits and classes, hostile archives."""

import gzip
import io
import json
import os
import random
import resource
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
import yaml
from PIL import Image

from genlab.data.images import source
from genlab.data.images.classes import folder_labels, folder_splits, natural
from genlab.data.images.decode import READS_AVIF, Transform, printable
from genlab.data.images.folder import ImageFolder, read_images
from genlab.data.images.idx import read_idx
from genlab.data.images.source import decode_all, entries, list_names
from genlab.data.points import read_points
from genlab.errors import DataError

FORMATS = {
    "PNG": {},
    "JPEG": {"quality": 90},
    "GIF": {},
    "WEBP": {"lossless": True},
    "TIFF": {"compression": "tiff_lzw"},
    "BMP": {},
    "PPM": {},
}
PLAIN = Transform(16, 3, "none", "pad")


@pytest.fixture(autouse=True)
def genlab_data(tmp_path, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(tmp_path / "genlab-data"))


def picture(seed=0, side=16, format="PNG", **options):
    y, x = np.mgrid[0:side, 0:side]
    pixels = np.stack([x * 9 + seed, y * 11, (x + y) * 5], -1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format, **options)
    return stream.getvalue()


def damaged(data, rng):
    """The bytes of a file cut off, or with some of them flipped, zeroed, repeated or lost."""
    data = bytearray(data)
    at = rng.randrange(len(data))
    kind = rng.choice(["cut", "flip", "zero", "double", "lose"])
    if kind == "cut":
        del data[at:]
    elif kind == "flip":
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        data[at : at + 40] = bytes(len(data[at : at + 40]))
    elif kind == "double":
        data[at:at] = data[at // 2 : at]
    else:
        del data[at : at + rng.randint(1, 40)]
    return bytes(data)


def save(folder, names, seed=0):
    """Writes a different picture under each of these names below a folder; returns the folder."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(seed + i))
    return folder


def pack(path, files):
    """Packs {name: bytes} as zip or tar, by the suffix of `path`; returns the path."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


def images(path, **options):
    return ImageFolder(str(path), image_size=16, batch_size=2, **options)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_picture_is_named_if_its_format_has_a_checksum(format):
    rng = random.Random(format)
    data = picture(format=format, **FORMATS[format])
    whole, outcomes = PLAIN.decode("x", data), Counter()
    for _ in range(150):
        try:
            found = PLAIN.decode("x.pic", damaged(data, rng))
        except DataError as error:
            assert str(error).startswith("x.pic: ")
            outcomes["named"] += 1
        else:
            outcomes["same" if np.array_equal(found, whole) else "changed"] += 1
    assert outcomes["named"] > 30
    assert format != "PNG" or not outcomes["changed"]  # PNG alone has checksums


def test_a_damaged_member_of_a_zip_is_named_in_any_format(tmp_path):
    rng, data = random.Random(0), picture(format="BMP")
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.bmp", data)
    whole = path.read_bytes()
    at = whole.index(data)
    for _ in range(20):
        content = bytearray(whole)
        content[at + 60 + rng.randrange(len(data) - 60)] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        ((_, found),) = decode_all(path, 1, PLAIN)
        assert isinstance(found, DataError)
        assert "a.bmp" in str(found)


def test_a_png_with_damaged_pixels_is_skipped_and_counted_on_request(tmp_path):
    folder = save(tmp_path / "set", [f"{i}.png" for i in range(12)])
    content = bytearray((folder / "3.png").read_bytes())
    content[content.index(b"IDAT") + 20] ^= 4
    (folder / "3.png").write_bytes(content)
    with pytest.raises(DataError, match=r"^3\.png: "):
        images(folder).setup()
    data = images(folder, on_error="skip")
    assert data.describe("train")["skipped"] == 1
    assert "3.png" not in data.arrays("train").paths


@pytest.mark.parametrize("seed", range(3))
def test_damaged_points_and_digits_are_named(seed, tmp_path):
    rng = random.Random(seed)
    points = np.random.default_rng(seed).normal(size=(20, 2))
    np.savez_compressed(tmp_path / "p.npz", points=points)
    np.savetxt(tmp_path / "p.csv", points, delimiter=",")
    header = b"\0\0\x08\x03" + np.array([4, 3, 3], ">u4").tobytes()
    (tmp_path / "d-ubyte.gz").write_bytes(gzip.compress(header + bytes(range(36))))
    readers = {"p.npz": read_points, "p.csv": read_points, "d-ubyte.gz": read_idx}
    for name, read in readers.items():
        whole = (tmp_path / name).read_bytes()
        for _ in range(60):
            (tmp_path / name).write_bytes(damaged(whole, rng))
            try:
                read(tmp_path / name)
            except DataError as error:
                assert name in str(error)


def test_points_that_are_not_numbers_are_refused(tmp_path):
    for array in (np.array(["a"]), np.zeros((2, 2), np.complex64), np.array([object()])):
        np.savez(tmp_path / "p.npz", points=array)
        with pytest.raises(DataError, match=r"p\.npz"):
            read_points(tmp_path / "p.npz")


# --- other files among pictures -------------------------------------------------------------------


def test_other_files_are_counted_by_suffix(tmp_path):
    folder = save(tmp_path / "set", [f"{i}.png" for i in range(12)])
    (folder / "none").write_bytes(b"no picture")
    (folder / "photo").write_bytes(picture(40))
    for i in range(5):
        (folder / f"IMG_{i}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / ".hidden.txt").write_bytes(b"x")
    os.mkfifo(folder / "pipe.png")
    if READS_AVIF:
        (folder / "a.avif").write_bytes(picture(format="AVIF"))
    expected = {".HEIC": 5, "without suffix": 1, "link to nothing or device": 1}
    for again in range(2):  # the second time from the cache
        data = images(folder)
        data.setup()
        assert data.left_out == expected, again
        assert len(data._content.arrays) == 13 + READS_AVIF
        assert "5 .HEIC" in data.notes[0]
        assert "1 without suffix" in data.notes[0]


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_other_files_in_an_archive_are_counted(suffix, tmp_path):
    files = {f"{i}.png": picture(i) for i in range(4)}
    others = dict.fromkeys(["a.heic", "b.heic", "readme", "__MACOSX/a.txt"], b"x")
    others["photo"] = picture(9)
    left_out = Counter()
    names = list_names(pack(tmp_path / f"set{suffix}", files | others), left_out)
    assert names == [*sorted(files), "photo"]
    assert left_out == {".heic": 2, "without suffix": 1}


def test_a_folder_without_pictures_is_refused_with_the_suffixes_in_it(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 \.HEIC"):
        list_names(tmp_path / "set")


@pytest.mark.parametrize("name", [b"caf\xe9.png", b"two\nlines.png", b"\x1b[31mred.png"])
def test_a_name_that_cannot_be_printed_is_escaped_and_its_file_skipped(name, tmp_path):
    folder = save(tmp_path / "set", [f"{i}.png" for i in range(12)])
    path = os.path.join(os.fsencode(folder), name)
    with open(path, "wb") as file:
        file.write(b"no picture")
    data = images(folder, on_error="skip")
    assert data.describe("train")["skipped"] == 1
    assert printable(data.notes[0]) == data.notes[0]
    with pytest.raises(DataError) as error:
        read_images(folder, 16, 3, "center", "lanczos")
    assert printable(str(error.value)) == str(error.value)
    with open(path, "wb") as file:
        file.write(picture())
    _, paths, _ = read_images(folder, 16, 3, "center", "lanczos")
    json.dumps(paths, ensure_ascii=False).encode()


# --- hostile archives -----------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_members_with_paths_outside_the_archive_are_left_out(suffix, tmp_path):
    names = ["fine.png", "../up.png", "a/../../up.png", "/absolute.png"]
    left_out = Counter()
    path = pack(tmp_path / f"set{suffix}", dict.fromkeys(names, picture()))
    assert list_names(path, left_out) == ["fine.png"]
    assert left_out.total() == 3


def test_links_and_devices_in_archives_are_left_out_and_counted(tmp_path):
    kinds = {"soft": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "device": tarfile.CHRTYPE}
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, kind in kinds.items():
            info = tarfile.TarInfo(f"{name}.png")
            info.type = kind
            info.linkname = "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("fine.png")
        info.size = len(picture())
        archive.addfile(info, io.BytesIO(picture()))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("fine.png", picture())
        info = zipfile.ZipInfo("soft.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    for name, count in {"set.tar": 3, "set.zip": 1}.items():
        left_out = Counter()
        assert list_names(tmp_path / name, left_out) == ["fine.png"], name
        assert left_out == {"link or device": count}


def test_a_zip_bomb_is_named_and_not_unpacked(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        zeros = bytes(64 << 20)
        for i in range(4):
            archive.writestr(f"{i}.png", zeros)
        del zeros
        archive.writestr("fine.png", picture())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = dict(decode_all(path, 5, PLAIN))
    assert sum(isinstance(one, DataError) for one in found.values()) == 4
    assert isinstance(found["fine.png"], np.ndarray)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10


def test_few_files_are_in_memory_at_a_time_by_their_bytes(tmp_path, monkeypatch):
    path = pack(tmp_path / "set.zip", {f"{i}.png": picture(i) + bytes(1000) for i in range(20)})
    size = len(picture()) + 1000
    monkeypatch.setattr(source, "CHUNK_BYTES", 3 * size + size // 2)
    held = [len(chunk) for chunk in source._chunks(entries(path))]
    assert sum(held) == 20
    assert max(held) == 3


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_with_too_many_entries_is_refused(suffix, tmp_path, monkeypatch):
    path = pack(tmp_path / f"set{suffix}", {f"{i}.png": b"x" for i in range(30)})
    monkeypatch.setattr(source, "MAX_ENTRIES", 20)
    with pytest.raises(DataError, match=r"set\..*\b20\b"):
        list_names(path)
    if suffix == ".zip":
        monkeypatch.setattr(source, "MAX_DIRECTORY_BYTES", 500)
        with pytest.raises(DataError, match=r"set\.zip.*bytes"):
            list_names(path)


def test_a_name_of_gigabytes_in_a_tar_is_not_read(tmp_path):
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    info.size = 1 << 33
    (tmp_path / "set.tar").write_bytes(info.tobuf() + bytes(10240))
    with pytest.raises(DataError, match=r"set\.tar"):
        list_names(tmp_path / "set.tar")


# --- splits and classes ---------------------------------------------------------------------------


def test_numbers_in_names_sort_as_numbers():
    names = ["01", "2", "10", "a2b", "a10b", "b"]
    assert sorted(["10", "2", "b", "a10b", "a2b", "01"], key=natural) == names
    labels, classes = folder_labels([f"{c}/0.png" for c in range(12)])
    assert labels.tolist() == list(range(12))
    assert classes == [str(c) for c in range(12)]


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar.gz"])
def test_folders_named_like_splits_are_the_splits_and_contain_the_classes(suffix, tmp_path):
    names = ["set/extra/0.png"]
    for class_name in ("dog", "cat"):
        names += [f"set/train/{class_name}/{i}.png" for i in range(30)]
        names += [f"set/Test/{class_name}/{i}.png" for i in range(4)]
    path = save(tmp_path / "pictures", names)
    if suffix:
        files = {name: (path / name).read_bytes() for name in names}
        path = pack(tmp_path / f"p{suffix}", files)
    data = images(path)
    data.setup()
    assert data.classes == ["cat", "dog"]
    for split, folder, count in (("train", "train", 54), ("val", "train", 6), ("test", "Test", 8)):
        arrays = data.arrays(split)
        assert len(arrays) == count, split
        assert all(f"/{folder}/" in name for name in arrays.paths), split
        classes = [data.classes[label] for label in arrays.labels]
        assert classes == [name.split("/")[2] for name in arrays.paths], split
    assert sum(data.left_out.values()) == 1
    assert any("train, test" in line for line in data.notes)
    with pytest.raises(DataError, match=r"^data\.num_test="):
        images(path, num_test=3).setup()


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/0.png", "validation/1.png"], ["train", "val"]),
        (["a/Training/0.png", "a/dev/1.png", "a/testing/2.png"], ["train", "val", "test"]),
        (["train/0.png", "test/1.png", "logo.png"], ["train", "test", None]),
        (["train/0.png", "bus/1.png"], None),  # vehicles
        (["val/0.png", "test/1.png"], None),
        (["train/a/0.png", "train/b/1.png"], None),
    ],
)
def test_which_folders_are_splits(names, splits):
    found = folder_splits(names)
    assert (None if found is None else found[0]) == splits


# --- runs -----------------------------------------------------------------------------------------

TRAIN = ["model=ogan", "data=image_folder", "data.image_size=32", "data.batch_size=8"]
TRAIN += ["net.generator.hidden_dim=8", "net.discriminator.hidden_dim=8"]
TRAIN += ["trainer=cpu", "trainer.max_steps=1", "explorer=false", "callbacks.quality=null"]
LABELLED = ["net/modulation=conditional", "model.num_classes=3", "evaluate=false"]


def manifest(run):
    return json.loads((run / "manifest.json").read_text())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, trained_in):
    """A run on the classes 1, 2 and 10, beside two files that are not pictures."""
    folder = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENLAB_DATA", str(folder / "genlab-data"))
        save(folder / "set", [f"{c}/{i}.png" for c in (1, 2, 10) for i in range(10)])
        (folder / "set/1/a.HEIC").write_bytes(b"x")
        (folder / "set/b.txt").write_bytes(b"x")
        trained_in(folder / "run", *TRAIN, *LABELLED, f"data.path={folder / 'set'}")
    return folder


@pytest.fixture
def shared_cache(labelled, monkeypatch):
    monkeypatch.setenv("GENLAB_DATA", str(labelled / "genlab-data"))
    return labelled


def test_a_run_records_its_classes_and_the_files_left_out(labelled):
    about = manifest(labelled / "run")["data"]
    assert about["classes"] == ["1", "2", "10"]
    assert about["left_out"] == {".HEIC": 1, ".txt": 1}
    settings = yaml.safe_load((labelled / "run/config.yaml").read_text())
    assert settings["model"]["classes"] == ["1", "2", "10"]
    report = (labelled / "run/report.html").read_text()
    assert "1 .HEIC" in report
    assert "2 10" in report


def test_classes_are_sampled_by_name(shared_cache, command, tmp_path):
    def sample(label):
        words = [f"run={shared_cache / 'run'}", f"label={label}", "num=2", "seed=3"]
        command("sample", tmp_path / "out", *words)
        return np.load(tmp_path / "out/grid.npz")["images"]

    assert (sample(10) == sample("[10,10]")).all()
    with pytest.raises(ValueError, match=r"^label=3: .*10"):
        sample(3)
    with pytest.raises(ValueError, match=r"^label=cats: "):
        sample("cats")


def test_changed_data_are_refused_unless_data_path_is_given(trained_in, command, tmp_path, capsys):
    run = tmp_path / "run"
    folder = save(tmp_path / "set", [f"{i}.png" for i in range(40)])
    trained_in(run, *TRAIN, f"data.path={folder}", "evaluate=false")
    measuring = [f"run={run}", "num=8", "features=random"]

    def measured(*words):
        command("eval", tmp_path / "eval", *measuring, *words)
        found = json.loads((run / "eval/metrics.json").read_text())
        return {entry["own_data"] for entry in found.values()}, capsys.readouterr().err

    assert measured()[0] == {True}
    own, printed = measured("data.num_test=5")
    assert own == {False}
    assert "warning: data.num_test=5" in printed
    added = folder / "new.png"
    added.write_bytes(picture(99))
    commands = {
        "eval": measuring,
        "encode": [f"run={run}", "split=test"],
        "sample": [f"run={run}", "mode=reconstruct", "num=2"],
    }
    try:
        for name, words in commands.items():
            with pytest.raises(ValueError, match=r"^data: .*data\.path="):
                command(name, tmp_path / name, *words, "data.batch_size=4")
        own, printed = measured(f"data.path={folder}")
        assert own == {False}
        assert "warning: data.path=" in printed
    finally:
        added.unlink()
    assert measured()[0] == {True}


def test_a_missing_split_is_named_before_training_and_the_run_finishes(
    trained_in, tmp_path, capsys
):
    run = tmp_path / "run"
    folder = save(tmp_path / "set", [f"{i}.png" for i in range(20)])
    words = [*TRAIN, f"data.path={folder}", "data.num_test=0", "data.num_val=0", "evaluate=true"]
    trained_in(run, *words)
    printed = capsys.readouterr().err
    assert printed.index("test split") < printed.index("training ")
    assert printed.index("val split") < printed.index("training ")
    assert (run / "report.html").is_file() and manifest(run)["status"] == "finished"
    assert len(manifest(run)["left_out"]) == 2
    with pytest.raises(ValueError, match=r"^optimized_metric=test/fid: "):
        trained_in(tmp_path / "other", *words, "optimized_metric=test/fid")


def test_data_without_the_chosen_split_are_refused(shared_cache, command, tmp_path):
    words = [f"run={shared_cache / 'run'}", "data.num_test=0", "num=8", "features=random"]
    with pytest.raises(ValueError, match=r"^split=test: .*split=train"):
        command("eval", tmp_path / "out", *words)

"""load_images: the order of sources, torchvision's downloads, folders of pictures; and save_grid."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision import datasets

from data.make_small_set import PER_CLASS, choose, write_idx
from utils.diffusion import images as library
from utils.diffusion.images import FASHION_FILES, load_images, read_idx, save_grid

PACKAGE = library.DEBIAN / "fashion-mnist"
SIXTEEN = {0: 0, 20_000: 78, 65_535: 255}  # 20,000 / 257
SMALL = Path(__file__).resolve().parents[2] / "data" / "fashion-mnist-small"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with the repository's own data and nothing else, and no network."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fashion-mnist-small").symlink_to(SMALL)
    monkeypatch.setattr(library, "ROOT", tmp_path)
    monkeypatch.setattr(library, "DEBIAN", tmp_path / "absent")
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = "http://127.0.0.1:9/"  # the discard port: nobody listens
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [nobody])
    monkeypatch.setattr(datasets.CIFAR10, "url", nobody + datasets.CIFAR10.filename)
    return tmp_path


def make_copy(folder, monkeypatch, value):
    """A tiny stand-in for the full set, whose checksums are made the right ones, here and in torchvision."""
    checksums, resources = {}, []
    for split, names in FASHION_FILES.items():
        images, labels = names
        write_idx(torch.full((4, 28, 28), value, dtype=torch.uint8), folder / images)
        write_idx(torch.arange(4, dtype=torch.uint8), folder / labels)
        packed = {name: (folder / name).read_bytes() for name in names}
        checksums[split] = {name: hashlib.sha256(gzip.decompress(data)).hexdigest() for name, data in packed.items()}
        resources += [(name, hashlib.md5(data).hexdigest()) for name, data in packed.items()]
    monkeypatch.setattr(library, "FASHION_FILES", checksums)
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)


# -- where Fashion-MNIST comes from ----------------------------------------------------------------


def test_without_a_network_the_small_set_is_used_and_said(bare, capsys):
    train = load_images("fashion-mnist")
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "the small set of the repository: no full copy here" in line
    assert train.pixels.shape == (10_000, 1, 28, 28) and train.pixels.dtype == torch.uint8
    assert train.labels.dtype == torch.int64 and train.classes[9] == "Ankle boot"
    assert torch.bincount(train.labels).tolist() == [1000] * 10
    assert torch.bincount(load_images("fashion-mnist", "test").labels).tolist() == [100] * 10
    assert not list((bare / "data" / "cache").rglob("*.*"))


def test_the_order_of_sources(bare, monkeypatch, capsys):
    """Cache before COURSE_DATA before the machine's package before the network; each is said."""
    monkeypatch.setattr(library, "DEBIAN", bare / "package")
    homes = {"this machine's package": bare / "package", "COURSE_DATA": bare / "mine"}
    homes["the cache"] = bare / "data" / "cache"
    for value, (name, home) in enumerate(homes.items(), start=10):
        make_copy(home / "fashion-mnist", monkeypatch, value)
        if name == "COURSE_DATA":
            monkeypatch.setenv(name, str(home))
        assert (load_images("fashion-mnist").pixels == value).all()
        assert f"from {name}: 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("below", ["", "fashion-mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("named", ["~/mine", "mine"])
def test_course_data_in_the_home_folder_or_with_the_files_themselves(bare, monkeypatch, capsys, below, named):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(bare))
    monkeypatch.chdir(bare)
    make_copy(bare / "mine" / below, monkeypatch, 20)
    monkeypatch.setenv("COURSE_DATA", named)
    assert (load_images("fashion-mnist").pixels == 20).all()
    assert "from COURSE_DATA: 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("named, message", [("absent", "is no folder"), ("", "has no t.*, t.* in fashion-mnist or ")])
def test_a_course_data_without_the_files_is_said(bare, monkeypatch, named, message):
    monkeypatch.setenv("COURSE_DATA", str(bare / named))
    with pytest.warns(UserWarning, match=f"COURSE_DATA={bare / named} {message}"):
        assert len(load_images("fashion-mnist")) == 10_000


@pytest.mark.parametrize("damage", [lambda whole: whole[:-20], lambda _: b"no", lambda _: gzip.compress(b"other")])
def test_a_damaged_local_copy_is_named_and_passed_over(bare, monkeypatch, capsys, damage):
    make_copy(bare / "mine" / "fashion-mnist", monkeypatch, 20)
    monkeypatch.setenv("COURSE_DATA", str(bare / "mine"))
    path = bare / "mine" / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"passed over, delete it: .*{path.name} is damaged"):
        assert len(load_images("fashion-mnist")) == 10_000
    assert "the small set" in capsys.readouterr().out


def test_the_package_has_the_full_set():
    if not PACKAGE.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    for split, count in (("train", 60_000), ("test", 10_000)):
        full = load_images("fashion-mnist", split)
        assert len(full) == count
        for made, name in zip(choose(full, PER_CLASS[split]), FASHION_FILES[split]):
            assert torch.equal(read_idx(SMALL / name), made)


def test_small_set_is_what_its_script_writes(bare):
    """The first 1,000 (training) and 100 (test) images of each class: of itself, all of it, in its order."""
    for split, count in PER_CLASS.items():
        made = choose(load_images("fashion-mnist", split), count)
        assert all(torch.equal(array, read_idx(SMALL / name)) for array, name in zip(made, FASHION_FILES[split]))
    for array, name in zip(made, FASHION_FILES["test"]):
        write_idx(array, bare / name)
        assert gzip.decompress((bare / name).read_bytes()) == gzip.decompress((SMALL / name).read_bytes())
    assert sum(p.stat().st_size for p in SMALL.iterdir()) < 6e6


def test_idx_layout_and_the_same_bytes_every_time(tmp_path):
    for name in ("a.gz", "b.gz"):
        write_idx(torch.tensor([[7, 8, 9]], dtype=torch.uint8), tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    unpacked = gzip.decompress((tmp_path / "a.gz").read_bytes())
    assert unpacked == bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])


# -- downloads -------------------------------------------------------------------------------------


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        kind, _, name = self.path.strip("/").partition("/")
        if kind == "slow":  # right in the end, for whoever waits so long
            if self.server.released.wait(20):
                return
            self.path, kind = f"/whole/{name}", "whole"
        if kind not in ("half", "chunked"):
            return super().do_GET()
        content = (Path(self.directory) / "whole" / name).read_bytes()
        self.send_response(200)
        length = {"half": ("Content-Length", str(len(content))), "chunked": ("Transfer-Encoding", "chunked")}
        self.send_header(*length[kind])
        self.end_headers()
        self.wfile.write((b"400\r\n" if kind == "chunked" else b"") + content[: len(content) // 2])


@pytest.fixture
def server(bare, monkeypatch, serve):
    make_copy(bare / "public" / "whole", monkeypatch, 30)
    return serve(Handler, directory=str(bare / "public"))


def test_what_was_downloaded_is_cached_and_nothing_else_is_left(bare, server, monkeypatch, capsys):
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/", server + "whole/"])
    assert (load_images("fashion-mnist").pixels == 30).all()
    assert "downloaded" in capsys.readouterr().out
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    assert (load_images("fashion-mnist", "test").pixels == 30).all()
    assert "from the cache" in capsys.readouterr().out
    assert len([path for path in (bare / "data" / "cache").rglob("*") if path.is_file()]) == 4


@pytest.mark.parametrize("page", ["half", "chunked", "absent", "slow"])
def test_a_failed_download_falls_back_to_the_small_set(server, bare, monkeypatch, capsys, page):
    monkeypatch.setattr(library, "TIMEOUT", 0.3)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"{server}{page}/"])
    assert len(load_images("fashion-mnist")) == 10_000
    assert "the small set of the repository" in capsys.readouterr().out
    assert [path.name for path in (bare / "data" / "cache").rglob("*")] == ["fashion-mnist"]


def test_a_download_with_the_wrong_content_is_not_kept(server, bare, monkeypatch, capsys):
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [server + "whole/"])
    write_idx(torch.zeros(4, 28, 28, dtype=torch.uint8), bare / "public" / "whole" / "t10k-images-idx3-ubyte.gz")
    assert len(load_images("fashion-mnist")) == 10_000
    assert not list((bare / "data" / "cache").rglob("*.gz"))


# -- other sources ---------------------------------------------------------------------------------


@pytest.fixture
def cifar10(bare, monkeypatch):
    """The files of a tiny CIFAR-10 in a folder, whose checksums are made the right ones in torchvision."""
    folder = bare / "public" / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    red = np.zeros((2, 3, 32, 32), np.uint8)
    red[:, 0] = 200
    content = {"train_1": {"data": red.reshape(2, -1), "labels": [6, 9]}, "meta": {"label_names": list("abcdefghij")}}
    md5 = {}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["train_1", md5["train_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "meta", "key": "label_names", "md5": md5["meta"]})
    return folder


@pytest.mark.parametrize(
    "place, origin",
    [
        ("data/cache/cifar-10-batches-py", "the cache"),
        ("mine/cifar-10-batches-py", "COURSE_DATA"),
        ("mine", "COURSE_DATA"),
    ],
)
def test_cifar10_on_this_machine(bare, cifar10, monkeypatch, capsys, place, origin):
    (bare / place).parent.mkdir(parents=True, exist_ok=True)
    cifar10.rename(bare / place)
    if "mine" in place:
        monkeypatch.setenv("COURSE_DATA", str(bare / "mine"))
    found = load_images("cifar10")
    assert found.pixels.shape == (2, 3, 32, 32) and found.pixels[0, :, 5, 5].tolist() == [200, 0, 0]
    assert found.labels.tolist() == [6, 9] and found.classes == tuple("abcdefghij")
    assert capsys.readouterr().out == f"CIFAR-10 train, from {origin}: 2 images\n"
    grey = load_images("cifar10", size=16, channels=1)
    assert grey.pixels.shape == (2, 1, 16, 16) and (grey.pixels.float() - 0.299 * 200).abs().max() <= 1


def test_cifar10_is_downloaded_whole_or_not_at_all(bare, cifar10, serve, monkeypatch, capsys):
    with tarfile.open(bare / "public" / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(cifar10, cifar10.name)
    whole = (bare / "public" / "cifar-10-python.tar.gz").read_bytes()
    (bare / "public" / "half.tar.gz").write_bytes(whole[: len(whole) // 2])
    address = serve(http.server.SimpleHTTPRequestHandler, directory=str(bare / "public"))
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(whole).hexdigest())
    cache = bare / "data" / "cache" / "cifar-10-batches-py"
    monkeypatch.setattr(datasets.CIFAR10, "url", address + "half.tar.gz")
    with pytest.raises(OSError, match="cannot be downloaded"):
        load_images("cifar10")
    assert list(cache.parent.rglob("*")) == [cache]
    (cache / "meta").write_bytes(b"half of an older one")
    monkeypatch.setattr(datasets.CIFAR10, "url", address + "cifar-10-python.tar.gz")
    with pytest.warns(UserWarning, match=f"the copy in {cache} is passed over, delete it: .*corrupted"):
        assert len(load_images("cifar10")) == 2
    assert capsys.readouterr().out == "CIFAR-10 train, downloaded: 2 images\n"
    assert sorted(path.name for path in cache.parent.rglob("*")) == [cache.name, "meta", "train_1"]


def test_cifar10_that_is_nowhere_says_what_to_do(bare):
    with pytest.raises(OSError, match="not on this machine and cannot be downloaded .*unpack .* in data/cache"):
        load_images("cifar10")


def test_digits():
    train, test = load_images("digits"), load_images("digits", "test")
    assert train.pixels.shape == (1500, 1, 8, 8) and test.pixels.shape == (297, 1, 8, 8)
    assert train.pixels.min() == 0 and train.pixels.max() == 255
    assert train.images.dtype == torch.float32 and train.images.min() == -1 and train.images.max() == 1
    assert train.labels.unique().tolist() == list(range(10)) and train.classes == tuple("0123456789")


def test_size_and_channels():
    resized = load_images("digits", size=16, channels=3)
    assert resized.pixels.shape == (1500, 3, 16, 16) and resized.pixels.dtype == torch.uint8
    small = load_images("digits")
    torch.testing.assert_close(resized.pixels.float().mean(), small.pixels.float().mean(), rtol=0.02, atol=0)
    with pytest.raises(ValueError, match="channels must be 1 .* or 3 .*, got 2"):
        load_images("digits", channels=2)


def test_a_set_is_a_map_style_data_set():
    digits = load_images("digits")
    image, label = digits[3]
    assert image.shape == (1, 8, 8) and label == 3
    images, labels = digits[torch.tensor([1, 5])]
    torch.testing.assert_close(images, digits.pixels[[1, 5]].float() / 127.5 - 1)
    assert labels.tolist() == [1, 5]
    assert len(list(digits)) == len(digits) == 1500
    batch, _ = next(iter(torch.utils.data.DataLoader(digits, batch_size=4)))
    torch.testing.assert_close(batch, digits.images[:4])


@pytest.mark.parametrize("size", [0, -28])
def test_sizes_that_are_none(tmp_path, size):
    write_picture(tmp_path / "a.png", (1, 2, 3))
    for source in ("digits", tmp_path):
        with pytest.raises(ValueError, match=f"size must be a whole number of at least 1, got {size}"):
            load_images(source, size=size)


def test_unknown_source_and_split(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'cifar'; choose one of fashion-mnist, cifar10, digits, or"):
        load_images("cifar")
    with pytest.raises(ValueError, match="digits has no split 'dev', only train, test"):
        load_images("digits", "dev")
    with pytest.raises(ValueError, match=f"{tmp_path} has no split 'test', only train"):
        load_images(tmp_path, "test")


# -- pictures of one's own -------------------------------------------------------------------------


def write_picture(path, colour, size=(40, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folder_of_classes(tmp_path, capsys):
    write_picture(tmp_path / "red" / "a.png", (255, 0, 0))
    write_picture(tmp_path / "red" / "deeper" / "b.JPG", (250, 0, 0))
    write_picture(tmp_path / "blue" / "c.bmp", (0, 0, 255))
    (tmp_path / "notes.txt").write_text("no picture")
    found = load_images(tmp_path, size=8)
    assert found.classes == ("blue", "red") and found.labels.tolist() == [0, 1, 1]
    assert found.pixels.shape == (3, 3, 8, 8)
    assert found.pixels[0, :, 4, 4].tolist() == [0, 0, 255]
    assert "3 pictures of 8x8, 2 classes" in capsys.readouterr().out


def test_pictures_beside_the_folders_have_no_class_so_none_has_and_that_is_said(tmp_path):
    write_picture(tmp_path / "loose.png", (1, 2, 3))
    write_picture(tmp_path / "red" / "a.png", (255, 0, 0))
    with pytest.warns(UserWarning, match="1 pictures lie beside the folders of .*, loose.png the first: so"):
        found = load_images(tmp_path, size=8)
    assert len(found) == 2 and found.classes == () and found.labels.tolist() == [0, 0]


def test_only_what_opens_makes_a_class(tmp_path):
    """Neither a class of which nothing is left, nor pictures beside the folders that do not open, count."""
    for name in ("blue", "red", "violet"):
        write_picture(tmp_path / name / "a.png", (9, 9, 9))
    (tmp_path / "blue" / "a.png").write_bytes(b"broken")
    (tmp_path / "loose.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=f"2 of 4 pictures in .* do not open: {Path('blue', 'a.png')}, loose"):
        found = load_images(tmp_path, size=4)
    assert found.classes == ("red", "violet") and found.labels.tolist() == [0, 1]


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_picture(tmp_path / "elsewhere" / "a.png", (9, 9, 9))
    write_picture(tmp_path / "mine" / "red" / "b.png", (9, 9, 9))
    links = {"blue": "../elsewhere", "green": "../elsewhere", "red/back": "..", "red/c.png": "b.png"}
    for name, target in links.items():
        (tmp_path / "mine" / name).symlink_to(target)
    (tmp_path / "elsewhere" / "red").symlink_to("../mine/red")  # and back through another
    found = load_images(tmp_path / "mine", size=4)
    assert found.classes == ("blue", "green", "red")
    assert torch.bincount(found.labels).tolist() == [3, 3, 2]


def test_a_link_to_nothing_and_a_folder_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    write_picture(tmp_path / "red" / "a.png", (9, 9, 9))
    write_picture(tmp_path / "shut" / "a.png", (9, 9, 9))
    (tmp_path / "blue").symlink_to("absent")
    (tmp_path / "red" / "b.png").symlink_to("absent.png")
    scandir = os.scandir

    def look_into(path):
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look_into)
    with pytest.warns(UserWarning, match=f"3 of 4 .* do not open: blue, {Path('red', 'b.png')}, shut "):
        found = load_images(tmp_path, size=4)
    assert found.classes == ("red",)


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", ".git", "__MACOSX", "red/.ipynb_checkpoints"])
def test_hidden_folders_and_copies_are_no_classes(tmp_path, folder):
    for name in ("red", "blue", folder):
        write_picture(tmp_path / name / "a.png", (9, 9, 9))
    (tmp_path / "red" / "._a.png").write_bytes(b"what macOS adds")
    found = load_images(tmp_path, size=4)
    assert len(found) == 2 and found.classes == ("blue", "red")


def test_a_hidden_folder_above_does_not_matter(tmp_path):
    write_picture(tmp_path / ".mine" / "a.png", (9, 9, 9))
    assert len(load_images(tmp_path / ".mine", size=4)) == 1


def test_folder_in_grey_and_its_middle_square(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 200  # the middle square
    Image.fromarray(picture).save(tmp_path / "wide.png")
    found = load_images(str(tmp_path), size=10, channels=1)
    assert found.pixels.shape == (1, 1, 10, 10) and found.classes == ()
    assert (found.pixels == 200).all()
    assert load_images(tmp_path).pixels.shape == (1, 3, 64, 64)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_photographs_stand_upright(tmp_path, suffix, mode):
    """All eight orientations of EXIF: where the picture's bright corner and its less bright neighbour come to lie."""
    if mode == "I;16" and suffix in ("jpg", "webp"):
        return
    scene = np.kron([[255, 150], [0, 50]], np.ones((16, 16)))
    turned = [scene, np.fliplr(scene), np.rot90(scene, 2), np.flipud(scene)]
    turned += [scene.T, np.rot90(scene, -1), np.rot90(scene, 2).T, np.rot90(scene)]
    pixels = scene.astype(np.uint8) if mode == "L" else (scene * 257).astype(np.uint16)
    for orientation, expected in enumerate(turned, start=1):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(tmp_path / f"{orientation}.{suffix}", exif=exif, quality=100)
        found = load_images(tmp_path, size=32, channels=1).pixels[orientation - 1, 0]
        assert (found[4::8, 4::8].int() - torch.from_numpy(expected[4::8, 4::8].copy())).abs().max() <= 3, orientation


def middle_pixel(path, picture, **options):
    picture.save(path, **options)
    return load_images(path.parent, size=4).pixels[0, :, 1, 1].tolist()


def test_transparent_pictures_are_seen_on_white(tmp_path):
    """A hidden pixel has some colour too, which must not show."""
    path = tmp_path / "a.png"
    assert middle_pixel(path, Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == [255, 255, 255]
    assert middle_pixel(path, Image.new("RGBA", (4, 4), (255, 0, 0, 128))) == pytest.approx([255, 127, 127], abs=1)
    assert middle_pixel(path, Image.new("LA", (4, 4), (0, 0))) == [255, 255, 255]
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    assert middle_pixel(path, palette) == [10, 20, 30]
    assert middle_pixel(path, palette, transparency=1) == [255, 255, 255]


def test_transparency_is_said_once(tmp_path, capsys):
    for k, alpha in enumerate((0, 254, 255)):
        Image.new("RGBA", (4, 4), (9, 9, 9, alpha)).save(tmp_path / f"{k}.png")
    load_images(tmp_path, size=4)
    expected = f"{tmp_path.name}: 3 pictures of 4x4, no classes, 2 of them transparent in places, seen on white\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    "suffix, dtype, value, expected",
    [
        *[(suffix, np.uint16, value, grey) for suffix in ("png", "tif") for value, grey in SIXTEEN.items()],
        ("tif", ">u2", 20_000, 78),
        ("pgm", np.uint16, 20_000, 78),
        ("tif", np.float32, 0.3, 77),
        ("tif", np.float32, 1.0, 255),
        ("tif", np.float32, 77.4, 77),
        ("tif", np.float32, 20_000, 78),
        ("tif", np.int32, 77, 77),
        ("tif", np.int32, 20_000, 78),
    ],
)
def test_grey_of_more_than_eight_bits(tmp_path, suffix, dtype, value, expected):
    values = np.full((4, 4), value, dtype)
    big_endian = Image.frombytes("I;16B", (4, 4), values.tobytes()) if dtype == ">u2" else None
    assert middle_pixel(tmp_path / f"a.{suffix}", big_endian or Image.fromarray(values)) == [expected] * 3


def test_a_dark_picture_of_sixteen_bits_stays_dark_and_its_hidden_value_is_seen_on_white(tmp_path):
    values = np.full((4, 4), 200, np.uint16)
    assert middle_pixel(tmp_path / "a.png", Image.fromarray(values)) == [1] * 3
    raw = b"".join(b"\0" + row.tobytes() for row in values.astype(">u2"))
    write_png(tmp_path / "a.png", (4, 4, 16, 0, 0, 0, 0), raw, (b"tRNS", struct.pack(">H", 200)))
    assert load_images(tmp_path, size=4).pixels.unique().tolist() == [255]


@pytest.mark.parametrize("dtype, value", [("f4", -1), ("f4", np.nan), ("f4", 1e6), ("i4", 70_000), ("i4", -1)])
def test_values_of_which_the_white_is_not_known_are_named(tmp_path, dtype, value):
    Image.fromarray(np.full((4, 4), value, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(
        ValueError, match="a.tif .the first with ValueError: its values reach from .*, expected 0 to 1, 255 or 65"
    ):
        load_images(tmp_path)


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "RGB", "L"])
def test_other_modes(tmp_path, mode):
    picture = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    assert min(middle_pixel(tmp_path / ("a.tif" if mode in ("1", "CMYK") else "a.jpg"), picture)) >= 254


def write_png(path, header, raw, *more):
    """A PNG from its parts: those of IHDR, the rows, and further chunks; any of them may be wrong."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header) if len(header) == 7 else bytes(header)), *more]
    chunks += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def test_pictures_that_do_not_open_are_named_skipped_and_counted(tmp_path, monkeypatch):
    """Each raises something else in Pillow, SyntaxError and ValueError among it."""
    write_picture(tmp_path / "good.png", (1, 2, 3))
    whole, row = (tmp_path / "good.png").read_bytes(), b"\0" + bytes(4)
    for name, content in {
        "broken.png": b"not a picture",
        "bmp1.bmp": b"BM" + bytes(60),
        "bmp2.bmp": b"BM" + b"\xff" * 60,
        "gif.gif": b"GIF89a\1\0\1\0",
        "half.png": whole[: len(whole) // 2],
        "photo.heic": b"\0\0\0\x18ftypheic",
        "pgm.pgm": b"P5\nxx",
        "tif.tif": b"II*\0\x08\0\0\0\xff\xff",
        "webp.webp": b"RIFF\0\0\0\0WEBPVP8 ",
    }.items():
        (tmp_path / name).write_bytes(content)
    grey = (4, 4, 8, 0, 0, 0, 0)
    profile = b"icc\0\0" + zlib.compress(b"a" * 3_000_000)
    write_png(tmp_path / "icc.png", grey, row * 4, (b"iCCP", profile))
    write_png(tmp_path / "ihdr1.png", (0, 0, 0), row * 4)
    write_png(tmp_path / "ihdr2.png", (0, 0, 8, 0, 0, 0, 0), b"")
    write_png(tmp_path / "ihdr3.png", (4, 4, 77, 0, 0, 0, 0), row * 4)
    comment = PngInfo()
    comment.add_text("a", "a" * 2_000_000, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "text.png", pnginfo=comment)
    write_picture(tmp_path / "vast.png", (1, 2, 3), size=(90, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    names = ", ".join(sorted(set(os.listdir(tmp_path)) - {"good.png"}))
    with pytest.warns(UserWarning, match=f"15 of 16 pictures in .* do not open: {names} .the"):
        assert len(load_images(tmp_path)) == 1


def test_a_folder_whose_name_the_console_cannot_show(tmp_path, monkeypatch):
    write_picture(tmp_path / "кот" / "a.png", (1, 2, 3))
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    assert load_images(tmp_path / "кот", size=4).source == "the folder кот"
    console.flush()
    assert console.buffer.getvalue().startswith(b"\\u043a\\u043e\\u0442: 1 pictures")


def test_folder_where_no_picture_opens(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 1 pictures in .* do not open: broken.png .the first with "):
        load_images(tmp_path)


def test_folder_without_pictures(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=f"no pictures in {tmp_path}: looked for .*.jpg.*.png"):
        load_images(tmp_path)


# -- a grid as a file ------------------------------------------------------------------------------


def test_save_grid_writes_clamped_images_whose_pixels_are_squares(tmp_path):
    images = torch.linspace(-2, 2, 3 * 4 * 5).reshape(3, 1, 4, 5)
    path = save_grid(images, tmp_path / "new" / "grid.png", columns=3, scale=2)
    grid = np.asarray(Image.open(path))
    assert grid.shape == (2 * (4 + 2 * 2), 2 * (3 * 5 + 4 * 2), 3)
    expected = ((images.clamp(-1, 1) + 1) / 2 * 255).round()[1, 0].numpy()
    for y, x in ((4, 18), (5, 19)):
        assert (grid[y : y + 8 : 2, x : x + 10 : 2, 0] == expected).all()
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


def test_save_grid_of_pixels_is_that_of_their_images(tmp_path):
    digits = load_images("digits", "test")
    files = [save_grid(images[:9], tmp_path / "grid.png").read_bytes() for images in (digits.pixels, digits.images)]
    assert files[0] == files[1]


def test_save_grid_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "grid.png")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="16 of 16 image values are not a number"):
        save_grid(torch.full((1, 1, 4, 4), float("nan")), path)

    def full_disk(self, file, format):
        Path(file).write_bytes(b"part")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_grid(torch.ones(1, 1, 4, 4), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

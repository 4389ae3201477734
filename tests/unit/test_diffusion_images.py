"""load_images: the order of sources, torchvision's downloads, folders of pictures; and save_grid."""

import gzip
import hashlib
import http.server
import pickle
import threading
import time
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
        monkeypatch.setenv("COURSE_DATA", str(bare / "mine"))
        assert (load_images("fashion-mnist").pixels == value).all()
        assert f"from {name}: 4 images" in capsys.readouterr().out


@pytest.mark.parametrize("damage", [lambda whole: whole[:-20], lambda _: b"no", lambda _: gzip.compress(b"other")])
def test_a_damaged_local_copy_is_named_and_passed_over(bare, monkeypatch, capsys, damage):
    make_copy(bare / "mine" / "fashion-mnist", monkeypatch, 20)
    monkeypatch.setenv("COURSE_DATA", str(bare / "mine"))
    path = bare / "mine" / "fashion-mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{path.name} is damaged .*passed over, delete it"):
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
        if kind == "slow":
            return self.server.released.wait(20)
        if kind not in ("half", "chunked"):
            return super().do_GET()
        content = (Path(self.directory) / "whole" / name).read_bytes()
        self.send_response(200)
        length = {"half": ("Content-Length", str(len(content))), "chunked": ("Transfer-Encoding", "chunked")}
        self.send_header(*length[kind])
        self.end_headers()
        self.wfile.write((b"400\r\n" if kind == "chunked" else b"") + content[: len(content) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(bare, monkeypatch):
    make_copy(bare / "public" / "whole", monkeypatch, 30)

    def handler(*arguments):
        return Handler(*arguments, directory=str(bare / "public"))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.released, running.daemon_threads = threading.Event(), True
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.released.set()
        running.shutdown()


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
    started = time.monotonic()
    assert len(load_images("fashion-mnist")) == 10_000
    assert time.monotonic() - started < 10
    assert "the small set of the repository" in capsys.readouterr().out
    assert [path.name for path in (bare / "data" / "cache").rglob("*")] == ["fashion-mnist"]


def test_a_download_with_the_wrong_content_is_not_kept(server, bare, monkeypatch, capsys):
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [server + "whole/"])
    write_idx(torch.zeros(4, 28, 28, dtype=torch.uint8), bare / "public" / "whole" / "t10k-images-idx3-ubyte.gz")
    assert len(load_images("fashion-mnist")) == 10_000
    assert not list((bare / "data" / "cache").rglob("*.gz"))


# -- other sources ---------------------------------------------------------------------------------


def test_cifar10_from_the_cache(bare, monkeypatch, capsys):
    folder = bare / "data" / "cache" / "cifar-10-batches-py"
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
    found = load_images("cifar10")
    assert found.pixels.shape == (2, 3, 32, 32) and found.pixels[0, :, 5, 5].tolist() == [200, 0, 0]
    assert found.labels.tolist() == [6, 9] and found.classes == tuple("abcdefghij")
    assert "CIFAR-10 train: 2 images" in capsys.readouterr().out
    grey = load_images("cifar10", size=16, channels=1)
    assert grey.pixels.shape == (2, 1, 16, 16) and (grey.pixels.float() - 0.299 * 200).abs().max() <= 1


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


def test_unknown_source_and_split():
    with pytest.raises(ValueError, match="unknown data set 'cifar'; choose one of fashion-mnist, cifar10, digits, or"):
        load_images("cifar")
    with pytest.raises(ValueError, match="unknown split 'dev'; choose one of train, test"):
        load_images("digits", "dev")


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


def test_pictures_beside_the_folders_have_no_class_so_none_has(tmp_path):
    write_picture(tmp_path / "loose.png", (1, 2, 3))
    write_picture(tmp_path / "red" / "a.png", (255, 0, 0))
    found = load_images(tmp_path, size=8)
    assert len(found) == 2 and found.classes == () and found.labels.tolist() == [0, 0]


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


def test_a_photograph_stands_upright(tmp_path):
    """Orientation 6: the camera was turned, the top of the scene is the left edge of the stored rows."""
    picture = Image.new("RGB", (16, 16))
    picture.paste((255, 255, 255), (0, 0, 8, 16))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.png", exif=exif)
    image = load_images(tmp_path, size=16, channels=1).pixels[0, 0]
    assert (image[:8] == 255).all() and (image[8:] == 0).all()


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


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_grey(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for value, expected in ((20_000, 78), (0, 0), (65_535, 255)):  # 20,000 / 257
        found = middle_pixel(path, Image.fromarray(np.full((4, 4), value, np.uint16)))
        assert found == [expected] * 3
    if suffix == "tif":  # whole numbers of 32 bits, beyond what 16 hold
        assert middle_pixel(path, Image.fromarray(np.full((4, 4), 70_000, np.int32))) == [255] * 3


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "RGB", "L"])
def test_other_modes(tmp_path, mode):
    picture = Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode)
    assert min(middle_pixel(tmp_path / ("a.tif" if mode in ("1", "CMYK") else "a.jpg"), picture)) >= 254


def test_pictures_that_do_not_open_are_named_skipped_and_counted(tmp_path, monkeypatch):
    write_picture(tmp_path / "good.png", (1, 2, 3))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    comment = PngInfo()
    comment.add_text("a", "a" * 2_000_000, zip=True)  # Pillow raises a ValueError of its own
    Image.new("L", (4, 4)).save(tmp_path / "comment.png", pnginfo=comment)
    write_picture(tmp_path / "vast.png", (1, 2, 3), size=(90, 90))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    names = "broken.png, comment.png, half.png, vast.png"
    with pytest.warns(UserWarning, match=f"4 of 5 pictures do not open and were skipped: {names}"):
        assert len(load_images(tmp_path)) == 1


def test_folder_where_no_picture_opens(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 pictures in .* opens; the first is broken.png"):
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

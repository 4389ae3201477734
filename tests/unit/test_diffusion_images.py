"""load_images: the order of sources, folders of pictures, the file format, downloads; and Batches."""

import gzip
import hashlib
import http.server
import itertools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from utils.diffusion import images as library
from utils.diffusion.batches import Batches
from utils.diffusion.images import FASHION_FILES, ImageSet, download, load_images, read_idx, write_idx

PACKAGE = Path("/usr/share/datasets/fashion-mnist")
SMALL = Path(__file__).resolve().parents[2] / "data" / "fashion-mnist-small"


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with the repository's own data and nothing else, and no network."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "fashion-mnist-small").symlink_to(SMALL)
    monkeypatch.setattr(library, "ROOT", tmp_path)
    monkeypatch.delenv("COURSE_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = library._local_folders
    monkeypatch.setattr(library, "_local_folders", lambda: [x for x in found() if x[0] != PACKAGE])
    monkeypatch.setattr(library, "FASHION_URL", "http://127.0.0.1:9/")  # the discard port: nobody listens
    return tmp_path


def make_copy(folder, monkeypatch, value):
    """A tiny stand-in for the full set, whose checksums are made the right ones."""
    checksums = dict(library.FASHION_SHA256)
    for names in FASHION_FILES.values():
        write_idx(torch.full((4, 28, 28), value, dtype=torch.uint8), folder / names[0])
        write_idx(torch.arange(4, dtype=torch.uint8), folder / names[1])
        for name in names:
            checksums[name] = hashlib.sha256(gzip.decompress((folder / name).read_bytes())).hexdigest()
    monkeypatch.setattr(library, "FASHION_SHA256", checksums)


# -- where Fashion-MNIST comes from ----------------------------------------------------------------


def test_without_a_network_the_small_set_is_used_and_said(bare, capsys):
    train = load_images("fashion-mnist")
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and "the small set of the repository: no full copy here" in line
    assert train.pixels.shape == (10_000, 1, 28, 28) and train.pixels.dtype == torch.uint8
    assert torch.bincount(train.labels).tolist() == [1000] * 10
    assert torch.bincount(load_images("fashion-mnist", "test").labels).tolist() == [100] * 10
    assert not list((bare / "data").rglob("*.part"))


def test_the_order_of_sources(bare, monkeypatch, capsys):
    """Cache before COURSE_DATA before the network; each is said."""
    make_copy(bare / "course-data" / "fashion-mnist", monkeypatch, 20)
    monkeypatch.setenv("COURSE_DATA", str(bare / "course-data"))
    assert (load_images("fashion-mnist").pixels == 20).all()
    assert "from COURSE_DATA" in capsys.readouterr().out
    make_copy(bare / "data" / "cache" / "fashion-mnist", monkeypatch, 10)
    assert (load_images("fashion-mnist").pixels == 10).all()
    assert "from the cache" in capsys.readouterr().out


def test_a_damaged_local_copy_is_named_and_passed_over(bare, monkeypatch, capsys):
    make_copy(bare / "course-data" / "fashion-mnist", monkeypatch, 20)
    monkeypatch.setenv("COURSE_DATA", str(bare / "course-data"))
    path = bare / "course-data" / "fashion-mnist" / FASHION_FILES["train"][0]
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"not gzip", gzip.compress(b"other bytes")):
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{path.name} is damaged .*passed over; delete it"):
            assert len(load_images("fashion-mnist")) == 10_000
        assert "the small set" in capsys.readouterr().out


def test_the_package_has_the_full_set(capsys):
    if not PACKAGE.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    assert len(load_images("fashion-mnist")) == 60_000
    assert len(load_images("fashion-mnist", "test")) == 10_000


def test_small_set_is_what_its_script_makes(tmp_path):
    """The first 1,000 (training) and 100 (test) images of each class, byte for byte."""
    if not PACKAGE.exists():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    for split, count in (("train", 1000), ("test", 100)):
        full = load_images("fashion-mnist", split)
        chosen = sorted(i for k in range(10) for i in (full.labels == k).nonzero().flatten()[:count].tolist())
        made = (full.pixels[chosen, 0], full.labels[chosen].byte())
        for name, expected in zip(FASHION_FILES[split], made):
            write_idx(expected, tmp_path / name)
            assert torch.equal(read_idx(SMALL / name), expected)
            assert gzip.decompress((tmp_path / name).read_bytes()) == gzip.decompress((SMALL / name).read_bytes())
    assert sum(p.stat().st_size for p in SMALL.iterdir()) < 6e6


# -- other sources ---------------------------------------------------------------------------------


def test_digits():
    train, test = load_images("digits"), load_images("digits", "test")
    assert train.pixels.shape == (1500, 1, 8, 8) and test.pixels.shape == (297, 1, 8, 8)
    assert train.pixels.min() == 0 and train.pixels.max() == 255
    images, labels = train
    assert images.dtype == torch.float32 and images.min() == -1 and images.max() == 1
    assert labels.unique().tolist() == list(range(10)) and train.classes == tuple("0123456789")


def test_size_and_channels():
    resized = load_images("digits", size=16, channels=3)
    assert resized.pixels.shape == (1500, 3, 16, 16) and resized.pixels.dtype == torch.uint8
    small = load_images("digits")
    torch.testing.assert_close(resized.pixels.float().mean(), small.pixels.float().mean(), rtol=0.02, atol=0)


def test_index_gives_floats_and_labels():
    digits = load_images("digits")
    image, label = digits[3]
    assert image.shape == (1, 8, 8) and label == 3
    images, labels = digits[torch.tensor([1, 5])]
    torch.testing.assert_close(images, digits.pixels[[1, 5]].float() / 127.5 - 1)
    assert labels.tolist() == [1, 5]


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
    assert "3 pictures of 8x8" in capsys.readouterr().out


def test_folder_in_grey_and_its_middle_square(tmp_path):
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 20:40] = 200  # the middle square
    Image.fromarray(picture).save(tmp_path / "wide.png")
    found = load_images(str(tmp_path), size=10, channels=1)
    assert found.pixels.shape == (1, 1, 10, 10) and found.classes == ()
    assert (found.pixels == 200).all()
    assert load_images(tmp_path).pixels.shape == (1, 3, 64, 64)


def test_pictures_that_do_not_open_are_named_skipped_and_counted(tmp_path):
    write_picture(tmp_path / "good.png", (1, 2, 3))
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="2 of 3 pictures do not open and were skipped: broken.png, half.png"):
        assert len(load_images(tmp_path)) == 1


def test_folder_where_no_picture_opens(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 1 pictures in .* opens; the first is broken.png"):
        load_images(tmp_path)


def test_folder_without_pictures(tmp_path):
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(ValueError, match=f"no pictures in {tmp_path}: looked for .*.jpg.*.png"):
        load_images(tmp_path)


def test_unknown_source_and_split():
    with pytest.raises(ValueError, match="unknown data set 'cifar'; choose one of fashion-mnist, digits, or give"):
        load_images("cifar")
    with pytest.raises(ValueError, match="unknown split 'dev'; choose one of train, test"):
        load_images("digits", "dev")


# -- the file format -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0,), (5,), (3, 4), (2, 3, 4)])
def test_idx_there_and_back(tmp_path, shape):
    array = torch.randint(256, shape, dtype=torch.uint8)
    write_idx(array, tmp_path / "a.gz")
    assert torch.equal(read_idx(tmp_path / "a.gz"), array)
    time.sleep(0.01)
    write_idx(array, tmp_path / "b.gz")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_idx_layout(tmp_path):
    write_idx(torch.tensor([[7, 8, 9]], dtype=torch.uint8), tmp_path / "a.gz")
    unpacked = gzip.decompress((tmp_path / "a.gz").read_bytes())
    assert unpacked == bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])


def test_other_files_are_no_idx(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\x00\x00\x0d\x01abc"))
    with pytest.raises(ValueError, match="a.gz is no IDX file of unsigned bytes: it begins with 00000d01"):
        read_idx(tmp_path / "a.gz")


# -- downloads -------------------------------------------------------------------------------------

CONTENT = gzip.compress(bytes(range(256)) * 800)
SHA256 = hashlib.sha256(bytes(range(256)) * 800).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/absent"):
            return self.send_error(404)
        if self.path == "/slow":
            return self.server.released.wait(20)
        self.send_response(200)
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"400\r\n" + CONTENT[:100])
        if self.path != "/no-length":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # a machine's proxy must not come between
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.released, running.daemon_threads = threading.Event(), True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.released.set()
        running.shutdown()


def test_download_of_a_whole_file(server, tmp_path):
    download(f"{server}/whole", tmp_path / "deep" / "file.gz", SHA256)
    assert (tmp_path / "deep" / "file.gz").read_bytes() == CONTENT
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize("page, sha256, message", [
    ("half", SHA256, "half broke off .*; try again"),
    ("no-length", SHA256, "no-length did not arrive whole"),
    ("chunked", SHA256, "chunked broke off"),
    ("whole", "0" * 64, f"whole has SHA-256 {SHA256}, expected 0000"),
    ("absent", SHA256, "404"),
    ("slow", SHA256, "timed out"),
])  # fmt: skip
def test_download_that_fails_leaves_nothing_behind(server, tmp_path, page, sha256, message):
    (tmp_path / "file.gz").write_bytes(b"the old one")
    with pytest.raises(OSError, match=message):
        download(f"{server}/{page}", tmp_path / "file.gz", sha256, timeout=0.5 if page == "slow" else 20)
    assert [p.name for p in tmp_path.iterdir()] == ["file.gz"]
    assert (tmp_path / "file.gz").read_bytes() == b"the old one"


@pytest.mark.parametrize("page", ["half", "chunked", "absent"])
def test_a_failed_download_falls_back_to_the_small_set(server, bare, monkeypatch, capsys, page):
    monkeypatch.setattr(library, "FASHION_URL", f"{server}/{page}?")
    assert len(load_images("fashion-mnist")) == 10_000
    assert "the small set of the repository" in capsys.readouterr().out
    assert not list((bare / "data").rglob("*.part"))


def test_what_was_downloaded_is_cached(bare, monkeypatch, capsys):
    make_copy(bare / "public", monkeypatch, 30)
    handler = lambda *a: Quiet(*a, directory=str(bare / "public"))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(library, "FASHION_URL", f"http://127.0.0.1:{running.server_port}/")
        assert (load_images("fashion-mnist").pixels == 30).all()
        assert "downloaded" in capsys.readouterr().out
        running.shutdown()
    assert (load_images("fashion-mnist").pixels == 30).all()  # the server is gone
    assert "from the cache" in capsys.readouterr().out


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


# -- batches ---------------------------------------------------------------------------------------


def test_every_image_is_seen_once_an_epoch_in_a_new_order():
    images = torch.linspace(-1, 1, 12).view(12, 1, 1, 1)
    batches = Batches(images, torch.arange(12), batch_size=4, seed=0)
    epochs = [torch.cat([batches(3 * e + k)[1] for k in range(3)]) for e in range(3)]
    assert all(sorted(order.tolist()) == list(range(12)) for order in epochs)
    assert len({tuple(order.tolist()) for order in epochs}) == 3
    x_0, y = batches(7)
    torch.testing.assert_close(x_0, images[y])


def test_a_batch_depends_on_seed_and_step_alone():
    images = torch.rand(50, 1, 2, 2)
    straight = Batches(images, None, 8, seed=3)
    expected = [straight(step)[0] for step in range(20)]
    for step in reversed(range(20)):
        torch.testing.assert_close(Batches(images, None, 8, seed=3)(step)[0], expected[step])
    assert not torch.equal(Batches(images, None, 8, seed=4)(0)[0], expected[0])


def test_kinds_of_images():
    pixels = torch.randint(256, (10, 1, 4, 4), dtype=torch.uint8)
    labels = torch.arange(10)
    expected = pixels.float() / 127.5 - 1
    sources = {
        "uint8": (pixels, None), "float": (expected, None),
        "set": (ImageSet(pixels, labels, tuple("abcdefghij")), None),
        "set without classes": (ImageSet(pixels, labels), None), "with labels": (pixels, labels),
        "pairs": (TensorDataset(expected, labels), None), "uint8 pairs": (TensorDataset(pixels, labels), None),
    }  # fmt: skip
    index = torch.tensor([3, 7])
    for name, (images, given) in sources.items():
        x_0, y = Batches(images, given, 2, seed=0).at(index)
        torch.testing.assert_close(x_0, expected[index], msg=name)
        wanted = None if name in ("uint8", "float", "set without classes") else [3, 7]
        assert (None if y is None else y.tolist()) == wanted, name


def test_fewer_images_than_a_batch():
    batches = Batches(torch.zeros(3, 1, 2, 2), None, 128, seed=0)
    assert batches.batch_size == 3 and len(batches(5)[0]) == 3


@pytest.mark.parametrize("low, high", [(0.0, 255.0), (-1.0, 1.5), (-2.0, 0.0), (float("nan"), 1.0)])
@pytest.mark.parametrize("as_dataset", [False, True])
def test_images_outside_the_range(low, high, as_dataset):
    images = torch.zeros(4, 1, 2, 2)
    images[0, 0, 0, 0], images[1] = low, high
    with pytest.raises(ValueError, match=r"images must lie in \[-1, 1\], got values from .*; scale pixels of 0..255"):
        Batches(TensorDataset(images, torch.zeros(4)) if as_dataset else images, None, 4, seed=0)(0)


def test_other_bad_images():
    good = torch.zeros(4, 1, 2, 2)
    for arguments, message in [
        ((good[:0], None, 2, 0), "there are no images"),
        ((good[0], None, 2, 0), r"images must have shape \(N, C, H, W\), got \(1, 2, 2\)"),
        ((good, torch.zeros(3), 2, 0), "3 labels for 4 images"),
        ((good, None, 0, 0), "batch_size must be at least 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            Batches(*arguments)


def test_labels_outside_the_classes():
    from utils.diffusion.batches import check_labels

    check_labels(torch.tensor([0, 9]), 10)
    for bad, others in itertools.product([-1, 10, 77], [[], [3]]):
        with pytest.raises(ValueError, match=f"label {bad} is outside the classes 0..9"):
            check_labels(torch.tensor([*others, bad]), 10)

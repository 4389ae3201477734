"""utils.files.download: all of a file, or nothing of it."""

import hashlib
import http.server

import pytest

from utils.files import download

CONTENT = bytes(range(256)) * 800
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/absent":
            return self.send_error(404)
        if self.path == "/slow":
            return self.server.released.wait(20)
        self.send_response(200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self.wfile.write(b"400\r\n" + CONTENT[:100])
        if self.path != "/no-length":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT if self.path == "/whole" else CONTENT[: len(CONTENT) // 2])


@pytest.fixture
def server(serve):
    return serve(Handler)


def test_download_of_a_whole_file(server, tmp_path):
    download(f"{server}whole", tmp_path / "deep" / "file.bin", SHA256)
    assert (tmp_path / "deep" / "file.bin").read_bytes() == CONTENT
    assert len(list((tmp_path / "deep").iterdir())) == 1


@pytest.mark.parametrize(
    "page, sha256, message",
    [
        ("half", SHA256, "half broke off .*; try again"),
        ("no-length", SHA256, f"no-length has SHA-256 .*, expected {SHA256}"),
        ("chunked", SHA256, "chunked broke off"),
        ("whole", "0" * 64, f"whole has SHA-256 {SHA256}, expected 0000"),
        ("absent", SHA256, "404"),
        ("slow", SHA256, "timed out"),
    ],
)
def test_download_that_fails_leaves_nothing_behind(server, tmp_path, page, sha256, message):
    (tmp_path / "file.bin").write_bytes(b"the old one")
    with pytest.raises(OSError, match=message):
        download(f"{server}{page}", tmp_path / "file.bin", sha256, timeout=0.5 if page == "slow" else 20)
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]
    assert (tmp_path / "file.bin").read_bytes() == b"the old one"

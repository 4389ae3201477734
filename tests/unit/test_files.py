"""utils.files: what is replaced and what is written into, copies that COURSE_DATA names, lines on any console."""

import io
import os
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image
from torch import nn

from utils.files import check_writable, find_copy, lock_folder, save_state, save_weights, say, write_atomically

posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


def write_text(path):
    write_atomically(path, "content\n")


def write_callable(path):
    write_atomically(path, lambda part: part.write_bytes(b"content\n"))


def write_state(path):
    save_state(path, {"tensor": torch.zeros(100), "step": 3})


def write_weights(path):
    save_weights(path, nn.Linear(3, 3))


WRITERS = [write_text, write_callable, write_state, write_weights]


@posix
@pytest.mark.parametrize("write", WRITERS)
def test_a_pipe_gets_the_content_and_stays_a_pipe(tmp_path, write):
    write(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    write(tmp_path / "link")
    reader.join(20)
    assert len(got[0]) == (tmp_path / "file").stat().st_size or write is write_state  # torch writes the name in
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink() and len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("write", WRITERS)
def test_a_device_is_not_replaced(tmp_path, write):
    """A device of our own: should this fail, the system's own must not be lost."""
    try:
        os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    except (AttributeError, OSError):
        pytest.skip("no device can be made here")
    write(tmp_path / "null")
    assert (tmp_path / "null").is_char_device() and os.listdir(tmp_path) == ["null"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_stays_and_its_target_is_replaced(tmp_path, write):
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    (tmp_path / "new").symlink_to("folder/file")  # whose target is not there yet
    for name in ("link", "new"):
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / name).read_bytes() not in (b"", b"old")
    assert os.listdir(tmp_path / "folder") == ["file"]


@posix
@pytest.mark.parametrize("redirect", ["| cat", "> {log}; cat {log}", "> {log} 2>&1; cat {log}", ">> {log}; cat {log}"])
@pytest.mark.parametrize("target", ["/dev/stdout", "/dev/fd/1", "{log}"])
def test_what_is_written_where_the_program_prints_stands_between_its_lines(root, tmp_path, redirect, target):
    log = tmp_path / "log"
    if target == "{log}" and redirect == "| cat":
        return
    program = "import sys; from utils.files import write_atomically; print('a'); write_atomically(sys.argv[1], 'b\\n')"
    line = f'"{sys.executable}" -c "{program}; print(\'c\')" {target} {redirect}'.format(log=log)
    done = subprocess.run(line, shell=True, cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("a\nb\nc\n", "")


@pytest.mark.parametrize("error", [TypeError("no"), KeyError("no"), ValueError("no")])
def test_an_error_of_the_content_is_not_taken_for_a_full_disk(tmp_path, error):
    def fail(part):
        part.write_bytes(b"half")
        raise error

    with pytest.raises(type(error), match="no"):
        write_atomically(tmp_path / "file", fail)
    assert os.listdir(tmp_path) == []


def test_a_folder_is_not_written_over(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="could not save folder: .*; the old"):
        write_text(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


@posix
def test_a_pipe_can_be_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")
    assert os.listdir(tmp_path) == ["pipe"]


def test_only_where_the_disk_may_be_full_it_is_asked(tmp_path):
    def fail(part):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(OSError, match="could not save file: .*Permission denied; nothing was written$"):
        write_atomically(tmp_path / "file", fail)


@posix
def test_who_may_read_a_file_does_not_change(tmp_path):
    for mode in (0o600, 0o664):
        (tmp_path / "file").touch()
        (tmp_path / "file").chmod(mode)
        write_text(tmp_path / "file")
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_the_temporary_file_of_another_machine_stays(tmp_path, monkeypatch):
    """Two containers that share a folder have processes of the same number."""
    there = []
    monkeypatch.setattr("platform.node", lambda: "another")
    write_atomically(tmp_path / "file", lambda part: (there.append(part), part.write_text("there")))
    there[0].write_text("half")
    monkeypatch.undo()
    write_atomically(tmp_path / "file", lambda part: (there.append(part), part.write_text("here")))
    assert there[0] != there[1] and there[0].read_text() == "half"


@posix
def test_a_lock_that_another_training_removes_meanwhile_locks_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *args: (tmp_path / ".lock").unlink())
    with pytest.raises(OSError, match="another process trains in "), lock_folder(tmp_path):
        pass


# -- COURSE_DATA ---------------------------------------------------------------------------------------


def test_a_copy_is_looked_for_in_the_folders_and_in_course_data_itself(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine" / "set").mkdir(parents=True)
    for file in ("a", "b"):
        (tmp_path / "mine" / "set" / file).touch()
    expected = tmp_path / "mine" / "set"
    for named in (tmp_path / "mine", "~/mine", "~/mine/set"):
        monkeypatch.setenv("COURSE_DATA", str(named))
        assert find_copy(["a", "b"], "other", "deep/set", "set") == expected
    assert find_copy(["a", "b"], "other", "") == expected, "where the caller says so, under any name"
    monkeypatch.delenv("COURSE_DATA")
    assert find_copy(["a"], "set") is None and not recwarn.list


@pytest.mark.parametrize(
    "named, message",
    [("absent", "is no folder"), ("file", "is no folder"), (".", "has no a, b in set; passed"), ("~nobody/x", "is no")],
)
def test_a_course_data_that_does_not_help_is_said(tmp_path, monkeypatch, named, message):
    (tmp_path / "file").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a").touch()
    (tmp_path / "b").touch()  # all of them, but in no one place
    (tmp_path / "a").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COURSE_DATA", named)
    with pytest.warns(UserWarning, match=f"COURSE_DATA={named} {message}"):
        assert find_copy(["a", "b"], "set") is None


@pytest.mark.parametrize(
    "code, expected", [("cp1252", "\\u043a\\u043e\\u0442 é"), ("ascii", "\\u043a\\u043e\\u0442 \\xe9")]
)
def test_a_line_is_printed_on_any_console(monkeypatch, code, expected):
    console = io.TextIOWrapper(io.BytesIO(), encoding=code)
    monkeypatch.setattr(sys, "stdout", console)
    say("кот é")
    console.flush()
    assert console.buffer.getvalue().decode(code).strip() == expected
    monkeypatch.setattr(sys, "stdout", None)
    say("кот")


@pytest.mark.parametrize("code", ["cp1252", "ascii"])
def test_a_training_on_a_console_without_the_letters_of_its_folders(root, tmp_path, code):
    (tmp_path / "коты").mkdir()
    Image.new("L", (8, 8), 9).save(tmp_path / "коты" / "кот.png")
    options = ["--size", "8", "--channels", "16", "--steps", "1", "--batch-size", "1", "--device", "cpu"]
    line = [sys.executable, "-m", "utils.diffusion", "train", "--data", "коты", "--out", "вывод", *options]
    environment = os.environ | {"PYTHONIOENCODING": code, "PYTHONPATH": str(root)}
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "done: 1 steps" in done.stdout and "\\u0432\\u044b\\u0432\\u043e\\u0434" in done.stdout

"""start, Runtime.pick and what they find."""

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from notebooks.build import peak_memory_mib
from utils.course import start
from utils.course.runtime import PROFILES, Runtime, find_profile
from utils.device import cpu_flags, find_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_start_prints_one_line_that_says_what_it_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_PROFILE", "cpu")
    monkeypatch.setattr("utils.course.runtime.ROOT", tmp_path)
    course = start()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "profile cpu" in printed and "torch " in printed and course.device.type in {"cpu", "cuda", "mps"}
    assert course.root == tmp_path and course.build == tmp_path / "build" and course.build.is_dir()


@pytest.mark.parametrize("lacks", ["folder", "permission"])
@pytest.mark.parametrize("home", [True, False])
def test_a_checkout_that_is_read_only_has_its_files_elsewhere(monkeypatch, tmp_path, capsys, lacks, home):
    """As in a shared hub. Root may write anywhere, so a file stands in the way, or the attempt to write is refused."""
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "checkout").mkdir()
    shut = [tmp_path / "checkout" / "build"] + [tmp_path / "home"] * (not home)
    if lacks == "folder":
        for path in shut:
            path.touch()
    else:
        attempt = tempfile.TemporaryFile
        refuse = PermissionError(13, "Permission denied")

        def write(dir):
            if any(path in (dir, *dir.parents) for path in shut):
                raise refuse
            return attempt(dir=dir)

        monkeypatch.setattr(tempfile, "TemporaryFile", write)
    monkeypatch.setattr("utils.course.runtime.ROOT", tmp_path / "checkout")
    build = start().build
    first, ready = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'checkout' / 'build'} cannot be written in; files go to {build}"
    assert ready.startswith("Course ready") and (build / "file").write_text("x") == 1
    assert (build == tmp_path / "home" / "diffusion-ner-course-build") == home


def test_no_folder_that_can_be_written_in(monkeypatch, tmp_path):
    (tmp_path / "build").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "build"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "build"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "build"))
    monkeypatch.setattr("utils.course.runtime.ROOT", tmp_path)
    with pytest.raises(OSError, match="neither .*build nor .* can be written in; make one of them writable"):
        start()


def test_the_same_seed_gives_the_same_numbers_from_all_three_generators():
    def draw(seed):
        start(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4)))


def test_profile_from_the_environment_else_from_the_device(monkeypatch):
    monkeypatch.delenv("COURSE_PROFILE", raising=False)
    assert [find_profile(CPU), find_profile(CUDA), find_profile(torch.device("mps"))] == ["cpu", "gpu", "gpu"]
    for profile in PROFILES:
        monkeypatch.setenv("COURSE_PROFILE", profile)
        assert find_profile(CPU) == find_profile(CUDA) == profile


def test_unknown_profile_is_refused_with_the_valid_ones(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    with pytest.raises(ValueError, match="'laptop'.*test, cpu, gpu"):
        start()


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({"avx2", "avx512f"}, "no"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16", "avx2"}, "bf16"), (set(), "no")],
)
def test_a_cpu_uses_bf16_only_with_instructions_for_it(monkeypatch, flags, precision):
    monkeypatch.setattr("utils.device.cpu_flags", lambda: flags)
    assert find_precision(CPU) == precision


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_uses_bf16_only_if_it_is_not_emulated(monkeypatch, native, precision):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or native)
    assert find_precision(CUDA) == precision


def test_apple_gpus_stay_in_fp32():
    assert find_precision(torch.device("mps")) == "no"


def test_cpu_flags_reads_linux_and_tolerates_other_systems(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\nprocessor\t: 1\n")
    assert cpu_flags(file) == {"fpu", "avx2", "amx_bf16"}
    assert cpu_flags(tmp_path / "absent") == set()


def test_pick_gives_the_value_of_the_profile_and_wants_all_three():
    for profile in PROFILES:
        course = Runtime(profile, CPU, Path(), Path())
        assert course.pick(test="test", cpu="cpu", gpu="gpu") == profile
    with pytest.raises(TypeError, match="gpu"):
        course.pick(test=1, cpu=2)


def test_peak_memory_is_in_mib():
    peak = peak_memory_mib()
    if peak is None:
        pytest.skip("no /proc on this system")
    assert 50 < peak < 100_000
    block = bytearray(300 * 2**20)
    assert len(block) and peak_memory_mib() > 300
    assert peak_memory_mib(pid=2**30) is None

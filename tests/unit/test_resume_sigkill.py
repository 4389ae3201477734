"""Training that is killed at random moments and started again ends with the same bytes.

`make test` kills a few times; RESUME_KILLS=20 in the environment kills twenty times, RESUME_SEED=... repeats a run.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

KILLS = int(os.environ.get("RESUME_KILLS", "3"))
SEED = int(os.environ.get("RESUME_SEED", random.randrange(10**6)))
LONGEST = 6  # steps a life is watched for before it is killed


def start(root, out, steps):
    options = "--save-every 2 --batch-size 16 --channels 32 --dropout 0.2 --seed 4 --device cpu --precision no"
    line = [sys.executable, "-u", "-m", "utils.diffusion", "train", "--data", "digits", "--log-every", "1"]
    line += ["--steps", steps, "--out", out, *options.split()]
    return subprocess.Popen(list(map(str, line)), cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.slow
def test_killed_at_random_moments(root, tmp_path):
    steps = 20 + KILLS * (LONGEST + 4)
    print(f"RESUME_KILLS={KILLS} RESUME_SEED={SEED}: {steps} steps")
    with start(root, tmp_path / "alone", steps) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors

    moments, killed = random.Random(SEED), tmp_path / "killed"
    for kill in range(KILLS):
        with start(root, killed, steps) as process:
            # The last life is the longest: however early the others ended, something has been saved by then.
            for _ in range(moments.randint(1, LONGEST) if kill < KILLS - 1 else LONGEST):
                last = process.stdout.readline()
            time.sleep(moments.uniform(0, 0.05))  # into the middle of a step, or of saving
            assert process.poll() is None, f"ended before kill {kill}: {process.stderr.read()}"
            process.send_signal(signal.SIGKILL)
        print(f"kill {kill + 1} after: {last.strip()}")
        assert process.returncode == -signal.SIGKILL
    with start(root, killed, steps) as process:
        output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "resumed after step" in output or KILLS == 0
    assert (killed / "model.safetensors").read_bytes() == (tmp_path / "alone" / "model.safetensors").read_bytes()
    assert sorted(path.name for path in killed.iterdir()) == ["checkpoint.pt", "model.safetensors"]

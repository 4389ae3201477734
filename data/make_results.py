"""Make data/results.png, the figure in the README, from data/results.md: `python data/make_results.py`."""

import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from utils.course.plots import COLOURS, STYLE  # noqa: E402
from utils.files import write_atomically  # noqa: E402

NAMES = {"ddpm": "DDPM", "ddim, eta 0": "DDIM", "dpmpp_2m": "DPM-Solver++(2M)"}


def read_table(text: str, title: str) -> list[list[str]]:
    """The rows of the first table under this title."""
    lines = text[text.index(f"## {title}\n") :].splitlines()
    start = next(k for k, line in enumerate(lines) if re.match(r"\| -", line)) + 1
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def draw(text: str) -> plt.Figure:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.1), layout="constrained")
    rows = read_table(text, "The trained model under every sampler")
    for colour, (key, name) in zip(COLOURS, NAMES.items()):
        evaluations, distances = zip(*[(int(row[1]), float(row[3])) for row in rows if row[0] == key])
        left.plot(evaluations, distances, "o-", color=colour, label=name)
    floor = float(re.search(r"as many real images are at ([\d.]+)", text)[1])
    left.axhline(floor, color="0.4", ls="--", lw=1, label="as many real images")
    left.set(xscale="log", xlabel="network evaluations", ylabel="Frechet distance", ylim=0)
    left.set_title("Twenty evaluations beside a thousand", loc="left")
    ticks = [5, 10, 20, 50, 100, 1000]
    left.set_xticks(ticks, map(str, ticks))
    left.minorticks_off()
    left.legend(fontsize=8)
    rows = read_table(text, "Image quality after 300 seconds of training")[::-1]
    distances, errors = zip(*[map(float, row[3].split(" ± ")) for row in rows])
    right.barh([row[0] for row in rows], distances, xerr=errors, color=COLOURS[: len(rows)][::-1])
    right.set(xlabel="Frechet distance after 300 s of training")
    right.set_title("Five minutes on two cores, with bf16", loc="left")
    return figure


def main() -> None:
    with plt.rc_context(STYLE):
        figure = draw((FOLDER / "results.md").read_text("utf-8"))
        write_atomically(FOLDER / "results.png", lambda part: figure.savefig(part, format="png", dpi=110))


if __name__ == "__main__":
    main()

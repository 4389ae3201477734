"""A small player for animations: one piece of HTML that needs no kernel, no network and no library."""

import base64
import hashlib
import html
import io
import json
from string import Template

import numpy as np
from IPython.display import HTML
from PIL import Image

from utils.course.plots import as_images, picture_of

MAX_BYTES = 2_000_000
MAX_WIDTH = 560  # pixels on the page
QUALITIES = (92, 85, 75, 60, 45)  # of the JPEG frames; the first that fits is used

# $name is made from the content, so the same frames give the same page, and different ones do not meet.
# A page without scripts shows the last frame.
PAGE = """<div class="$name" style="display:inline-block;font-family:sans-serif;font-size:13px">
<div style="margin-bottom:4px">$title</div>
<img alt="$title" src="data:image/jpeg;base64,$last" \
style="display:block;width:${width}px;max-width:100%;image-rendering:pixelated">
<div style="display:flex;align-items:center;gap:8px;margin-top:4px;width:${width}px;max-width:100%">
<button type="button" aria-label="play or pause" style="width:2.4em">&#9654;</button>
<input type="range" aria-label="frame" min="0" max="$count" value="$count" style="flex:1">
</div>
<div class="label" style="min-height:1.3em">$label</div>
</div>
<script>
(function () {
  const frames = $frames, labels = $labels, delay = $delay, last = frames.length - 1;
  function attach(player) {
    player.dataset.ready = "yes";
    const image = player.querySelector("img"), button = player.querySelector("button");
    const slider = player.querySelector("input"), label = player.querySelector(".label");
    let timer = null;
    function show(k) {
      slider.value = k;
      image.src = "data:image/jpeg;base64," + frames[k];
      label.textContent = labels[k];
    }
    function pause() { clearInterval(timer); timer = null; button.textContent = "\\u25B6"; }
    function play() {
      if (Number(slider.value) >= last) show(0);
      button.textContent = "\\u23F8";
      timer = setInterval(function () {
        if (!player.isConnected || Number(slider.value) >= last) pause();
        else show(Number(slider.value) + 1);
      }, delay);
    }
    button.addEventListener("click", function () { if (timer === null) play(); else pause(); });
    slider.addEventListener("input", function () { pause(); show(Number(slider.value)); });
  }
  // Some front ends run the script before they put the picture on the page: look again for up to 10 s.
  let looks = 0;
  (function look() {
    const found = document.querySelectorAll(".$name:not([data-ready])");
    found.forEach(attach);
    if (!found.length && looks++ < 200) setTimeout(look, 50);
  })();
})();
</script>"""


def animate(
    frames: list, titles: list[str] | None = None, fps: int = 12, title: str | None = None, columns: int | None = None
) -> HTML:
    """Frames as HTML with a play button and a slider; it plays where no kernel runs, and is under 2 MB.

    frames: each (N, C, H, W) or (N, H, W) in [-1, 1]; each pixel covers a whole number of pixels on the page.
    titles: a text for each frame, shown below it.
    fps: frames a second.
    title: above the player; state what the reader should see.
    columns: images in a row of the grid; 8 or fewer if None.
    Raises ValueError: no frames, as many titles as there are not frames, frames of several sizes, or over 2 MB.
    """
    if len(frames) == 0:
        raise ValueError("animate got no frames; give a list with at least one")
    if titles is not None and len(titles) != len(frames):
        raise ValueError(f"{len(titles)} titles for {len(frames)} frames; give one title to each frame")
    pictures = [picture_of(as_images(frame), columns or 8, gap=1) for frame in frames]
    sizes = {picture.shape for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"frames have several sizes: {sorted(sizes)}; all must have the same")
    width = pictures[0].shape[1]
    scale = max(1, min(8, MAX_WIDTH // width))
    labels = [str(text) for text in titles or [""] * len(frames)]
    for quality in QUALITIES:
        jpegs = [_jpeg(picture, quality) for picture in pictures]
        page = _page(jpegs, labels, title or "", fps, width * scale)
        if len(page) < MAX_BYTES:
            return HTML(page)
    raise ValueError(f"{len(frames)} frames make {len(page):,} bytes, over {MAX_BYTES:,}. Use fewer frames or images.")


def _jpeg(picture: np.ndarray, quality: int) -> str:
    """JPEG in base64; full colour resolution, since one pixel may be shown many pixels wide."""
    buffer, grey = io.BytesIO(), (picture == picture[..., :1]).all()
    image = Image.fromarray(picture[..., 0] if grey else picture)
    image.save(buffer, format="JPEG", quality=quality, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()


def _page(frames: list[str], labels: list[str], title: str, fps: int, width: int) -> str:
    content = json.dumps([frames, labels, title, fps, width])
    return Template(PAGE).substitute(
        name="course-player-" + hashlib.sha256(content.encode()).hexdigest()[:12],
        width=width,
        count=len(frames) - 1,
        delay=round(1000 / fps),
        title=html.escape(title),
        labels=json.dumps(labels).replace("</", "<\\/"),  # "</" inside a script could end it
        label=html.escape(labels[-1]),
        frames=json.dumps(frames),
        last=frames[-1],
    )

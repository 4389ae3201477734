"""What imports what: imports point one way, and a small import stays small."""

import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("utils.files", "torch matplotlib IPython pandas"),
        ("utils.ner", "torch matplotlib IPython ipywidgets transformers utils.course"),
        ("utils.diffusion", "matplotlib IPython ipywidgets transformers utils.course"),
    ],
)
def test_an_import_loads_no_more_than_it_needs(root, module, unwanted):
    code = f"import sys, {module}; print(*[name for name in {unwanted.split()} if name in sys.modules])"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=root).split()
    assert not loaded, f"import {module} also loads {', '.join(loaded)}"


def test_imports_point_one_way(root):
    """course, diffusion, ner -> files, device. Two reach over: ner's diffusion tagger, and text for images."""
    for path in sorted((root / "utils").rglob("*.py")):
        package = path.parent.relative_to(root / "utils").parts[:1]
        others = {"course", "diffusion", "ner"} - {*package}
        others -= {"diffusion_ner.py": {"diffusion"}, "conditioning.py": {"ner"}}.get(path.name, set())
        imported = re.findall(r"^ *(?:from|import) +utils(?:\.| import )(\w+)", path.read_text("utf-8"), re.MULTILINE)
        assert not others & {*imported}, f"{path.relative_to(root)} imports {', '.join(others & {*imported})}"

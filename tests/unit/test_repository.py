"""What no file of the repository may hold."""

import re

TEXT = {".py", ".md", ".toml", ".yml", ".txt", ".json", ".jsonl", ".ipynb", ".cfg"}
FOLDERS = (".ci", "data", "notebooks", "tests", "utils")
MERGE_MARK = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)


def test_no_merge_marks_are_left(root):
    files = [path for path in root.iterdir() if path.is_file()]
    files += [path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in TEXT]
    kept = [path for path in files if "cache" not in path.relative_to(root).parts]
    marked = [str(path) for path in kept if MERGE_MARK.search(path.read_text("utf-8", "replace"))]
    assert len(kept) > 100 and not marked

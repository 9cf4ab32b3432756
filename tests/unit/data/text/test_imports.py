"""What reads text is light to import: no trainer and no image library comes with it."""

import subprocess
import sys

LIGHT = ("vocabulary", "tokenizer", "codec", "formats", "records", "rows")
HEAVY = ("lightning", "torchvision", "PIL")


def test_text_is_read_without_lightning_and_image_libraries():
    lines = [f"import genlab.data.text.{name}" for name in LIGHT]
    lines += ["import sys", f"print([name for name in {HEAVY} if name in sys.modules])"]
    run = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"

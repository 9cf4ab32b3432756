"""The wheel holds every module, config and page of the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import genlab

ROOT = Path(genlab.__file__).parents[1]


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    # setuptools would also pack what an older tree left there.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    words = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("genlab/")}
    tree = os.walk(ROOT / "genlab", followlinks=True)  # genlab/conf is a link
    files = {
        Path(folder, file).relative_to(ROOT).as_posix()
        for folder, _, names in tree
        for file in names
    }
    files = {file for file in files if not file.endswith(".pyc")}
    assert len(files) > 300
    assert held == files

"""The site builds without a warning, and its reference holds every public class and function."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/reference").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("material", "mkdocstrings"):
        pytest.importorskip(package, reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_class_and_function_is_in_the_reference(site, page):
    documented = set(re.findall(r'id="([\w.]+)"', (site / "reference" / page.stem / "index.html").read_text()))
    for module in re.findall(r"::: (keras_tfcl\.\w+)$", page.read_text(), flags=re.MULTILINE):
        package = importlib.import_module(module)
        public = {f"{module}.{name}" for name in package.__all__ if callable(getattr(package, name))}
        # `export.quantize` is a module and a function: the page names the function once more.
        again = {name for name in public if any(found.endswith("." + name.rpartition(".")[2]) for found in documented)}
        assert public - documented - again == set()


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert page.relative_to(ROOT / "docs").as_posix() in navigation, page

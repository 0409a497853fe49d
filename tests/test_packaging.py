"""What is shipped: the package list, the wheel, the editable install, and imports in one direction."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import keras_tfcl

ROOT = Path(__file__).parents[1]
FOLDERS = {"keras_tfcl": ROOT / "keras_tfcl", "keras_tfcl.export": ROOT / "export"}
# Which parts of the library each part may import. The modules of `BELOW_ALL` stand below all of them.
BELOW_ALL = {"validation", "_keras_compat", "typing", "atomic_write"}
# It imports nothing else of the library: `fit` puts it in front of all other callbacks.
BELOW_MODELS = "keras_tfcl.callbacks.stop_on_non_finite"
ALLOWED = {
    "ops": set(),
    "layers": {"ops"},
    "data": {"ops", "layers", "export"},  # of the latter the rule by which images become pixels
    "scaling": {"ops"},
    "negatives": {"ops"},
    "losses": {"ops", "scaling", "negatives"},
    "evaluation": {"ops", "scaling", "negatives", "data"},
    "metrics": {"ops", "evaluation"},
    "models": {"ops", "losses", "data", "layers"},
    "callbacks": {"scaling", "evaluation", "metrics", "models"},
    "diagnostics": {"ops", "scaling", "negatives", "losses", "evaluation", "metrics", "models", "data", "layers"},
    "testing": {"losses", "models"},
    "export": set(),
}


def modules():
    """(dotted name, file) of every Python file that is shipped."""
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join([package, *(part for part in parts if part != "__init__")]), file


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "keras_tfcl":
            yield from (f"keras_tfcl.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


# Read when the tests are collected: Python 3.11 fails to parse now and then while threads of other tests run.
IMPORTED = {file: [*imported(file)] for _, file in modules()}


def test_package_list_equals_the_folders():
    """A folder missing from the list works in the editable install and is absent from the wheel."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {name for name, file in modules() if file.name == "__init__.py"}
    assert set(listed) == found
    assert listed == sorted(listed)


@pytest.mark.parametrize(("name", "file"), sorted(modules()), ids=[name for name, _ in sorted(modules())])
def test_imports_go_one_way(name, file):
    parts = name.split(".")
    if len(parts) == 1 or parts[1] not in ALLOWED:
        return
    own = parts[1]
    used = {m.split(".")[1] for m in IMPORTED[file] if m.startswith("keras_tfcl.") and m != BELOW_MODELS}
    assert used <= BELOW_ALL or name != BELOW_MODELS
    assert used <= ALLOWED[own] | {own} | BELOW_ALL


def test_no_relative_imports_and_no_utils():
    for name, file in modules():
        assert "utils" not in name
        for node in ast.walk(ast.parse(file.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built through the sdist, as a release would be."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = out.glob("*.whl")
    return file


def test_wheel_holds_every_module_and_no_other_top_level_name(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"keras_tfcl"}
    expected = {
        "keras_tfcl/" + file.relative_to(ROOT / "keras_tfcl").as_posix() for file in FOLDERS["keras_tfcl"].rglob("*.py")
    }
    expected |= {
        "keras_tfcl/export/" + file.relative_to(ROOT / "export").as_posix()
        for file in FOLDERS["keras_tfcl.export"].rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected
    assert "keras_tfcl/py.typed" in names


def test_one_version_everywhere(wheel):
    version = keras_tfcl.__version__
    assert f"-{version}-" in wheel.name
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def run_on_demand(code, folder):
    """In a process that does not import TensorFlow, which would take seconds."""
    environment = {**os.environ, "KERAS_TFCL_ON_DEMAND": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment, check=False
    )


def test_installed_wheel_imports_export(wheel, tmp_path):
    """From the wheel alone, in a process that knows nothing of this checkout."""
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(tmp_path)], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]\n"
        "import keras_tfcl.export as export, keras_tfcl\n"
        f"assert keras_tfcl.__file__.startswith({str(tmp_path)!r}), keras_tfcl.__file__\n"
        f"assert export.__file__.startswith({str(tmp_path)!r}), export.__file__\n"
        "assert export.OnnxEncoder and export.export_onnx\n"
        "from importlib.util import find_spec; assert find_spec('export') is None"
    )
    done = run_on_demand(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_editable_install_imports_export(tmp_path):
    code = "import keras_tfcl.export as e; print(e.__file__)"
    done = run_on_demand(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().splitlines()[-1]).parent.resolve() == ROOT / "export"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import keras_tfcl; from keras_tfcl.export import OnnxEncoder; print(OnnxEncoder.__name__)", "OnnxEncoder"),
        ("from keras_tfcl.cli import main; import keras_tfcl.export.keras_to_onnx.source; print('works')", "works"),
        ("import keras_tfcl; keras_tfcl.InfoNCE", "ImportError: keras_tfcl.InfoNCE needs TensorFlow.*keras-tfcl[tf]"),
        ("from keras_tfcl import ContrastiveModel", "ImportError: keras_tfcl.ContrastiveModel needs TensorFlow"),
        ("from keras_tfcl.losses import InfoNCE", "ImportError: keras_tfcl.losses needs TensorFlow"),
        ("import keras_tfcl; keras_tfcl.nonsense", "AttributeError: module 'keras_tfcl' has no attribute 'nonsense'"),
    ],
)
def test_without_tensorflow(code, expected, tmp_path):
    """TensorFlow and Keras hidden: serving works, everything else says which extra to install."""
    hide = (
        "import sys, importlib.abc\n"
        "class Hidden(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.split('.')[0] in ('tensorflow', 'keras', 'tf2onnx', 'onnx'): raise ModuleNotFoundError(name)\n"
        "import importlib.util as util; real = util.find_spec\n"
        "util.find_spec = lambda n, p=None: None if n.split('.')[0] in ('tensorflow', 'keras') else real(n, p)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide + code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    output = done.stdout + done.stderr
    for part in expected.split(".*"):
        assert part in output
    assert (done.returncode == 0) == (expected in {"OnnxEncoder", "works"})


def test_the_container_installs_extras_that_exist_and_its_user_is_a_number():
    """A number, because Kubernetes cannot tell of a name whether it is root, and then refuses `runAsNonRoot`."""
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    extras = re.search(r"\.\[(.*?)\]", dockerfile)[1].split(",")
    assert {"serve", "server", "images", "text", "index"} == set(extras)
    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert re.search(r"^USER [1-9]\d*$", dockerfile, re.MULTILINE)

"""The fast tests on every Python, and on the oldest and the newest packages, that pyproject.toml promises.

nox                                     all of them, each in an environment of its own (3 GB of disk each)
nox -s lowest -- tests/losses           one of them, with some tests
nox -s "newest-3.13"
"""

from pathlib import Path

import nox
from packaging.requirements import Requirement

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
PYTHONS = [line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True


@nox.session(python=PYTHONS)
def newest(session: nox.Session) -> None:
    """The newest packages that the ranges in pyproject.toml allow."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "--editable", ".[test]")
    run_tests(session)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """The oldest ones: each `>=` in pyproject.toml becomes `==`."""
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("\n".join(sorted(floors())))
    session.install("--constraint", str(constraints), "--editable", ".[test]")
    # Old packages warn about what their own newer dependencies have deprecated.
    run_tests(session, "-W", "ignore::DeprecationWarning")


def floors() -> set[str]:
    """The lower bounds of all dependencies of the extra `test`, as exact versions."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], "keras-tfcl[test]"]
    found = set()
    for requirement in map(Requirement, wanted):
        if requirement.name == PROJECT["name"]:
            wanted += [line for extra in requirement.extras for line in extras[extra]]
        found |= {f"{requirement.name}=={s.version}" for s in requirement.specifier if s.operator == ">="}
    return found


def run_tests(session: nox.Session, *options: str) -> None:
    """Runs pytest with the arguments behind `--`, by default all fast tests."""
    session.run(
        "python", "-c", "import keras, tensorflow as tf; print('Keras', keras.__version__, 'TF', tf.__version__)"
    )
    session.run("python", "-m", "pytest", "-q", *options, *(session.posargs or ("--numprocesses=2", "--dist=loadfile")))

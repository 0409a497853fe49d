"""The fast tests on every Python, and on the oldest and the newest packages, that pyproject.toml promises; the release.

nox                                     all tests, each in an environment of its own (3 GB of disk each)
nox -s lowest -- tests/losses           one of them, with some tests
nox -s "newest-3.13"
nox -s release                          what a stranger would install, on every Python: `make release-check`
"""

import tarfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

PROJECT = nox.project.load_toml("pyproject.toml")["project"]
PYTHONS = [line.split(" :: ")[-1] for line in PROJECT["classifiers"] if "Python :: 3." in line]
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["newest", "lowest"]
SHIPPED = {"keras_tfcl", "export", "keras_tfcl.egg-info"}  # folders of the sdist
LARGEST_SDIST = 1 << 20  # bytes


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


@nox.session(python=PYTHONS)
def release(session: nox.Session) -> None:
    """Builds sdist and wheel, and tries the wheel in two clean environments: with everything, without TensorFlow."""
    folder = Path(session.create_tmp()).resolve()
    dist, smoke = folder / "dist", str(Path("tools/smoke.py").resolve())
    session.run("rm", "-rf", str(dist), external=True)
    session.install("build", "twine")
    session.run("python", "-m", "build", "--outdir", str(dist))
    session.run("twine", "check", "--strict", *map(str, dist.iterdir()))
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    check_sdist(session, sdist)
    session.chdir(folder)  # away from the sources
    for step, extras in ("train", "all"), ("serve", "serve,server,images"):
        session.run("python", "-m", "venv", "--clear", step)
        session.run(f"{step}/bin/pip", "install", "--quiet", f"{wheel}[{extras}]", external=True)
        session.run(f"{step}/bin/python", smoke, step, str(folder), external=True)


def check_sdist(session: nox.Session, sdist: Path) -> None:
    """It holds the package and the files that describe it: no data, runs, caches, tests or examples."""
    with tarfile.open(sdist) as archive:
        files = [Path(*Path(member.name).parts[1:]) for member in archive.getmembers() if member.isfile()]
    strange = [str(file) for file in files if len(file.parts) > 1 and file.parts[0] not in SHIPPED]
    strange += [str(file) for file in files if file.suffix == ".pyc" or file.name.startswith(".")]
    if strange or sdist.stat().st_size > LARGEST_SDIST:
        session.error(f"{sdist.name} holds {sdist.stat().st_size} bytes, and files that do not belong there: {strange}")


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

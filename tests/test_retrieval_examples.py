"""The examples of recommendation and of text retrieval, in their tiny setting; they skip by name without their data."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keras_tfcl.diagnostics import read_table

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments, folder):
    command = [sys.executable, str(EXAMPLES / script), "--tiny", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("data", ["MovieLens-100K", "lines"])
def test_two_towers(data, tmp_path):
    if data == "lines":
        rows = [" ".join(str(1 + (7 * user + step) % 40) for step in range(11)) for user in range(60)]
        (tmp_path / "lines.txt").write_text("\n".join(f"{user} {row}" for user, row in enumerate(rows)))
    try:
        importlib.metadata.files("recbole")
    except importlib.metadata.PackageNotFoundError:
        if data != "lines":
            pytest.skip("recbole ships MovieLens-100K: pip install --no-deps recbole==1.2.1")
    arguments = ["--lines", str(tmp_path / "lines.txt")] if data == "lines" else []
    output = run("two_towers.py", "--csv", str(tmp_path / "runs.csv"), *arguments, folder=tmp_path)
    names = ["popularity", "no correction", "log Q, known", "log Q, estimated"]
    rows = read_table(tmp_path / "runs.csv")
    assert [row["setting"] for row in rows] == names
    for row in rows:
        assert 0 <= row["ndcg@10"] <= row["hit_rate@10"] <= 1
        assert re.search(rf"^{row['setting']} +{row['hit_rate@10']:.4f} ", output, flags=re.MULTILINE)


@pytest.mark.slow
def test_text_retrieval(tmp_path):
    if not Path("/usr/share/wordnet/data.noun").exists():
        pytest.skip("WordNet is missing: apt install wordnet-base")
    output = run("text_retrieval.py", folder=tmp_path)
    figures = dict(re.findall(r"^(TF-IDF|untrained|in-batch negatives|and hard negatives) +([\d. ]+)$", output, re.M))
    assert len(figures) == 4
    for row in figures.values():
        assert all(0 <= float(figure) <= 1 for figure in row.split()) and len(row.split()) == 3  # no STS-B in tmp_path


@pytest.mark.parametrize("script", ["two_towers.py", "text_retrieval.py"])
def test_examples_are_short_enough_to_be_read(script):
    assert len((EXAMPLES / script).read_text().splitlines()) <= 125

"""Language debiasing: a head on a frozen sentence encoder learns that a sentence and its gender-swapped form are one.

    python examples/benchmarks/language_debiasing.py train        # then: test

The question is how much gender association goes and how much meaning stays; protocol.md fixes how both are measured.
Needs the extra `benchmarks`, the weights of minilm.py, WordNet (Debian: `apt install wordnet-base`) and the STS
benchmark, as stsb/stsb-en-{dev,test}.csv in the folder that KERAS_TFCL_DATA names.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Mapping
from pathlib import Path

import keras
import numpy as np
from harness import DATA, RUNS, Metrics, Task, Trained, main, packed
from minilm import embed

import keras_tfcl
from keras_tfcl.atomic_write import write_atomically
from keras_tfcl.evaluation import pair_correlation

WORDNET = Path("/usr/share/wordnet")
DIMENSION, BATCH, EPOCHS, LEARNING_RATE, DROPOUT = 128, 256, 4, 1e-3, 0.1
TINY = 64  # sentences, and scored pairs
SPLITS = 10_000  # of a permutation test

PAIRS = """
he she, his her, himself herself, man woman, men women, boy girl, boys girls, male female, males females,
father mother, fathers mothers, dad mom, daddy mommy, son daughter, sons daughters, brother sister, brothers sisters,
husband wife, husbands wives, grandfather grandmother, uncle aunt, nephew niece, gentleman lady, gentlemen ladies,
king queen, prince princess, actor actress, waiter waitress, hero heroine, widower widow, groom bride,
businessman businesswoman, chairman chairwoman, policeman policewoman, salesman saleswoman
"""
SWAP = {a: b for pair in PAIRS.split(",") for a, b in (pair.split(), pair.split()[::-1])}
AMBIGUOUS = {"him", "hers"}  # "her" stands for both "his" and "him": sentences with these are left out

# WEAT 6, 7 and 8 (Caliskan et al. 2017, arXiv 1608.07187); the occupations of WinoBias held mostly by men and mostly by
# women (Zhao et al. 2018, arXiv 1804.06876), without those of two words.
CONCEPTS = {
    "career": (
        "executive management professional corporation salary office business career",
        "home parents children family cousins marriage wedding relatives",
    ),
    "math": (
        "math algebra geometry calculus equations computation numbers addition",
        "poetry art dance literature novel symphony drama sculpture",
    ),
    "science": (
        "science technology physics chemistry Einstein NASA experiment astronomy",
        "poetry art Shakespeare dance literature novel symphony drama",
    ),
    "occupation": (
        "driver supervisor janitor cook mover laborer chief developer carpenter manager lawyer farmer salesperson "
        "physician guard analyst mechanic sheriff CEO",
        "attendant cashier teacher nurse assistant secretary auditor cleaner receptionist clerk counselor designer "
        "hairdresser writer housekeeper baker accountant editor librarian tailor",
    ),
}
# Frequent American first names. None is swapped in training; every other one is for validation, the rest for the test.
MEN = """
James Robert Michael David William Richard Joseph Thomas Christopher Charles Daniel Matthew Anthony Mark Donald Andrew
Joshua Kenneth Brian George Timothy Ronald Edward Jason Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry
Justin Scott Brandon Benjamin Samuel Gregory Alexander Patrick Frank Raymond Jack Dennis Jerry Tyler Aaron Henry Nathan
Douglas Peter Adam Zachary Walter Kyle Harold Carl Jeremy Arthur Roger Keith Lawrence Albert
"""
WOMEN = """
Mary Patricia Jennifer Linda Elizabeth Barbara Susan Jessica Karen Margaret Nancy Betty Sandra Ashley Emily Michelle
Carol Amanda Melissa Deborah Stephanie Rebecca Laura Helen Cynthia Dorothy Kathleen Angela Shirley Brenda Emma Anna
Pamela Nicole Samantha Katherine Christine Catherine Virginia Rachel Carolyn Janet Maria Heather Olivia Julie Joyce
Victoria Kelly Christina Lauren Frances Martha Judith Cheryl Megan Andrea Ann Alice Jean Doris Jacqueline Kathryn Hannah
"""
TEMPLATES = ("This is {}.", "That is {}.", "Here is {}.", "It is {}.")


class LanguageDebiasing(Task):
    name = "language_debiasing"
    datasets = ("wordnet",)
    metric = "utility_and_fairness"

    def dimension(self, dataset: str) -> int:
        return DIMENSION

    def train(self, dataset: str, loss: keras.losses.Loss, seed: int, tiny: bool) -> Trained:
        frozen = frozen_embeddings(tiny)
        keras.utils.set_random_seed(seed)  # the frozen encoder draws numbers too when it is built for the cache
        head = untrained_head()
        model = keras_tfcl.ContrastiveModel(head, seed=seed)
        model.compile(keras.optimizers.Adam(LEARNING_RATE), loss)
        batch, epochs = (TINY, 1) if tiny else (BATCH, EPOCHS)
        model.fit((frozen["sentences"], frozen["swapped"]), batch_size=batch, epochs=epochs, verbose=0)
        outputs = {name: embedded(head, x) for name, x in frozen.items() if name not in ("sentences", "swapped")}
        return Trained(outputs, outputs["dev_a"], None)

    def validate(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return utility_and_fairness("dev", outputs)

    def test(self, dataset: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
        return utility_and_fairness("test", outputs)

    def baselines(self, dataset: str, tiny: bool) -> dict[str, Metrics]:
        frozen = frozen_embeddings(tiny)
        differences = frozen["sentences"] - frozen["swapped"]
        gender = np.linalg.svd(differences, full_matrices=False)[2][:1]  # (1, 384), the direction of the swap
        keras.utils.set_random_seed(0)
        head = untrained_head()
        transforms = {
            "frozen encoder": lambda x: x,
            "gender direction projected out": lambda x: x - x @ gender.T @ gender,  # Liang et al. 2020, 2007.08100
            "untrained head": lambda x: embedded(head, x),
        }
        return {
            name: utility_and_fairness("test", {key: transform(x) for key, x in frozen.items()})
            for name, transform in transforms.items()
        }


# === Sentences ===


def frozen_embeddings(tiny: bool) -> dict[str, np.ndarray]:
    """MiniLM's embeddings of all that the task reads, `(N, 384)` each, computed once and kept under runs/."""
    cache = RUNS / LanguageDebiasing.name / f"frozen{'_tiny' if tiny else ''}.npz"
    if not cache.exists():
        texts = all_texts(TINY if tiny else None)
        starts = np.cumsum([len(text) for text in texts.values()])[:-1]
        parts = np.split(embed(list(itertools.chain(*texts.values()))), starts)
        write_atomically(cache, packed(dict(zip(texts, parts, strict=True))))
    with np.load(cache) as arrays:
        return dict(arrays)


def all_texts(limit: int | None) -> dict[str, list[str]]:
    sentences = gendered_examples()[:limit]
    texts = {"sentences": sentences, "swapped": [swap_gender(sentence) for sentence in sentences]}
    for part in ("dev", "test"):
        first, second, _ = scored_pairs(part)
        texts |= {f"{part}_a": first[:limit], f"{part}_b": second[:limit]}
        words = itertools.chain(*word_lists(part).values())
        texts[f"{part}_words"] = [template.format(word) for word in words for template in TEMPLATES]
    return texts


def swap_gender(sentence: str) -> str:
    """Replaces each word of `SWAP` by its counterpart, with the case of its first letter."""

    def swapped(match: re.Match[str]) -> str:
        word = match[0]
        other = SWAP.get(word.lower(), word)
        return other.capitalize() if word[0].isupper() else other

    return re.sub(r"[A-Za-z]+", swapped, sentence)


def gendered_examples() -> list[str]:
    """The usage examples of WordNet in which a word can be swapped, each once, in the order of the files."""
    files = [WORDNET / f"data.{part}" for part in ("noun", "verb", "adj", "adv")]
    if not files[0].exists():
        raise FileNotFoundError(
            f"WordNet must be in {WORDNET}. Received: no such folder. Run apt install wordnet-base."
        )
    lines = itertools.chain(*(file.read_text(encoding="utf-8").splitlines() for file in files))
    examples = itertools.chain(*(usage_examples(line) for line in lines))
    return list(dict.fromkeys(example for example in examples if can_swap(example)))


def usage_examples(line: str) -> list[str]:
    """The quoted sentences in the gloss of a line of WordNet's data files."""
    return re.findall(r'"([^"]+)"', line.partition(" | ")[2])


def can_swap(sentence: str) -> bool:
    words = set(re.findall(r"[a-z]+", sentence.lower()))
    return not words.isdisjoint(SWAP) and words.isdisjoint(AMBIGUOUS)


def scored_pairs(part: str) -> tuple[list[str], list[str], np.ndarray]:
    """Sentences, sentences, and their graded similarity from 0 to 5: `part` is "dev" or "test"."""
    path = DATA / "stsb" / f"stsb-en-{part}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path} must hold the STS benchmark. Received: no such file. Set KERAS_TFCL_DATA.")
    with path.open(newline="", encoding="utf-8") as file:
        first, second, scores = zip(*csv.reader(file), strict=True)
    return list(first), list(second), np.array(scores, "float64")


# === Head ===


def untrained_head() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((384,)),
            layers.Dropout(DROPOUT),  # two views of a sentence differ by more than the swapped words
            layers.Dense(256, activation="relu"),
            layers.Dense(DIMENSION),
        ],
        name="head",
    )


def embedded(head: keras.Model, x: np.ndarray) -> np.ndarray:
    """float16 `(N, 128)`, L2-normalised."""
    z = head.predict(x, batch_size=1024, verbose=0)
    return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype("float16")


# === Metrics ===


def word_lists(part: str) -> dict[str, list[str]]:
    """Names of men and women for validation or test, and both sides of each concept."""
    names = {"men": MEN.split()[part == "test" :: 2], "women": WOMEN.split()[part == "test" :: 2]}
    sides = {f"{name} {side}": words.split() for name, both in CONCEPTS.items() for side, words in enumerate(both)}
    return names | sides


def utility_and_fairness(part: str, outputs: Mapping[str, np.ndarray]) -> Metrics:
    """Spearman's correlation with the scores, effect sizes with their p-values, and the main metric of both."""
    a, b, words = (np.asarray(outputs[f"{part}_{name}"], "float64") for name in ("a", "b", "words"))
    spearman = pair_correlation(a, b, scored_pairs(part)[2][: len(a)])
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    words = words.reshape(-1, len(TEMPLATES), words.shape[1]).mean(1)  # a vector for each word
    lists = word_lists(part)
    vectors = dict(zip(lists, np.split(words, np.cumsum([len(x) for x in lists.values()])[:-1]), strict=True))
    metrics = {"spearman": spearman}
    for name in CONCEPTS:
        sides = vectors[f"{name} 0"], vectors[f"{name} 1"]
        metrics[f"effect_{name}"], metrics[f"p_{name}"] = association(vectors["men"], vectors["women"], *sides)
    bias = float(np.mean([abs(metrics[f"effect_{name}"]) for name in CONCEPTS]))
    return {"utility_and_fairness": (max(spearman, 0.0) + 1 - bias / 2) / 2, "bias": bias, **metrics}


def association(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """WEAT's effect size, in [-2, 2], and its two-sided p-value by 10,000 random splits of the words of x and y.

        s(w) = mean over a of cos(w, a) - mean over b of cos(w, b)
        effect = (mean over x of s - mean over y of s) / (standard deviation of s over x and y)

    Args:
        x, y: vectors `(N, D)` of the words whose association is measured.
        a, b: vectors of the two sides of a concept.
    """
    x, y, a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y, a, b))
    s = np.concatenate([x, y]) @ (a.mean(0) - b.mean(0))
    difference = s[: len(x)].mean() - s[len(x) :].mean()
    shuffled = np.random.default_rng(0).permuted(np.tile(s, (SPLITS, 1)), axis=1)
    by_chance = shuffled[:, : len(x)].mean(1) - shuffled[:, len(x) :].mean(1)
    p = (1 + np.sum(np.abs(by_chance) >= abs(difference) - 1e-12)) / (1 + SPLITS)
    return float(difference / s.std(ddof=1)), float(p)


if __name__ == "__main__":
    main(LanguageDebiasing())

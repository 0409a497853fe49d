"""Text retrieval with hard negatives: which gloss of a dictionary says what a word means in this sentence?

    python examples/text_retrieval.py                    # --tiny: a few seconds, to see that it runs

WordNet gives sentences in which a word is used, with the gloss of its sense there. The gloss of another sense of the
same word is a hard negative: it is about the same word, and wrong. `roles` tells the loss so.
Needs the extras tf and evaluation, and WordNet (Debian: `apt install wordnet-base`). Where the STS benchmark is given,
as a folder with stsb-en-test.csv in `--stsb`, its Spearman correlation is printed too; nothing is trained on it.
"""

import argparse
import csv
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from sklearn.feature_extraction.text import TfidfVectorizer

import keras_tfcl
from keras_tfcl.evaluation import pair_correlation, retrieval

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
parser.add_argument("--stsb", type=Path, default=Path("../shared/data/stsb"))
parser.add_argument("--tiny", action="store_true")
options = parser.parse_args()
BATCH, EPOCHS, LENGTH, DIMENSION = (128, 1, 32, 128) if options.tiny else (512, 4, 32, 128)


def senses() -> list[tuple[list[str], str, list[str]]]:
    """Of each synset: its words, its gloss, and sentences in which one of them is used."""
    found = []
    for part in ("noun", "verb", "adj", "adv"):
        for line in (options.wordnet / f"data.{part}").read_text(encoding="utf-8").splitlines():
            entry, _, text = line.partition(" | ")
            if text:
                fields = entry.split()  # offset, file, type, number of words (hexadecimal), word, sense, word, ...
                words = [word.replace("_", " ").lower() for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
                found.append((words, text.partition('; "')[0].strip(), re.findall(r'"([^"]+)"', text)))
    return found


def triplets() -> np.ndarray:
    """Sentence, gloss of its word, gloss of another sense of that word, the word; `(N, 4)`, in random order."""
    everything = senses()
    glosses: dict[str, list[str]] = {}
    for words, gloss, _ in everything:
        for word in words:
            glosses.setdefault(word, []).append(gloss)
    rng, rows = np.random.default_rng(0), []
    for words, gloss, sentences in everything:
        for sentence in sentences:
            used = [word for word in words if word in sentence.lower()]
            others = [other for word in used for other in glosses[word] if other != gloss]
            if others:
                rows.append((f"{used[0]}: {sentence}", gloss, others[rng.integers(len(others))], used[0]))
    return np.array(rows)[rng.permutation(len(rows))]


texts = triplets()[: 2000 if options.tiny else None]
words, word = np.unique(texts[:, 3], return_inverse=True)
held_out = np.random.default_rng(1).random(len(words))[word] < 0.1  # all senses of a word, or none
test = texts[held_out, :3]
train_texts = texts[~held_out & ~np.isin(texts[:, 1:3], test[:, 1:]).any(1), :3]  # the glosses of the test are new
train_sense = np.unique(train_texts[:, 1], return_inverse=True)[1]
corpus, relevant = np.unique(test[:, 1:], return_inverse=True)  # right and wrong glosses of the test
relevant, wrong = relevant.reshape(-1, 2).T

vectorize = layers.TextVectorization(max_tokens=20_000, output_sequence_length=LENGTH)
vectorize.adapt(np.unique(train_texts))


def build_encoder() -> keras.Model:
    """A mean of word embeddings, in which each word has the weight that it learns."""
    tokens = keras.Input((LENGTH,), dtype="int64")
    size = vectorize.vocabulary_size()
    weight = ops.exp(layers.Embedding(size, 1, embeddings_initializer="zeros")(tokens))
    weight = weight * ops.cast(ops.expand_dims(tokens > 0, -1), "float32")  # 0 is padding
    words = layers.Dropout(0.2)(layers.Embedding(size, DIMENSION)(tokens))
    return keras.Model(tokens, ops.sum(words * weight, 1) / ops.maximum(ops.sum(weight, 1), 1e-6))


def train(*roles: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    encoder = build_encoder()
    # y: two sentences of one gloss are positives, and not negatives, of each other's gloss.
    model = keras_tfcl.ContrastiveModel(encoder, views=len(roles), supervised=True, seed=0)
    model.compile(keras.optimizers.Adam(2e-3), keras_tfcl.InfoNCE(0.05, roles=roles))
    views = tuple(vectorize(column).numpy() for column in train_texts.T[: len(roles)])
    model.fit(views, train_sense, batch_size=BATCH, epochs=EPOCHS, verbose=2)
    return encoder


def report(name: str, embed: Callable[[np.ndarray], np.ndarray]) -> None:
    """Full ranking of the glosses; whether the right gloss is nearer than the wrong one (a tie is half); STS-B."""
    queries, answers = embed(test[:, 0]), embed(corpus)
    found = retrieval(queries, answers, relevant, k=10)
    cosines = np.asarray(keras_tfcl.ops.cosine_similarity(queries, answers))
    right, other = (cosines[np.arange(len(test)), column] for column in (relevant, wrong))
    figures = [found["hit_rate@10"], found["mrr"], np.mean((1 + np.sign(right - other)) / 2)]
    if scored:
        first, second, scores = zip(*scored, strict=True)
        figures.append(pair_correlation(embed(np.array(first)), embed(np.array(second)), np.array(scores, float)))
    print(f"{name:<22}" + "".join(f"{figure:>12.3f}" for figure in figures))


scored_file = options.stsb / "stsb-en-test.csv"
scored = list(csv.reader(scored_file.open(encoding="utf-8"))) if scored_file.exists() else []
print("" if scored else f"left out: the STS benchmark, {scored_file} is missing")
tfidf = TfidfVectorizer(sublinear_tf=True, max_features=8000).fit(np.unique(train_texts))
encoders = {
    "untrained": build_encoder(),
    "in-batch negatives": train("anchor", "positive"),
    "and hard negatives": train("anchor", "positive", "negative"),
}
print(f"{len(train_texts)} sentences to train on, {len(test)} to test on, {len(corpus)} glosses to choose from")
print(f"{'':<22}{'HR@10':>12}{'MRR':>12}{'right sense':>12}{'STS-B':>12}")
report("TF-IDF", lambda x: tfidf.transform(x).toarray().astype("float32"))
for name, encoder in encoders.items():
    report(name, lambda x, encoder=encoder: encoder.predict(vectorize(x), batch_size=1024, verbose=0))

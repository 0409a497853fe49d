"""Texts in, embeddings out: the tokenizer in the file, padding, order, and folders of sentence-transformers."""

import json
import pickle

import keras
import numpy as np
import onnx
import pytest
from keras import layers, ops
from onnx import TensorProto, helper

from keras_tfcl.export import Index, InputError, ModelFileError, ModelInputError, OnnxEncoder, export_onnx, to_float16
from keras_tfcl.export.runtime import tokens as tokens_module

tokenizers = pytest.importorskip("tokenizers")

WORDS = "the a cat dog bird sat ran on under mat tree and slowly quickly".split()
TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "a bird and a cat ran quickly under the tree and sat",
    "",
    "slowly",
    "zebra",
]
RNG = np.random.default_rng(0)


def words_tokenizer(length=None, special=True):
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    if length:
        tokenizer.enable_truncation(length)
    return tokenizer


def masked_encoder(length=None):
    """A mean over the tokens that the mask keeps, of vectors that know their position."""
    ids = keras.Input((length,), dtype="int32", name="input_ids")
    mask = keras.Input((length,), dtype="int32", name="attention_mask")
    keep = ops.expand_dims(ops.cast(mask, "float32"), 2)
    hidden = layers.Embedding(3 + len(WORDS), 8)(ids)
    hidden = hidden * (1 + 0.1 * ops.cumsum(keep, axis=1))
    return keras.Model([ids, mask], ops.sum(hidden * keep, axis=1) / ops.maximum(ops.sum(keep, axis=1), 1.0))


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    model, path = masked_encoder(), tmp_path_factory.mktemp("masked") / "text.onnx"
    export_onnx(model, path, tokenizer=words_tokenizer())
    return model, OnnxEncoder(path)


def reference(model, texts, tokenizer):
    """One text at a time, by Keras."""
    found = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], "int32")
        found.append(np.asarray(model([ids, np.ones_like(ids)]))[0])
    found = np.stack(found)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "given",
    [list, tuple, iter, np.array, lambda texts: np.array(texts, object), lambda texts: (text for text in texts)],
    ids=["list", "tuple", "iterator", "array", "objects", "generator"],
)
def test_texts_in_any_container_keep_their_order(masked, given):
    model, encoder = masked
    expected = reference(model, TEXTS, words_tokenizer())
    found = np.concatenate([*encoder.encode_iter(given(TEXTS), batch_size=2)])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_many_texts_in_several_windows(masked, monkeypatch):
    model, encoder = masked
    texts = [" ".join(RNG.choice(WORDS, RNG.integers(1, 30))) for _ in range(150)]
    shapes = []
    run = encoder._runner.session.run
    monkeypatch.setattr(tokens_module, "TOKENS_PER_RUN", 64)
    monkeypatch.setattr(tokens_module, "_WINDOW", 3)
    monkeypatch.setattr(
        encoder._runner,
        "session",
        type("Session", (), {"run": lambda _, names, feed: spied(feed) or run(names, feed)})(),
    )

    def spied(feed):
        shapes.append(feed["input_ids"].shape)

    found = encoder.encode(texts, batch_size=16)
    np.testing.assert_allclose(found, reference(model, texts, words_tokenizer()), atol=2e-6)
    assert max(np.prod(shape) for shape in shapes) <= 64 and max(shape[0] for shape in shapes) > 4
    real = sum(len(words_tokenizer().encode(text).ids) for text in texts)
    assert sum(np.prod(shape) for shape in shapes) < 1.25 * real, "sorted texts need little padding"


def test_an_encoder_of_texts_takes_arrays_too_and_pickles(masked):
    _, encoder = masked
    rows = encoder.tokenize(["the cat", "a dog ran"])
    assert rows["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    again = pickle.loads(pickle.dumps(encoder))
    np.testing.assert_allclose(again.encode(rows), encoder.encode(["the cat", "a dog ran"]), atol=1e-6)
    assert encoder.encode([]).shape == (0, 8)


def test_without_a_mask_no_text_is_padded(tmp_path):
    """The mean over all tokens would count padding as text."""
    ids = keras.Input((None,), dtype="int32")
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(layers.Embedding(3 + len(WORDS), 8)(ids)))
    export_onnx(model, tmp_path / "text.onnx", tokenizer=words_tokenizer(special=False).to_str(), normalize=False)
    encoder, texts = OnnxEncoder(tmp_path / "text.onnx"), [text for text in TEXTS if text]
    alone = [np.asarray(model(np.array([words_tokenizer(special=False).encode(text).ids])))[0] for text in texts]
    np.testing.assert_allclose(encoder.encode(texts), alone, atol=1e-6)


def test_texts_without_tokens(tmp_path):
    ids = keras.Input((None,), dtype="int32")
    model = keras.Model(ids, layers.GlobalAveragePooling1D()(layers.Embedding(3 + len(WORDS), 8)(ids)))
    path = tmp_path / "tokenizer.json"
    words_tokenizer(special=False).save(str(path))
    export_onnx(model, tmp_path / "text.onnx", tokenizer=path)
    encoder = OnnxEncoder(tmp_path / "text.onnx")
    with pytest.raises(InputError, match=r"text 1, ''"):
        encoder.encode(["a cat", ""])
    seen = []
    count = encoder.encode_to(
        ["a cat", "", "a dog"], tmp_path / "x.npz", ids=[7, 8, 9], on_error=lambda number, text, _: seen.append(number)
    )
    assert count == 2 and seen == [1] and np.load(tmp_path / "x.npz")["id"].tolist() == [7, 9]
    with pytest.raises(InputError, match="At least one text"):
        [*encoder.encode_iter(["", " "], on_error="skip")]
    with pytest.raises(InputError, match=r"\[text\]"):
        encoder.encode("a cat")
    with pytest.raises(InputError, match="float as text 1"):
        encoder.encode(["a cat", 0.5])


@pytest.mark.parametrize("direction", ["right", "left"])
def test_a_fixed_length_truncates_and_pads(tmp_path, direction):
    ids = keras.Input((4,), dtype="int64", name="token_ids")
    mask = keras.Input((4,), dtype="bool", name="padding_mask")
    vectors = layers.Flatten()(layers.Embedding(3 + len(WORDS), 5)(ids) * ops.expand_dims(ops.cast(mask, "float32"), 2))
    model = keras.Model({"token_ids": ids, "padding_mask": mask}, vectors)
    tokenizer = words_tokenizer()
    tokenizer.enable_padding(direction=direction, pad_id=0, pad_token="[PAD]")
    export_onnx(model, tmp_path / "text.onnx", tokenizer=tokenizer, normalize=False)
    found = OnnxEncoder(tmp_path / "text.onnx").encode(["a cat ran on a mat", "a"])
    numbers = words_tokenizer().get_vocab()
    short = [2, numbers["a"]]
    rows = [
        [2, *(numbers[word] for word in ("a", "cat", "ran"))],
        [*short, 0, 0] if direction == "right" else [0, 0, *short],
    ]
    rows = np.array(rows)
    np.testing.assert_allclose(found, np.asarray(model({"token_ids": rows, "padding_mask": rows > 0})), atol=1e-6)


def test_a_word_that_the_tokenizer_does_not_know(tmp_path):
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"cat": 0, "dog": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    export_onnx(masked_encoder(), tmp_path / "text.onnx", tokenizer=tokenizer)
    encoder = OnnxEncoder(tmp_path / "text.onnx")
    assert encoder.encode(["cat dog"]).shape == (1, 8)
    with pytest.raises(InputError, match="unknown words"):
        encoder.encode(["cat", "zebra"])


def test_truncation_is_that_of_the_tokenizer(tmp_path):
    export_onnx(masked_encoder(), tmp_path / "text.onnx", tokenizer=words_tokenizer(length=3))
    encoder = OnnxEncoder(tmp_path / "text.onnx")
    np.testing.assert_allclose(*encoder.encode(["a cat", "a cat ran on the mat"]), atol=1e-6)


@pytest.mark.parametrize("split", ["whitespace", "character"])
@pytest.mark.parametrize("standardize", ["lower_and_strip_punctuation", "lower", "strip_punctuation", None])
def test_a_text_vectorization_becomes_a_tokenizer(tmp_path, standardize, split):
    vectorize = layers.TextVectorization(
        standardize=standardize, split=split, output_sequence_length=12, vocabulary=[*WORDS, *"CtzÉ'"]
    )
    ids = keras.Input((12,), dtype="int64")
    model = keras.Model(ids, layers.Flatten()(layers.Embedding(vectorize.vocabulary_size(), 4)(ids)))
    export_onnx(model, tmp_path / "text.onnx", tokenizer=vectorize, normalize=False)
    texts = ["The Cat's mat.", "É é\tzebra -- ran", "", "a\u00a0cat, on the mat " * 4, "C a t z ' É"]
    expected = np.asarray(model(np.asarray(vectorize(texts))))
    np.testing.assert_allclose(OnnxEncoder(tmp_path / "text.onnx").encode(texts), expected, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"output_mode": "multi_hot"}, {"ngrams": 2}, {"standardize": lambda text: text}, {"split": lambda text: text}],
    ids=lambda options: next(iter(options)),
)
def test_a_text_vectorization_that_no_tokenizer_expresses(tmp_path, options):
    vectorize = layers.TextVectorization(vocabulary=WORDS, **options)
    with pytest.raises(ValueError, match=next(iter(options))):
        export_onnx(masked_encoder(), tmp_path / "text.onnx", tokenizer=vectorize)


def test_tokenizers_that_do_not_fit(tmp_path):
    path = tmp_path / "text.onnx"
    larger = words_tokenizer()
    larger.add_tokens(["zebra"])
    with pytest.raises(ModelInputError, match="token 17"):
        export_onnx(masked_encoder(), path, tokenizer=larger)
    with pytest.raises(InputError, match="A tokenizer fills"):
        export_onnx(keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten()]), path, tokenizer=words_tokenizer())
    with pytest.raises(ValueError, match="JSON"):
        export_onnx(masked_encoder(), path, tokenizer="{}")
    with pytest.raises(TypeError, match="int"):
        export_onnx(masked_encoder(), path, tokenizer=3)
    with pytest.raises(FileNotFoundError):
        export_onnx(masked_encoder(), path, tokenizer=tmp_path / "none.json")
    assert not [*tmp_path.iterdir()]


def write_transformer(path, outputs=("last_hidden_state",), dtype="float32"):
    """A table of vectors, with a (batch, D) output too where it is asked for: the sum."""
    table = onnx.numpy_helper.from_array(TABLE.astype(dtype), "table")
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"]),
        helper.make_node("Identity", ["attention_mask"], ["unused"]),
        helper.make_node("ReduceSum", ["last_hidden_state", "axis"], ["total"], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    kinds = {"last_hidden_state": ("batch", "length", 6), "total": ("batch", 6)}
    graph = helper.make_graph(
        nodes,
        "transformer",
        [value(name, TensorProto.INT64, ("batch", "length")) for name in ("input_ids", "attention_mask")],
        [value(name, table.data_type, kinds[name]) for name in outputs],
        [table, onnx.numpy_helper.from_array(np.array([1]), "axis")],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


TABLE = RNG.normal(size=(3 + len(WORDS), 6)).astype("float32")


def write_folder(folder, pooling="mean", model="model.onnx", normalize=True, longest=4):
    write_transformer(folder / model)
    tokenizer = words_tokenizer()
    tokenizer.enable_padding(length=128)  # as the tokenizers of many models on the hub: it is no part of the model
    tokenizer.save(str(folder / "tokenizer.json"))
    modules = ["Transformer", "Pooling", *["Normalize"] * normalize]
    described = [{"idx": i, "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(described))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": longest}))
    (folder / "1_Pooling").mkdir()
    flags = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    flags |= {"word_embedding_dimension": 6, "pooling_mode_max_tokens": pooling == "max"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(flags))


def expected_of(texts, pooling, longest=4):
    ids = [words_tokenizer(longest).encode(text).ids for text in texts]
    return np.stack([TABLE[i[0]] if pooling == "cls" else TABLE[i].mean(axis=0) for i in ids])


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("model", ["model.onnx", "onnx/model.onnx"])
def test_a_folder_of_sentence_transformers(tmp_path, pooling, model):
    write_folder(tmp_path / "st", pooling, model)
    encoder = OnnxEncoder(tmp_path / "st")
    expected = expected_of(TEXTS, pooling)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(encoder)).encode(TEXTS), expected, atol=1e-6)
    assert encoder.dimension == 6 and encoder.takes_text


def test_the_mean_of_float16_vectors_is_computed_in_float32(tmp_path):
    write_transformer(tmp_path / "half.onnx", dtype="float16")
    ids = RNG.integers(3, len(TABLE), (2, 4000))
    encoder = OnnxEncoder(tmp_path / "half.onnx", pooling="mean")
    found = encoder.encode({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    np.testing.assert_allclose(found, TABLE.astype("float16")[ids].astype("float64").mean(axis=1), atol=1e-5)


def test_the_pooling_of_a_folder_can_be_chosen(tmp_path):
    write_folder(tmp_path / "st", "mean", normalize=False)
    found = OnnxEncoder(tmp_path / "st", pooling="cls").encode(TEXTS)
    np.testing.assert_allclose(found, expected_of(TEXTS, "cls"), atol=1e-6)


def test_an_index_knows_the_pooling_that_filled_it(tmp_path):
    write_folder(tmp_path / "st", "mean")
    mean, again = OnnxEncoder(tmp_path / "st"), OnnxEncoder(tmp_path / "st", pooling="mean", batch_size=2)
    index = Index(mean)
    index.check_encoder(again)
    write_folder(tmp_path / "plain", "mean", normalize=False)
    write_folder(tmp_path / "long", "mean", longest=9)
    for other in (
        OnnxEncoder(tmp_path / "st", pooling="cls"),
        *map(OnnxEncoder, (tmp_path / "plain", tmp_path / "long")),
    ):
        with pytest.raises(InputError, match="only with the encoder that filled it"):
            index.check_encoder(other)


def test_an_index_knows_the_tokenizer_that_filled_it(masked, tmp_path):
    model, encoder = masked
    rows = encoder.tokenize(TEXTS)
    to_float16(encoder.path, tmp_path / "half.onnx", samples=rows)
    export_onnx(model, tmp_path / "other.onnx", tokenizer=words_tokenizer(3))
    index = Index(encoder)
    index.check_encoder(OnnxEncoder(tmp_path / "half.onnx"))
    with pytest.raises(InputError, match="only with the encoder that filled it"):
        index.check_encoder(OnnxEncoder(tmp_path / "other.onnx"))


def test_an_output_among_several_is_named(tmp_path):
    path = tmp_path / "two.onnx"
    write_transformer(path, ("last_hidden_state", "total"))
    with pytest.raises(ModelFileError, match=r"last_hidden_state .*total .*output="):
        OnnxEncoder(path)
    with pytest.raises(ModelFileError, match=r"pooling='mean'"):
        OnnxEncoder(path, output="last_hidden_state")
    with pytest.raises(ModelFileError, match="output='other'"):
        OnnxEncoder(path, output="other")
    with pytest.raises(ValueError, match="pooling='max'"):
        OnnxEncoder(path, pooling="max")
    ids = np.array([[1, 2, 3], [4, 5, 0]])
    rows = {"input_ids": ids, "attention_mask": np.array([[1, 1, 1], [1, 1, 0]])}
    np.testing.assert_allclose(OnnxEncoder(path, output="total").encode(rows), TABLE[ids].sum(axis=1), atol=1e-6)
    means = np.stack([TABLE[[1, 2, 3]].mean(axis=0), TABLE[[4, 5]].mean(axis=0)])
    np.testing.assert_allclose(OnnxEncoder(path, pooling="mean").encode(rows), means, atol=1e-6)
    left = {"input_ids": ids[:, ::-1], "attention_mask": rows["attention_mask"][:, ::-1]}
    np.testing.assert_allclose(OnnxEncoder(path, pooling="cls").encode(left), TABLE[[3, 5]], atol=1e-6)


def test_folders_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        OnnxEncoder(tmp_path)
    write_folder(tmp_path / "max", "max")
    with pytest.raises(ModelFileError, match="pooling_mode_max_tokens"):
        OnnxEncoder(tmp_path / "max")
    write_folder(tmp_path / "dense")
    modules = tmp_path / "dense" / "modules.json"
    modules.write_text('[{"type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(ModelFileError, match="Dense"):
        OnnxEncoder(tmp_path / "dense")
    modules.write_text("[")
    with pytest.raises(ModelFileError, match="JSON"):
        OnnxEncoder(tmp_path / "dense")


def test_a_quantized_model_keeps_its_tokenizer(masked, tmp_path):
    _, encoder = masked
    texts = [" ".join(RNG.choice(WORDS, RNG.integers(1, 9))) for _ in range(64)]
    to_float16(encoder.path, tmp_path / "half.onnx", samples=encoder.tokenize(texts))
    found = OnnxEncoder(tmp_path / "half.onnx").encode(texts)
    np.testing.assert_allclose(found, encoder.encode(texts), atol=5e-3)

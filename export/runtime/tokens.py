"""Texts as rows of an encoder, by the Hugging Face tokenizer that its file holds."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_tfcl.export.errors import InputError, ModelFileError, NonFiniteError
from keras_tfcl.export.runtime.inputs import InputSpec
from keras_tfcl.export.runtime.requirements import require

if TYPE_CHECKING:
    from keras_tfcl.export.runtime.runner import Runner

Tokens = tuple[list[int], list[int]]  # the numbers of a text's tokens, and the number of the segment of each
TOKENS_PER_RUN = 16_384  # rows times length; attention needs memory for the square of the length besides
MAX_LENGTH = 1 << 20  # of a row; a longer one would be a hostile file
_WINDOW = 16  # runs whose texts are sorted together in a stream
_ROLES = {
    "input_ids": "ids",
    "token_ids": "ids",
    "tokens": "ids",
    "ids": "ids",
    "attention_mask": "mask",
    "padding_mask": "mask",
    "mask": "mask",
    "token_type_ids": "segments",
    "segment_ids": "segments",
}
_PAD_TOKENS = ("[PAD]", "<pad>", "<PAD>")


@dataclass(frozen=True)
class TextRule:
    """How texts become rows of an encoder of tokens.

    Attributes:
        tokenizer: a `tokenizers.Tokenizer` that truncates and does not pad.
        inputs: the inputs of the encoder.
        roles: what each input is: "ids", "mask" (1 for tokens and 0 for padding) or "segments".
        length: of every row; None pads to the longest text of a run. Without a mask there is no such padding, because
            the model would take it for text: a run then holds texts of one length.
        pad_id, pad_segment: the numbers of padding.
        left: whether padding stands before the text.
    """

    tokenizer: Any
    inputs: tuple[InputSpec, ...]
    roles: tuple[str, ...]
    length: int | None
    pad_id: int
    pad_segment: int
    left: bool

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text, truncated and not padded.

        Raises:
            InputError: the tokenizer rejects a text, such as a word that is unknown to one without a token for such.
        """
        try:
            encodings = self.tokenizer.encode_batch(texts)
        except Exception as error:  # the package raises bare exceptions
            raise InputError(
                f"Expected texts that the tokenizer takes. Received: a text that it rejects: {error}. Leave it out, or "
                f"give the tokenizer a token for unknown words."
            ) from error
        return [(encoding.ids, encoding.type_ids) for encoding in encodings]

    def runs(self, tokens: Sequence[Tokens], rows: int) -> Iterator[np.ndarray]:
        """Yield the positions of the texts of each run, longest first: at most `rows` and `TOKENS_PER_RUN` together."""
        own = np.array([len(ids) for ids, _ in tokens])
        lengths = own if self.length is None else np.full(len(tokens), self.length)
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            longest = lengths[order[start]]
            end = start + min(rows, rows_in_run(longest))
            if "mask" not in self.roles:
                end = min(end, int(np.searchsorted(-lengths[order], -longest, side="right")))
            yield order[start:end]
            start = end

    def rows(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """Return one array `(N, length)` for each input, padded to the length of the rows or of the longest text."""
        length = max(len(ids) for ids, _ in tokens) if self.length is None else self.length
        columns = {
            "ids": np.full((len(tokens), length), self.pad_id),
            "mask": np.zeros((len(tokens), length), np.int64),
            "segments": np.full((len(tokens), length), self.pad_segment),
        }
        for row, (ids, segments) in enumerate(tokens):
            span = slice(length - len(ids), length) if self.left else slice(len(ids))
            columns["ids"][row, span] = ids
            columns["mask"][row, span] = 1
            columns["segments"][row, span] = segments
        masks = [spec.dtype == "bool" for spec in self.inputs]
        return [
            columns[role].astype(bool if is_bool else np.int64) for role, is_bool in zip(self.roles, masks, strict=True)
        ]


class TextReader:
    """Embeddings of texts that come in a stream, in windows of `_WINDOW` runs.

    Args:
        rule: of the encoder.
        rows: most texts in a run.
        on_error: what to do about a text without tokens, as in `BatchReader`.

    Attributes:
        skipped: the texts left out so far, by position.
    """

    def __init__(self, rule: TextRule, rows: int, on_error: str | Callable[[int, object, Exception], None]) -> None:
        self._rule, self._rows, self._on_error = rule, rows, on_error
        self.skipped: dict[int, object] = {}

    def embeddings(self, texts: Iterable[object], run: Runner) -> Iterator[np.ndarray]:
        """Yield the embeddings of each window, in the order of its texts; they are computed in the order of length."""
        for positions, tokens in self._windows(iter(texts)):
            embeddings = np.empty((len(tokens), run.dimension), np.float32)
            for some in self._rule.runs(tokens, self._rows):
                rows = self._rule.rows([tokens[position] for position in some])
                try:
                    embeddings[some] = run(rows, self._rows)
                except NonFiniteError as error:
                    numbers = ", ".join(map(str, sorted(positions[some])[:5]))
                    raise NonFiniteError(f"{error} These rows are texts, among them number {numbers}.") from error
            yield embeddings

    def _windows(self, texts: Iterator[object]) -> Iterator[tuple[np.ndarray, list[Tokens]]]:
        """Yield the positions in the stream, and the tokens, of the texts of each window."""
        first = 0
        while window := list(itertools.islice(texts, _WINDOW * self._rows)):
            strings = [text for text in window if isinstance(text, str)]
            if len(strings) < len(window):
                number, stray = next(pair for pair in enumerate(window, first) if not isinstance(pair[1], str))
                kind = type(stray).__name__
                raise InputError(
                    f"Texts must all be strings. Received: {kind} as text {number}. Convert it with str()."
                )
            tokens = self._rule.tokenize(strings)
            kept = [
                i for i, (ids, _) in enumerate(tokens) if ids or self._rule.length or self._skip(first + i, strings[i])
            ]
            if kept:
                yield np.array(kept) + first, [tokens[i] for i in kept]
            first += len(window)
        self._report(first)

    def _skip(self, position: int, text: str) -> bool:
        error = InputError(f"A text must have a token. Received: text {position}, {text!r:.60}. Leave it out.")
        if self._on_error == "raise":
            raise error
        self.skipped[position] = text
        if callable(self._on_error):
            self._on_error(position, text, error)
        return False

    def _report(self, count: int) -> None:
        if self.skipped and len(self.skipped) == count:
            raise InputError(
                f"At least one text must have a token. Received: {count} texts without any. Leave out empty texts."
            )
        if self.skipped and self._on_error == "skip":
            numbers = ", ".join(map(str, self.skipped))
            warnings.warn(
                f"{len(self.skipped)} of {count} texts have no token and are left out: {numbers}.", stacklevel=2
            )


def text_rule(inputs: tuple[InputSpec, ...], metadata: Mapping[str, object], path: object) -> TextRule:
    """Return how texts become rows, by the tokenizer in the metadata and the names of the inputs.

    Raises:
        InputError: an input is not one that a tokenizer fills.
        ModelFileError: the tokenizer is none.
        ImportError: the package `tokenizers` is missing; the message names the extra.
    """
    roles = _roles(inputs, path)
    lengths = {spec.shape[1] for spec in inputs}
    if len(lengths) > 1 or (next(iter(lengths)) or 0) > MAX_LENGTH:
        raise ModelFileError(
            f"Inputs of tokens must have one length of at most {MAX_LENGTH:,}. Received: "
            f"{'; '.join(map(str, inputs))} in {path}. Export with keras.Input((length,)) for each."
        )
    try:
        tokenizer = require("tokenizers", "text").Tokenizer.from_str(metadata["tokenizer"])
    except ImportError:
        raise
    except Exception as error:  # the package raises bare exceptions
        raise ModelFileError(
            f"The tokenizer in {path} must be the JSON of a Hugging Face tokenizer. Received: text that is none "
            f"({error}). Export again."
        ) from error
    padding, truncation = tokenizer.padding or {}, tokenizer.truncation or {}
    length = next(iter(lengths)) or (None if "mask" in roles else padding.get("length"))
    limits = [limit for limit in (length, truncation.get("max_length")) if limit]
    tokenizer.no_padding()
    if limits:
        tokenizer.enable_truncation(min(limits), direction=truncation.get("direction", "right"))
    known = (tokenizer.token_to_id(token) for token in _PAD_TOKENS)
    pad_id = padding.get("pad_id", next((number for number in known if number is not None), 0))
    left = padding.get("direction") == "left"
    return TextRule(tokenizer, inputs, roles, length, pad_id, padding.get("pad_type_id", 0), left)


def rows_in_run(length: int) -> int:
    """Return how many rows of a length one run may hold: those of `TOKENS_PER_RUN` together, and at least one."""
    return max(1, TOKENS_PER_RUN // max(1, int(length)))


def is_mask(name: str) -> bool:
    """Whether an input of this name says which tokens are padding."""
    return _ROLES.get(name) == "mask"


def find_texts(x: Any) -> tuple[tuple[int | None, Iterable[object]] | None, Any]:
    """Return the texts in `x` and their number, None if only the end of a stream will tell; or None without texts.

    Args:
        x: a sequence of strings, or an iterator whose first item is one; anything else has no texts.

    Returns:
        Those, and `x` to be used instead: the first item of a stream has been taken from it.

    Raises:
        InputError: it is one string, not in a list.
    """
    if isinstance(x, str):
        raise InputError(f"Texts must come in a list. Received: {x!r:.60} alone. Write [text].")
    if isinstance(x, Sequence):
        return ((len(x), list(x)) if not x or isinstance(x[0], str) else None), x
    if isinstance(x, Mapping) or hasattr(x, "shape") or not isinstance(x, Iterable):
        return None, x
    stream = iter(x)
    first = list(itertools.islice(stream, 1))
    x = itertools.chain(first, stream)
    return ((None, x) if first and isinstance(first[0], str) else None), x


def _roles(inputs: tuple[InputSpec, ...], path: object) -> tuple[str, ...]:
    single = len(inputs) == 1
    roles = tuple("ids" if single else _ROLES.get(spec.name, "unknown") for spec in inputs)
    fits = all(len(spec.shape) == 2 for spec in inputs) and "ids" in roles and len(set(roles)) == len(roles)
    if not fits or "unknown" in roles:
        raise InputError(
            f"A tokenizer fills inputs (batch, length): one of any name, or several named as in {', '.join(_ROLES)}. "
            f"Received: {path} with {'; '.join(map(str, inputs))}. Name the inputs so: keras.Input((None,), "
            f'name="attention_mask").'
        )
    return roles

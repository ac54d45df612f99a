"""Names of bases: the built-in one, folders, and hub repositories served by a small real HTTP server."""

import hashlib
import json
import multiprocessing
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry.errors import Invalid, NotFound, Unavailable
from registry.manifest import digest
from trainer.bases import BaseSpec, resolve_base
from trainer.chat import template_digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama", "hidden_size": 64}',
    "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as resolving a base needs (reference/training.md 3.1)."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        status, headers, data = 404, {"X-Error-Code": "RepoNotFound"}, b""
        if "gated" in parts:
            status, headers = 403, {"X-Error-Code": "GatedRepo"}
        elif parts[:2] == ["api", "models"] and parts[2:4] == ["org", "model"]:
            if len(parts) > 5 and parts[5] not in {"main", COMMIT}:
                headers = {"X-Error-Code": "RevisionNotFound"}
            else:
                status, headers = 200, {"Content-Type": "application/json"}
                data = json.dumps({"id": "org/model", "sha": COMMIT, "siblings": []}).encode()
        elif parts[:3] == ["org", "model", "resolve"]:
            found = FILES.get(parts[-1])
            headers = {"X-Repo-Commit": COMMIT, "X-Error-Code": "EntryNotFound"}
            if found is not None:
                status, data = 200, found
                headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(found).hexdigest()}"'}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """URL of the server; the client's cache lies in the test's own folder."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete base in a folder (its weights are bytes nobody loads here)."""
    base = tmp_path / "My base (v2)"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "mistral"}')
    (base / "model.safetensors").write_bytes(b"weights")
    (base / "tokenizer.json").write_text("{}")
    return base


def test_a_folder_is_a_local_base_pinned_by_its_weights(folder, tmp_path):
    base = resolve_base(str(folder), tmp_path)
    assert (base.kind, base.repo, base.path) == ("local", "local/My-base-v2", folder)
    assert base.weights_sha256 == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert base.revision == hashlib.sha256(b"weights").hexdigest()[:40]
    assert base.config == {"model_type": "mistral"}


def test_no_path_is_in_the_name_nor_in_the_published_form(folder, tmp_path):
    base = resolve_base(str(folder), tmp_path)
    assert str(tmp_path) not in base.repo
    assert base.without_path().path is None
    assert BaseSpec.from_json(base.as_json()) == base


def test_shards_are_hashed_over_their_list(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"more")
    expected = digest(
        [[f"model-0000{n}-of-00002.safetensors", "sha256:" + hashlib.sha256(b).hexdigest()] for n, b in ((1, b"weights"), (2, b"more"))]
    )
    base = resolve_base(str(folder), tmp_path)
    assert base.weights_sha256 == expected
    assert base.revision == expected.removeprefix("sha256:")[:40]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", r"needs its weights as \*\.safetensors; found none"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_is_missing(folder, tmp_path, missing, words):
    (folder / missing).unlink()
    with pytest.raises(Invalid, match=words):
        resolve_base(str(folder), tmp_path)


def test_a_pickle_is_named_and_not_taken(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Invalid, match=r"found pytorch_model\.bin, which is a pickle"):
        resolve_base(str(folder), tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", "\xff"])
def test_a_config_that_is_no_object_is_refused(folder, tmp_path, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(Invalid, match=r"config\.json in"):
        resolve_base(str(folder), tmp_path)


def test_the_folders_template_is_read_from_either_place(folder, tmp_path):
    (folder / "tokenizer_config.json").write_text(
        '{"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "old"}]}'
    )
    assert resolve_base(str(folder), tmp_path).chat_template_sha256 == template_digest("old")
    (folder / "chat_template.jinja").write_text("new")
    assert resolve_base(str(folder), tmp_path).chat_template_sha256 == template_digest("new")


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("/no/such/folder", NotFound, "There is no folder"),
        ("./no-such", NotFound, "There is no folder"),
        ("~/no-such-folder-here", NotFound, "There is no folder"),
        ("a/b/c", NotFound, "There is no folder"),
        ("mistral", Invalid, "A base is 'tiny', an existing folder, or a hub id"),
        ("", Invalid, "A base is 'tiny'"),
        ("org/na me", NotFound, "There is no folder"),
    ],
)
def test_a_name_that_is_nothing_gets_a_sentence(tmp_path, name, error, words):
    with pytest.raises(error, match=words):
        resolve_base(name, tmp_path)


def test_a_file_is_no_base(folder, tmp_path):
    with pytest.raises(Invalid, match="is a file"):
        resolve_base(str(folder / "config.json"), tmp_path)


def test_a_hub_base_is_pinned_to_its_commit(hub, tmp_path):
    base = resolve_base("org/model", tmp_path, endpoint=hub)
    assert (base.kind, base.repo, base.revision, base.path, base.weights_sha256) == ("hub", "org/model", COMMIT, None, None)
    assert base.config == {"model_type": "llama", "hidden_size": 64}
    assert base.chat_template_sha256 == template_digest("{{ messages }}")
    assert resolve_base(f"org/model@{COMMIT}", tmp_path, endpoint=hub) == base


@pytest.mark.parametrize(
    ("name", "error", "words", "hint"),
    [
        ("org/missing", NotFound, "no model org/missing", "HF_TOKEN"),
        ("org/model@v9", NotFound, "no revision 'v9'", "newest"),
        ("org/gated", Invalid, "org/gated is gated", "https://huggingface.co/org/gated"),
    ],
)
def test_what_the_hub_refuses_gets_a_sentence(hub, tmp_path, name, error, words, hint):
    with pytest.raises(error, match=words) as caught:
        resolve_base(name, tmp_path, endpoint=hub)
    assert hint in caught.value.hint


def test_without_network_the_cache_serves_what_it_has(hub, tmp_path):
    online = resolve_base("org/model", tmp_path, endpoint=hub)
    nowhere = "http://127.0.0.1:9"  # the discard port: refused at once
    assert resolve_base(f"org/model@{COMMIT}", tmp_path, endpoint=nowhere) == online
    with pytest.raises(Unavailable, match="org/other is not in this machine's cache"):
        resolve_base("org/other", tmp_path, endpoint=nowhere)


def test_a_spec_with_nonsense_is_refused():
    good = {"kind": "hub", "repo": "org/model", "revision": COMMIT}
    for change, words in [
        ({"kind": "cloud"}, "has a kind"),
        ({"revision": "main"}, "40 lower-case hex"),
        ({"colour": "red"}, "has no 'colour'"),
        ({"kind": "local"}, "needs the path"),
    ]:
        with pytest.raises(Invalid, match=words):
            BaseSpec.from_json(good | change)


def test_the_packaged_tokenizer_is_the_packaged_texts():
    from trainer.tiny.builtin import tokenizer_json
    from trainer.tiny.vocabulary import make_tokenizer

    assert json.loads(make_tokenizer()) == json.loads(tokenizer_json())


def test_the_packaged_text_is_plain_and_of_the_promised_size():
    from trainer.tiny.builtin import corpus

    text = corpus()
    assert text.isascii()
    assert 50_000 < len(text) < 90_000
    assert "burnout" not in text.lower()


@pytest.mark.train
def test_the_builtin_base_is_complete_and_says_what_it_is(tiny):
    facts = json.loads((tiny.path / "base.json").read_text())
    assert (tiny.kind, tiny.repo) == ("builtin", "adapter-registry/tiny-mistral")
    assert tiny.revision == tiny.weights_sha256.removeprefix("sha256:")[:40] == facts["revision"]
    assert "talks nonsense" in tiny.note
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in tiny.note
    assert tiny.config["architectures"] == ["MistralForCausalLM"]
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {
        p.name for p in tiny.path.iterdir()
    }
    assert all(p.stat().st_mode & 0o777 == 0o644 for p in tiny.path.iterdir() if p.suffix == ".safetensors")


@pytest.mark.train
def test_a_damaged_builtin_base_is_refused(tiny, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(tiny.path, home / "bases" / tiny.path.name)
    weights = home / "bases" / tiny.path.name / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Invalid, match="weights changed on disk"):
        resolve_base("tiny", home)


def _resolve(home: str, queue: "multiprocessing.Queue[str]") -> None:
    queue.put(str(resolve_base("tiny", Path(home)).weights_sha256))


@pytest.mark.train
def test_two_processes_that_build_at_once_get_the_same_base_and_a_fresh_build_the_same_bytes(tiny, tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_resolve, args=(str(tmp_path), queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = {queue.get(timeout=300) for _ in workers}
    for worker in workers:
        worker.join()
    assert found == {tiny.weights_sha256}
    assert [p.name for p in (tmp_path / "bases").iterdir() if p.is_dir()] == [tiny.path.name]

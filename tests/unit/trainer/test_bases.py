"""Names of bases: the built-in one, folders, and hub repositories served by a small real HTTP server."""

import hashlib
import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from registry.errors import Invalid, NotFound, Unavailable
from registry.known_bases import known_base, known_bases
from registry.manifest import digest
from registry.refs import DIGEST
from trainer.bases import BaseSpec, resolve_base
from trainer.chat import packaged_template, template_digest
from trainer.preflight import count_parameters

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MISTRAL_7B = "mistralai/Mistral-7B-Instruct-v0.3"
FILES = {
    "config.json": b'{"model_type": "llama", "hidden_size": 64}',
    "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
}


class Hub(BaseHTTPRequestHandler):
    """As much of a hub as resolving a base needs (reference/training.md 3.1): org/model, a known base at its card's commit, and gated ones."""

    protocol_version = "HTTP/1.1"
    llama_status = 403

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        status, headers, data = 404, {"X-Error-Code": "RepoNotFound"}, b""
        api = parts[:2] == ["api", "models"]
        repo, rest = "/".join(parts[2:4] if api else parts[:2]), parts[5:] if api else parts[3:]
        if "gated" in parts or (repo.startswith("meta-llama/") and self.llama_status == 403):
            status, headers = 403, {"X-Error-Code": "GatedRepo"}
        elif repo in {"org/model", MISTRAL_7B} and api:
            commit = rest[0] if rest else "main"
            if commit not in {"main", COMMIT, known_base(MISTRAL_7B).revision}:
                headers = {"X-Error-Code": "RevisionNotFound"}
            else:
                status, headers = 200, {"Content-Type": "application/json"}
                data = json.dumps({"id": repo, "sha": COMMIT if commit == "main" else commit, "siblings": []}).encode()
        elif repo in {"org/model", MISTRAL_7B}:
            found = FILES.get(parts[-1])
            headers = {"X-Repo-Commit": rest[0], "X-Error-Code": "EntryNotFound"}
            if found is not None:
                status, data = 200, found
                headers = {"X-Repo-Commit": rest[0], "ETag": f'"{hashlib.sha256(found).hexdigest()}"'}
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
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
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


# --- known bases


@pytest.mark.parametrize("known", known_bases(), ids=lambda known: known.repo)
def test_a_known_bases_card_agrees_with_itself(known):
    assert re.fullmatch(r"[0-9a-f]{40}", known.revision) if known.revision else known.revision_note
    assert known.chat_template_sha256 is None or DIGEST.fullmatch(known.chat_template_sha256)
    assert bool(known.chat_template_sha256) != bool(known.template_note)
    assert known.gated == (known.token_variable is not None)
    assert known.licence_page.startswith("https://")
    assert known.end_of_turn in packaged_template(known.chat_template) or known.end_of_turn == "</s>"
    assert known.evidence
    assert weights_of(known.config) == known.parameters == count_parameters(known.config)
    assert (known.card.repo, known.card.revision, known.card.layers) == (known.repo, known.revision, known.config["num_hidden_layers"])


def weights_of(config: dict[str, int]) -> int:
    """All weights by hand: two tables of words, and per layer the attention, the MLP and two norms; Qwen's q, k and v have biases."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = 2 * hidden * (queries + keys) + 3 * hidden * config["intermediate_size"] + 2 * hidden
    biases = queries + 2 * keys if config["model_type"] == "qwen2" else 0
    return 2 * config["vocab_size"] * hidden + config["num_hidden_layers"] * (layer + biases) + hidden


@pytest.mark.parametrize(
    ("repo", "attention", "all_linear"),
    [
        (
            "mistralai/Mistral-7B-Instruct-v0.3",
            13_631_488,
            41_943_040,
        ),  # the proof of concept's figure, and PEFT's own for all linear modules
        ("meta-llama/Llama-3.1-8B-Instruct", 13_631_488, 41_943_040),
        ("meta-llama/Llama-3.1-70B-Instruct", 65_536_000, 207_093_760),
        ("microsoft/phi-4", 40 * 16 * ((5120 + 7680) + (5120 + 5120)), 55_705_600),
        ("Qwen/Qwen2.5-14B-Instruct", 25_165_824, 68_812_800),
        ("Qwen/Qwen2.5-72B-Instruct", 65_536_000, 210_534_400),
    ],
)
def test_trainable_parameters_follow_from_the_shapes(repo, attention, all_linear):
    known = known_base(repo)
    assert (known.lora_parameters(16, "attention"), known.lora_parameters(16, "all-linear")) == (attention, all_linear)
    with pytest.raises(Invalid, match="A profile is attention or all-linear"):
        known.lora_parameters(16, "custom")


def test_known_bases_are_found_by_every_name():
    assert len(known_bases()) == 6
    assert known_base("META-llama/llama-3.1-8b-instruct") == known_base("meta-llama/Meta-Llama-3.1-8B-Instruct")
    assert known_base("org/model") is None


@pytest.mark.parametrize("module", ["registry.known_bases", "trainer.chat"])
def test_cards_load_without_torch(module):
    code = f"import sys, {module}; print(sorted({{m.split('.')[0] for m in sys.modules}} & {{'torch', 'transformers', 'jinja2', 'numpy', 'sqlalchemy'}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_known_base_is_taken_at_its_cards_revision(hub, tmp_path):
    events = []
    base = resolve_base(MISTRAL_7B, tmp_path, lambda event: events.append(dict(event)), endpoint=hub)
    known = known_base(MISTRAL_7B)
    assert (base.repo, base.revision, base.template) == (known.repo, known.revision, "mistral-v0.3")
    assert [e["event"] for e in events] == ["warning"]
    assert known.revision in events[0]["message"]
    assert resolve_base(MISTRAL_7B.lower(), tmp_path, endpoint=hub) == base


def test_another_revision_of_a_known_base_is_taken_when_it_is_asked_for(hub, tmp_path):
    events = []
    base = resolve_base(f"{MISTRAL_7B}@main", tmp_path, lambda event: events.append(dict(event)), endpoint=hub)
    assert base.revision == COMMIT
    assert not events


@pytest.mark.parametrize("status", [403, 404])
def test_a_gated_known_base_names_its_licence_page_and_the_token_variable(hub, tmp_path, monkeypatch, status):
    """A hub says of a gated repository that it is gated, or that there is none, depending on the token."""
    monkeypatch.setattr(Hub, "llama_status", status)
    with pytest.raises((Invalid, NotFound)) as caught:
        resolve_base("meta-llama/Llama-3.1-8B-Instruct", tmp_path, endpoint=hub)
    assert "https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct" in caught.value.hint
    assert "HF_TOKEN" in caught.value.hint
    assert ("Llama 3.1 Community License" in caught.value.message) == (status == 403)


def test_an_own_template_that_is_passed_over_is_said(hub, tmp_path):
    events = []
    base = resolve_base(
        "org/model", tmp_path, lambda event: events.append(dict(event)), endpoint=hub
    )  # its template prints the list of messages
    assert base.template == "plain"
    assert "does not say which words are the assistant's" in events[0]["message"]


@pytest.mark.parametrize("name", ["here", ".", "/tmp", "~"])
def test_a_name_from_elsewhere_never_means_a_folder(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Invalid, match="A job's base"):
        resolve_base(name, tmp_path, folders=False)

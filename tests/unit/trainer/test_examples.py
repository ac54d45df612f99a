"""Reading a dataset folder: what is refused names file, line and turn."""

import json

import pytest

from registry.errors import Invalid
from registry.manifest import digest_bytes
from trainer.examples import read_dataset, seal

DIGEST = "sha256:" + "b" * 64
PAIRS = [("How are you?", "Well."), ("And you?", "Also well.")]


def turns(*roles):
    return [{"role": role, "content": "words"} for role in roles]


def test_conversations_keep_order_digest_and_place(dataset):
    found = read_dataset(dataset([*PAIRS, ("One", "two", "three", "four")], [("Held", "out")]))
    assert [c.where for c in found.train] == ["train.jsonl line 1", "train.jsonl line 2", "train.jsonl line 3"]
    assert [m["role"] for m in found.train[2].messages] == ["user", "assistant", "user", "assistant"]
    assert len(found.heldout) == 1
    assert found.dataset_sha256 == "sha256:" + "a" * 64


def test_nothing_held_out_is_fine(dataset):
    assert read_dataset(dataset(PAIRS)).heldout == ()


def test_a_line_separator_inside_a_text_is_not_a_line_break(dataset):
    assert read_dataset(dataset([("a\u2028b", "c\u0085d"), *PAIRS])).train[0].messages[0]["content"] == "a\u2028b"


@pytest.mark.parametrize(("count", "words"), [(0, "has no conversation"), (1, "has one conversation")])
def test_too_few_conversations_get_a_sentence(dataset, count, words):
    with pytest.raises(Invalid, match=f"at least 2 conversations; train.jsonl {words}"):
        read_dataset(dataset(PAIRS[:count]))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "train.jsonl line 3 is not JSON"),
        ("[]", "train.jsonl line 3 is a JSON object; found list"),
        (json.dumps({"messages": turns("user", "assistant")}), "line 3: expected the example's sha256"),
        (json.dumps({"sha256": DIGEST, "messages": "hello"}), "line 3: expected a list of messages"),
        (json.dumps({"sha256": DIGEST, "messages": []}), "line 3: a conversation ends with the assistant's words; found 0 turns"),
        (json.dumps({"sha256": DIGEST, "messages": turns("system", "user", "assistant")}), "line 3 has a system turn"),
        (json.dumps({"sha256": DIGEST, "messages": turns("assistant", "user")}), "turn 1: expected the user"),
        (json.dumps({"sha256": DIGEST, "messages": turns("user", "user")}), "turn 2: expected the assistant"),
        (json.dumps({"sha256": DIGEST, "messages": turns("user")}), "ends with the assistant's words; found 1 turns"),
        (json.dumps({"sha256": DIGEST, "messages": ["hi"]}), "turn 1: expected the user"),
        (json.dumps({"sha256": DIGEST, "messages": [{"role": "user", "content": " \n"}]}), "turn 1: the user says nothing"),
        (json.dumps({"sha256": DIGEST, "messages": [{"role": "user", "content": None}]}), "turn 1: the user says nothing"),
    ],
)
def test_a_bad_line_is_named(dataset, line, words):
    folder = dataset(PAIRS)
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    seal(folder, DIGEST)
    with pytest.raises(Invalid, match=words):
        read_dataset(folder)


def test_bytes_that_are_no_text_are_named(dataset):
    folder = dataset(PAIRS)
    (folder / "heldout.jsonl").write_bytes(b"\xff")
    seal(folder, DIGEST)
    with pytest.raises(Invalid, match=r"heldout\.jsonl is not UTF-8 text: byte 0"):
        read_dataset(folder)


@pytest.mark.parametrize("missing", ["manifest.json", "train.jsonl", "heldout.jsonl"])
def test_a_folder_that_is_not_complete_is_refused(dataset, missing):
    folder = dataset(PAIRS)
    (folder / missing).unlink()
    with pytest.raises(Invalid, match=missing):
        read_dataset(folder)


@pytest.mark.parametrize("name", ["train.jsonl", "heldout.jsonl"])
@pytest.mark.parametrize(
    "change", [lambda text: text.replace("Also well", "Also bad"), lambda text: text + "\n", lambda text: text + text, lambda _text: ""]
)
def test_files_that_changed_on_disk_are_refused_with_what_was_expected(dataset, name, change):
    """Each line may still be sound by itself, and carry the digest of the example that it was."""
    folder = dataset(PAIRS, PAIRS)
    path = folder / name
    before = path.read_bytes()
    path.write_text(change(path.read_text()))
    with pytest.raises(Invalid, match=rf"{name} changed on disk") as caught:
        read_dataset(folder)
    assert f"expected {digest_bytes(before)} (2 lines), found {digest_bytes(path.read_bytes())}" in caught.value.message
    path.write_bytes(before)
    assert len(read_dataset(folder).train) == 2


@pytest.mark.parametrize(
    "manifest",
    [
        "{}",
        '{"format": "dataset-folder/9", "sha256": "x"}',
        "[]",
        "{",
        json.dumps({"format": "dataset-folder/2", "sha256": DIGEST}),
        json.dumps({"format": "dataset-folder/2", "sha256": DIGEST, "files": {"train.jsonl": {}, "heldout.jsonl": {}}}),
        json.dumps({"format": "dataset/1", "sha256": DIGEST}),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(dataset, manifest):
    folder = dataset(PAIRS)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(Invalid, match=r"manifest\.json"):
        read_dataset(folder)

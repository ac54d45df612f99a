"""The chat templates of the known bases: the published text, the trained words, and which base gets which."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_models import DESIGNS

from registry.known_bases import known_bases
from trainer.bases import BaseSpec, local_base
from trainer.chat import (
    BASE,
    LLAMA,
    MISTRAL,
    PACKAGED,
    PHI,
    PLAIN,
    QWEN,
    known_template,
    packaged_template,
    render,
    tells_answers,
    template_digest,
)
from trainer.data import IGNORED, Encoded, encode
from trainer.examples import Conversation
from trainer.recipe import default_recipe

FAMILIES = [LLAMA, MISTRAL, PHI, QWEN]
ONE = ("What helps?", "Rest.")
THREE = (*ONE, "And then?", "Walk a little.\n\nSleep.", "Is that all?", "It is.")
# What the models' own templates make of these conversations (without tools, without a system message).
_LLAMA_HEAD = (
    "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
)
_QWEN_HEAD = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
OFFICIAL = {
    (LLAMA, ONE): _LLAMA_HEAD
    + "<|start_header_id|>user<|end_header_id|>\n\nWhat helps?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nRest.<|eot_id|>",
    (LLAMA, THREE): _LLAMA_HEAD
    + "<|start_header_id|>user<|end_header_id|>\n\nWhat helps?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nRest.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnd then?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nWalk a little.\n\nSleep.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nIs that all?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nIt is.<|eot_id|>",
    (MISTRAL, ONE): "<s>[INST] What helps?[/INST] Rest.</s>",
    (
        MISTRAL,
        THREE,
    ): "<s>[INST] What helps?[/INST] Rest.</s>[INST] And then?[/INST] Walk a little.\n\nSleep.</s>[INST] Is that all?[/INST] It is.</s>",
    (PHI, ONE): "<|im_start|>user<|im_sep|>What helps?<|im_end|><|im_start|>assistant<|im_sep|>Rest.<|im_end|>",
    (PHI, THREE): "<|im_start|>user<|im_sep|>What helps?<|im_end|><|im_start|>assistant<|im_sep|>Rest.<|im_end|>"
    "<|im_start|>user<|im_sep|>And then?<|im_end|><|im_start|>assistant<|im_sep|>Walk a little.\n\nSleep.<|im_end|>"
    "<|im_start|>user<|im_sep|>Is that all?<|im_end|><|im_start|>assistant<|im_sep|>It is.<|im_end|>",
    (QWEN, ONE): _QWEN_HEAD + "<|im_start|>user\nWhat helps?<|im_end|>\n<|im_start|>assistant\nRest.<|im_end|>\n",
    (QWEN, THREE): _QWEN_HEAD + "<|im_start|>user\nWhat helps?<|im_end|>\n<|im_start|>assistant\nRest.<|im_end|>\n"
    "<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\nWalk a little.\n\nSleep.<|im_end|>\n"
    "<|im_start|>user\nIs that all?<|im_end|>\n<|im_start|>assistant\nIt is.<|im_end|>\n",
}
OPENING = {
    LLAMA: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    PHI: "<|im_start|>assistant<|im_sep|>",
    QWEN: "<|im_start|>assistant\n",
}


def messages(turns: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(turns)]


# --- the text


@pytest.mark.parametrize(("family", "turns"), OFFICIAL, ids=lambda v: v if isinstance(v, str) else f"{len(v) // 2}-turn")
def test_a_packaged_template_renders_the_published_text(family, turns):
    assert render(packaged_template(family), messages(turns)) == OFFICIAL[family, turns]


@pytest.mark.parametrize("family", OPENING)
def test_a_prompt_ends_where_the_answer_begins(family):
    prompt = render(packaged_template(family), messages(THREE)[:-1], prompt=True)
    assert prompt.endswith(OPENING[family])
    assert OFFICIAL[family, THREE].startswith(prompt)


@pytest.mark.parametrize(("family", "file"), [(LLAMA, "llama3_1"), (QWEN, "qwen2_5")])
def test_it_is_the_models_own_template_that_is_meant(family, file):
    """TRL packages two of the models' own texts, whose digests the cards name: everything that can be said without tools comes out alike."""
    found = importlib.util.find_spec("trl")
    if found is None or found.origin is None:
        pytest.skip("trl is not installed")
    own = (Path(found.origin).parent / "chat_templates" / f"{file}.jinja").read_text(encoding="utf-8")
    assert template_digest(own) in {b.chat_template_sha256 for b in known_bases() if b.chat_template == family}
    system = {"role": "system", "content": " Be kind. "}
    for conversation in (messages(ONE), messages(THREE), [system, *messages(THREE)], messages((" Is it? \n", "\n It is. "))):
        assert render(packaged_template(family), conversation) == render(own, conversation)
        assert render(packaged_template(family), conversation[:-1], prompt=True) == render(own, conversation[:-1], prompt=True)


@pytest.mark.parametrize("family", [LLAMA, PHI, QWEN])
def test_a_system_message_comes_first_or_not_at_all(family):
    import jinja2

    system = {"role": "system", "content": "Be kind."}
    assert "Be kind." in render(packaged_template(family), [system, *messages(ONE)])
    with pytest.raises(jinja2.TemplateError, match="optional system message first"):
        render(packaged_template(family), [*messages(ONE), system])


# --- the trained words


def name_of(family: str) -> str:
    return next(name for name, design in DESIGNS.items() if design.known.chat_template == family)


@pytest.fixture(scope="session")
def tokenizers(tiny_bases_of: dict[str, BaseSpec]) -> dict[str, Any]:
    """A tokenizer of each family (AutoTokenizer would load torch, which takes longer than these tests)."""
    from transformers import PreTrainedTokenizerFast

    return {family: PreTrainedTokenizerFast.from_pretrained(tiny_bases_of[name_of(family)].path) for family in FAMILIES}


def conversation(turns: tuple[str, ...]) -> Conversation:
    return Conversation("sha256:" + "d" * 64, "train.jsonl line 1", tuple(messages(turns)))


def trained_text(tokenizer: Any, encoded: Encoded) -> list[str]:
    runs = "".join("x" if label != IGNORED else "-" for label in encoded.labels)
    return [tokenizer.decode(list(encoded.labels[m.start() : m.end()])) for m in re.finditer("x+", runs)]


@pytest.mark.train
@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_and_their_end_token_are_trained_and_nothing_else(tokenizers, family):
    tokenizer, end = tokenizers[family], DESIGNS[name_of(family)].known.end_of_turn
    space = " " if family == MISTRAL else ""
    for turns in (ONE, THREE):
        encoded = encode(conversation(turns), tokenizer, packaged_template(family))
        assert trained_text(tokenizer, encoded) == [f"{space}{answer}{end}" for answer in turns[1::2]]
        expected = OFFICIAL[family, turns]
        assert tokenizer.decode(list(encoded.input_ids)) == (expected.replace("<s>", "<|begin_of_text|>") if family == LLAMA else expected)


@pytest.mark.train
@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_and_completion_train_the_same_tokens_as_the_marks(tokenizers, pairs, family):
    """The way of a template without marks (an answer is what it adds to the prompt), on real pairs and on several turns."""
    marked = packaged_template(family)
    unmarked = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", marked)
    assert unmarked != marked
    for turns in [*pairs[:6], THREE]:
        assert encode(conversation(turns), tokenizers[family], unmarked) == encode(conversation(turns), tokenizers[family], marked)


# --- which base gets which


def test_a_known_base_gets_its_familys():
    for known in known_bases():
        spec = BaseSpec("hub", known.repo, known.revision, config=known.config, chat_template_sha256="sha256:" + "1" * 64)
        assert default_recipe(spec, None).chat_template == known.chat_template
    assert known_template("org/other", None) is None


@pytest.mark.parametrize("name", DESIGNS)
def test_a_folder_gets_the_template_of_its_architecture_and_control_tokens(tiny_bases_of, name):
    base = tiny_bases_of[name]
    assert base.template == DESIGNS[name].known.chat_template
    recipe = default_recipe(base, None)
    assert (recipe.chat_template, recipe.chat_template_sha256) == (base.template, template_digest(packaged_template(base.template)))


@pytest.fixture
def folder(tiny_bases_of: dict[str, BaseSpec], tmp_path: Path) -> Any:
    """A base like the tiny Qwen with another own template, another architecture or fewer control tokens."""

    def make(own: str | None = None, model_type: str = "qwen2", rename: str | None = None) -> BaseSpec:
        target = tmp_path / "base"
        target.mkdir(exist_ok=True)
        for file in Path(str(tiny_bases_of["qwen-14b"].path)).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        config = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(config | {"model_type": model_type}))
        if rename:
            (target / "tokenizer.json").write_text((target / "tokenizer.json").read_text().replace(rename, "<|other|>"))
        if own is not None:
            (target / "chat_template.jinja").write_text(own)
        return local_base(target)

    return make


def test_without_family_and_own_template_it_is_the_plain_one(folder):
    assert folder().template == QWEN
    assert folder(model_type="gpt2").template == PLAIN
    assert folder(rename="<|im_end|>").template == PLAIN


def test_an_own_template_is_kept_where_it_tells_the_answers_apart(folder):
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    base = folder(chatml)
    assert base.template == BASE
    assert default_recipe(base, None).chat_template_sha256 == template_digest(chatml) == base.chat_template_sha256
    assert folder("{% for m in messages %}{{ m.content if loop.last }}{% endfor %}").template == PLAIN


def test_an_own_template_that_is_a_packaged_one_is_that_one(folder):
    assert {folder(packaged_template(name)).template for name in PACKAGED} == set(PACKAGED)


@pytest.mark.parametrize(
    "broken",
    [
        "{% for",
        "{{ raise_exception('no') }}",
        "{{ messages[5].content }}",
        "{{ ''.__class__.__mro__ }}",
        "{% generation %}x{% endgeneration %}",
    ],
)
def test_a_template_that_cannot_be_used_is_told(broken):
    assert not tells_answers(broken)

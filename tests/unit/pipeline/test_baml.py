"""The typed prompts: the committed client is what their sources give, and they keep the rules that BAML itself does not enforce."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[3]
SOURCES = sorted((REPO / "baml_src").glob("*.baml"))
FUNCTIONS = {"ExtractAdvisorDomain", "GenerateResearchQueries", "SynthesizeTrainingBatch", "JudgeTrainingPairs", "AnswerAsAdvisor"}


def _source() -> str:
    return "\n".join(path.read_text() for path in SOURCES)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_committed_client_is_what_the_sources_generate(tmp_path):
    shutil.copytree(REPO / "baml_src", tmp_path / "baml_src")
    tool = Path(sys.executable).with_name("baml-cli")
    done = subprocess.run(
        [str(tool), "generate", "--from", str(tmp_path / "baml_src")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    fresh, committed = _files(tmp_path / "baml_client"), _files(REPO / "baml_client")
    assert set(fresh) == set(committed)
    assert [name for name in fresh if fresh[name] != committed[name]] == [], "run: .venv/bin/baml-cli generate --from baml_src"


def test_the_generator_has_the_version_of_the_installed_library():
    assert re.findall(r'^  version "([^"]+)"', _source(), re.MULTILINE) == [importlib.metadata.version("baml-py")]


def test_every_function_has_its_task_line_and_a_system_part():
    source = _source()
    assert set(re.findall(r"^function (\w+)\(", source, re.MULTILINE)) == FUNCTIONS
    for name in FUNCTIONS:
        prompt = source.split(f"function {name}(")[1].split('"#')[0]
        assert (
            prompt.index('_.role("system")')
            < prompt.index(f"Task: {name}")
            < prompt.index("ctx.output_format")
            < prompt.index('_.role("user")')
        )


@pytest.mark.parametrize("name", ["AdvisorDomain", "ResearchPlan", "WrittenPair", "PairVerdict", "AdvisorResponse"])
def test_what_can_be_cut_ends_with_its_end_marker(name):
    body = re.search(rf"^class {name} {{\n(.*?)^}}", _source(), re.MULTILINE | re.DOTALL)
    assert body.group(1).strip().splitlines()[-1].split() == ["done", "Done"]


def _prompt(name: str) -> str:
    """A function's prompt on one line, as it is read and not as it is wrapped."""
    return " ".join(_source().split(f"function {name}(")[1].split('"#')[0].split())


@pytest.mark.parametrize(
    ("function", "words", "never"),
    [
        # What research refuses must not be asked for: pages of forums have their own agent.
        ("GenerateResearchQueries", "blog_or_forum: domain blogs of accountable organisations", "blogs and forums"),
        # The orders ask for a document "long and in full"; the length of a chat message must not contradict them.
        ("SynthesizeTrainingBatch", "category document_analysis the first message brings the document itself", None),
        # Two of the example advisors name the year of what they lean on.
        ("SynthesizeTrainingBatch", "that prompt wins, but only for facts that stand in a finding named in `findings`", None),
        ("SynthesizeTrainingBatch", "the number of a real emergency service or crisis line may be given then", None),
        ("SynthesizeTrainingBatch", "no phone numbers but those of rule 8", "e-mail addresses, phone numbers"),
        ("SynthesizeTrainingBatch", "one to three and never more", None),
        ("AnswerAsAdvisor", "except the emergency number or a crisis line", None),
    ],
)
def test_the_prompts_do_not_contradict_what_is_checked_or_ordered(function, words, never):
    prompt = _prompt(function)
    assert words in prompt
    assert never is None or never not in prompt


def test_no_assertion_that_would_drop_items_without_a_word():
    assert "@assert" not in _source()


def test_an_advisor_answer_has_no_place_for_a_link():
    from baml_client import types

    fields = {*types.AdvisorResponse.model_fields, *types.Action.model_fields}
    assert fields == {"message", "followUpQuestions", "suggestedActions", "done", "label", "detail"}

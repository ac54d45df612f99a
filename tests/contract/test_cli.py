"""The command line as a person meets it: what it prints, what it refuses, its exit codes."""

import json
from pathlib import Path

import factories
import pytest
from typer.testing import CliRunner

from registry import settings as settings_module
from registry.artifacts import open_store
from registry.db import Database

REPO = Path(__file__).resolve().parent.parent.parent
ELENA = REPO / "examples" / "elena"


class Cli:
    """Runs commands in one installation, in this process."""

    def __init__(self, home, database_url):
        self.home = home
        self.database_url = database_url
        self.runner = CliRunner()

    def __call__(self, *arguments, code=0):
        from cli import app

        settings_module.get_settings.cache_clear()
        environment = {
            "REGISTRY_HOME": str(self.home),
            "REGISTRY_DATABASE_URL": self.database_url,
            "REGISTRY_ACTOR": "ann",
            "COLUMNS": "300",
        }
        result = self.runner.invoke(app, list(arguments), env=environment)
        settings_module.get_settings.cache_clear()
        assert result.exit_code == code, (arguments, result.output, result.exception)
        return result.output

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json"))

    def add_version(self, seed=1):
        db = Database(self.database_url)
        try:
            return factories.add_version(db, open_store(self.home / "artifacts"), seed=seed)
        finally:
            db.dispose()


@pytest.fixture
def cli(tmp_path, database_url):
    return Cli(tmp_path / "home", database_url)


@pytest.fixture
def elena(cli):
    cli(
        "advisors",
        "add",
        "elena",
        "--prompt-file",
        str(ELENA / "prompt.md"),
        "--alias",
        "dr-elena",
        "--public",
        "--role",
        "Burnout recovery guide",
    )
    cli("datasets", "import", str(ELENA / "pairs.jsonl"), "--advisor", "elena", "--sources", str(ELENA / "sources.json"))
    return cli


def test_init_prints_the_first_token_once(cli):
    first = cli("init")
    assert first.count("art_") == 1
    assert "art_" not in cli("init")


def test_an_empty_catalogue_names_the_command(tmp_path):
    empty = Cli(tmp_path, f"sqlite:///{tmp_path / 'c.db'}")
    assert "Hint: Run: registry init" in empty("versions", "elena", code=1)


def test_an_import_tells_what_it_did_and_repeats_harmlessly(elena):
    again = elena("datasets", "import", str(ELENA / "pairs.jsonl"), "--advisor", "dr-elena", "--sources", str(ELENA / "sources.json"))
    assert "Already there: sha256:" in again
    facts = elena.json("datasets", "show", "--advisor", "elena")
    assert facts["pairs with no source"] == 0
    assert sum(facts["categories"].values()) == facts["pairs"] >= 50
    assert facts["origins"] == {"synthesised": facts["pairs"]}
    assert facts["sources by class"]["academic"] >= 1


REFUSED = [
    (("versions", "elna"), "Did you mean 'elena'?"),
    (("show", "elena@7"), "'elena' has no version 7"),
    (("show", "Elena@1"), "1-63 characters of a-z"),
    (("promote", "elena"), "Try elena@live."),
    (("rollback", "elena", "--reason", "x"), "No earlier version"),
    (("undo", "elena"), "never moved"),
    (("resolve", "elena@live", "--at", "tomorrow"), "Expected a date"),
    (("resolve", "elena@1", "--at", "2026-03-03"), "--at asks where an alias pointed"),
    (("advisors", "add", "elena", "--prompt-file", str(ELENA / "prompt.md")), "already belongs to the advisor 'elena'"),
    (("advisors", "add", "marcus", "--prompt-file", "/nowhere/prompt.md"), "There is no file /nowhere/prompt.md"),
    (("datasets", "import", "/nowhere.jsonl", "--advisor", "elena"), "There is no file"),
    (("datasets", "show", "abcdef", "--advisor", "elena"), "has no dataset abcdef"),
    (("sources", "withdraw", "https://example.org/unknown", "--reason", "x"), "No source is known as"),
    (("tokens", "create", "x", "--scope", "root"), "Scopes are read, write, promote, admin"),
    (("tokens", "revoke", "99"), "There is no token 99"),
    (("audit", "--expect", str(REPO / "README.md")), "is no exported head"),
    (("train", "--advisor", "elna"), "Did you mean 'elena'?"),
    (("audit", "--export", "/nowhere/head.json"), "The system refused /nowhere/head.json"),
    (("resolve", "elena@live", "--at", "0001-01-01T00:00:00+14:00"), "Expected a date"),
    (("sources", "describe", str(REPO / "examples" / "marcus" / "sources.json")), "No source is known as"),
]


def test_bad_input_gets_a_sentence_and_exit_code_1(elena):
    before = elena("audit")
    told = {arguments: elena(*arguments, code=1) for arguments, _ in REFUSED}
    assert {arguments: told[arguments] for arguments, words in REFUSED if words not in told[arguments]} == {}
    assert {arguments: output for arguments, output in told.items() if "Traceback" in output} == {}
    assert elena("audit") == before  # a refusal writes nothing


def test_a_malformed_line_is_named_and_nothing_is_imported(elena, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text(factories.jsonl(factories.line("Q")) + "\n{broken\n" + factories.jsonl(factories.line("Q", "")), encoding="utf-8")
    output = elena("datasets", "import", str(bad), "--advisor", "elena", code=1)
    assert "bad.jsonl line 2: expected one JSON object" in output
    assert "bad.jsonl line 3: the response" in output
    assert len(elena.json("datasets", "list", "--advisor", "elena")) == 1


def test_a_missing_column_is_named(elena, tmp_path):
    chat = tmp_path / "chat.csv"
    chat.write_text("question,answer\nWhy?,Because.\n", encoding="utf-8")
    output = elena(
        "datasets",
        "import",
        str(chat),
        "--advisor",
        "elena",
        "--map",
        "instruction=question",
        "--map",
        "response=anwser",
        "--origin",
        "human",
        code=1,
    )
    assert "has no column 'anwser'" in output
    assert "Did you mean 'answer'?" in output
    assert "1 pairs" in elena(
        "datasets",
        "import",
        str(chat),
        "--advisor",
        "elena",
        "--map",
        "instruction=question",
        "--map",
        "response=answer",
        "--origin",
        "human",
    )


def test_a_file_that_is_not_utf8_is_said_so(elena, tmp_path):
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"instruction": "caf\xe9"}')
    assert "not UTF-8 text: byte 20 is 0xe9" in elena("datasets", "import", str(latin), "--advisor", "elena", code=1)


def test_the_life_of_versions_as_the_command_line_tells_it(elena):
    elena.add_version(1)
    elena.add_version(2)
    assert "would move from nothing to elena@1" in elena("promote", "elena@1", "--dry-run")
    elena("promote", "elena@1", "--reason", "first")
    assert "moved meanwhile" in elena("promote", "elena@2", "--expect", "0", code=1)
    elena("promote", "elena@2", "--reason", "second", "--expect", "1")
    assert elena.json("resolve", "dr-elena@live")["ref"] == "elena@2"
    assert "moved from elena@2 to elena@1 (rolled back)" in elena("rollback", "elena", "--reason", "worse")
    assert [row["aliases"] for row in elena.json("versions", "elena")] == [None, "live"]
    told = elena.json("log", "elena")
    assert [(r["event"], r["from"], r["to"], r["reason"]) for r in told if r["event"].startswith("alias:")] == [
        ("alias:promoted", None, 1, "first"),
        ("alias:promoted", 1, 2, "second"),
        ("alias:rolled_back", 2, 1, "worse"),
    ]
    assert {r["actor"] for r in told if r["event"].startswith("alias:")} == {"ann"}
    assert "elena@1 is live" in elena("withdraw", "elena@1", "--reason", "x", code=1)
    assert "elena@2 is withdrawn" in elena("withdraw", "elena@2", "--reason", "bad data")
    assert elena.json("resolve", "elena@live", "--at", "2100-01-01")["at"] == "the end of 2100-01-01 (UTC)"


def test_verify_names_the_damaged_file_and_exits_with_1(elena):
    version = elena.add_version()
    assert "verifies" in elena("verify", "elena@1")
    db = Database(elena.database_url)
    with db.read() as session:
        digest = factories.versions.resolve(session, version.digest).files[1].sha256
    db.dispose()
    factories.damage(open_store(elena.home / "artifacts"), digest)
    assert "DIFFERS  adapter_model.safetensors" in elena("verify", "elena@1", code=1)


def test_pull_writes_verified_files_and_refuses_to_overwrite(elena, tmp_path):
    elena.add_version()
    out = tmp_path / "adapter"
    assert "2 files written, all verified" in elena("pull", "elena@1", "--out", str(out))
    assert sorted(p.name for p in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "registry.json"]
    assert "0 files written" in elena("pull", "elena@1", "--out", str(out))
    (out / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "exists with other content" in elena("pull", "elena@1", "--out", str(out), code=1)


def test_the_audit_exports_its_head_and_finds_a_cut_tail(elena, tmp_path):
    head = tmp_path / "head.json"
    assert "The history holds" in elena("audit", "--export", str(head))
    assert "The history holds" in elena("audit", "--expect", str(head))
    kept = json.loads(head.read_text(encoding="utf-8"))
    head.write_text(json.dumps(kept | {"seq": kept["seq"] + 5}), encoding="utf-8")
    assert "tail was cut" in elena("audit", "--expect", str(head), code=1)


def test_scores_from_a_file_are_shown_and_compared(elena, tmp_path):
    elena.add_version(1)
    elena.add_version(2)
    scores = tmp_path / "scores.json"
    for number, value in ((1, 0.4), (2, 0.6)):
        scores.write_text(
            json.dumps({"suite": "blind", "scores": [{"metric": "win_rate", "value": value, "n": 20, "low": 0.3, "high": 0.7}]}),
            encoding="utf-8",
        )
        elena("scores", "add", f"elena@{number}", str(scores))
    assert elena.json("scores", "show", "elena@2")[0]["value"] == 0.6
    assert elena.json("show", "elena@2")["scores"][0]["n"] == 20
    assert elena.json("diff", "elena@1", "elena@2")["scores"] == [{"suite": "blind", "metric": "win_rate", "before": 0.4, "after": 0.6}]
    scores.write_text("{}", encoding="utf-8")
    assert "scores.json: expected" in elena("scores", "add", "elena@1", str(scores), code=1)


def test_the_card_is_withheld_when_a_source_is_withdrawn(elena):
    elena.add_version()
    elena("promote", "elena@1")
    before = elena.json("card", "elena")
    assert before["state"] == "live"
    source = before["groups"][0]["sources"][0]
    elena("sources", "withdraw", source["id"], "--reason", "retracted")
    assert elena.json("card", "elena")["state"] == "withheld"
    assert "withdrawn source" in elena("promote", "elena@1", "--alias", "candidate", code=1)


def test_a_retired_advisor_says_so(elena):
    elena("retire", "elena", "--reason", "end of the project")
    assert "was retired on" in elena("train", "--advisor", "elena", code=1)
    assert "end of the project" in elena("log", "elena")


def test_tokens_are_listed_without_their_secret(cli):
    secret = cli("tokens", "create", "ci", "--scope", "read", "--scope", "write", "--days", "30").strip()
    (row,) = cli.json("tokens", "list")
    assert secret.startswith(row["prefix"])
    assert secret not in json.dumps(row)
    assert "is revoked" in cli("tokens", "revoke", str(row["id"]))

"""Advisors, personas, datasets, versions, scores, tokens: each on SQLite and on Postgres, through the schema the migrations make."""

import datetime as dt
import json
import threading

import factories
import pytest
import sqlalchemy as sa
from factories import ACTOR, add_advisor, add_dataset, add_version, line
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry import advisors, bases, datasets, evaluations, events, personas, runs, schema, sources, tokens, versions
from registry.db import HEAD_REVISION, Database, normalise_url
from registry.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound, Unavailable, WrongRevision
from registry.evaluations import ScoreDraft
from registry.imports import Defaults, read_csl, read_jsonl
from registry.manifest import FileEntry
from registry.models import AdapterVersion, Blob, DatasetExample, Event, Example, Source, VersionFile
from registry.splits import SplitRule

PAGE = "https://example.org/page"
CSL = {
    "type": "article-journal",
    "title": "A study",
    "DOI": "10.1037/A0036904",
    "URL": PAGE,
    "custom": {"class": "academic", "review_status": "peer_reviewed", "documents": [{"extent": "abstract"}]},
}


# -- schema -------------------------------------------------------------------------------------------------------------------------------


def test_models_and_migrations_agree(db):
    schema.check(db)


def test_upgrade_downgrade_upgrade(db):
    assert schema.downgrade(db, "base") == "base"
    with pytest.raises(WrongRevision, match="is empty") as caught:
        db.require_head()
    assert caught.value.hint == "Run: registry init"
    assert schema.upgrade(db) == HEAD_REVISION
    db.require_head()


@pytest.mark.parametrize(("found", "words"), [("0000", "registry db upgrade"), ("9999", "newer release")])
def test_a_wrong_revision_names_the_command(db, found, words):
    with db.engine.begin() as connection:
        connection.execute(sa.text("UPDATE registry_schema_version SET version_num = :found"), {"found": found})
    with pytest.raises(WrongRevision) as caught:
        db.require_head()
    assert words in caught.value.hint


def test_head_revision_is_the_newest_script():
    from alembic.script import ScriptDirectory

    assert ScriptDirectory.from_config(schema._config()).get_current_head() == HEAD_REVISION


@pytest.mark.parametrize("url", ["mysql://u@h/d", "nonsense", "oracle://h"])
def test_other_databases_are_refused(url):
    with pytest.raises(Invalid):
        normalise_url(url)


def test_a_bare_postgres_url_means_psycopg_3():
    assert normalise_url("postgresql://me:pw@host/db") == "postgresql+psycopg://me:pw@host/db"


def test_a_database_that_is_away_is_said_in_words(tmp_path):
    away = Database(f"postgresql://nobody@localhost/x?host={tmp_path}")
    with pytest.raises(Unavailable, match="does not answer"), away.read() as session:
        session.execute(sa.text("SELECT 1"))


def test_sqlite_runs_in_wal_with_foreign_keys(make_sqlite):
    db = Database(make_sqlite())
    with db.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    db.dispose()


def test_the_database_itself_refuses_what_the_code_must_not_write(db, store):
    add_advisor(db)
    add_dataset(db, [line("Hi")])
    version = add_version(db, store)
    faults = [
        "UPDATE adapter_versions SET state = 'great'",
        "UPDATE adapter_versions SET digest = 'md5:1'",
        "UPDATE sources SET class = 'gossip'",
        "INSERT INTO dataset_examples (dataset_id, position, example_id, split) VALUES (1, 7, 999, 'train')",
        f"INSERT INTO version_files (version_id, path, sha256, size) VALUES ({version.id + 1}, 'x', 'sha256:{'0' * 64}', 1)",
    ]
    with db.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO sources (key, csl, class, review_status, check_status, created_at) VALUES ('k', '{}', 'academic', 'unknown', 'unchecked', '2026-01-01')"
            )
        )
    for fault in faults:
        with pytest.raises(IntegrityError), db.engine.begin() as connection:
            connection.execute(sa.text(fault))


# -- advisors and personas ----------------------------------------------------------------------------------------------------------------


def test_an_advisor_answers_to_every_one_of_its_names(db):
    add_advisor(db, aliases=("dr-elena", "lora_elena"))
    with db.read() as session:
        assert {advisors.get(session, name).slug for name in ("elena", "dr-elena", "lora_elena")} == {"elena"}
        assert advisors.names_of(session, advisors.get(session, "elena")) == ["dr-elena", "lora_elena"]


def test_an_unknown_advisor_is_answered_with_the_nearest(db):
    add_advisor(db)
    with db.read() as session, pytest.raises(NotFound) as caught:
        advisors.get(session, "elna")
    assert caught.value.hint == "Did you mean 'elena'?"


@pytest.mark.parametrize("taken", ["elena", "dr-elena"])
def test_no_name_is_given_twice(db, taken):
    add_advisor(db, aliases=("dr-elena",))
    with pytest.raises(AlreadyExists, match="belongs to the advisor 'elena'"):
        add_advisor(db, taken)
    add_advisor(db, "marcus")
    with db.transaction() as session, pytest.raises(AlreadyExists):
        advisors.add_alias(session, advisors.get(session, "marcus"), taken, actor=ACTOR)


def test_a_failed_add_leaves_nothing(db):
    add_advisor(db)
    with pytest.raises(AlreadyExists):
        add_advisor(db, "marcus", aliases=("elena",))
    with db.read() as session:
        assert advisors.find(session, "marcus") is None
        assert [e.tag for e in session.scalars(sa.select(Event).order_by(Event.seq))] == ["advisor:added", "persona:set"]


def test_personas_are_versions_of_the_prompt(db):
    add_advisor(db)
    with db.transaction() as session:
        elena = advisors.get(session, "elena")
        first = personas.current(session, elena)
        assert personas.set_prompt(session, elena, first.text + "\r\n", actor=ACTOR).number == 1
        second = personas.set_prompt(session, elena, "You are brief.", actor=ACTOR)
        assert second.number == 2
        assert personas.set_prompt(session, elena, first.text, actor=ACTOR).number == 3
        assert personas.get(session, elena, "1").sha256 == personas.get(session, elena, first.sha256).sha256
        with pytest.raises(NotFound):
            personas.get(session, elena, "9")


@pytest.mark.parametrize("bad", ["", "  \n ", "You\0", "x" * 200_001])
def test_a_prompt_that_cannot_be_one_is_refused(db, bad):
    with db.transaction() as session, pytest.raises(Invalid):
        advisors.add(session, "elena", bad, actor=ACTOR)


def test_a_retired_advisor_keeps_its_slug_and_its_numbers(db, store):
    add_advisor(db)
    add_dataset(db, [line("Hi")])
    add_version(db, store)
    with db.transaction() as session:
        advisors.retire(session, advisors.get(session, "elena"), actor=ACTOR, reason="done")
    with db.read() as session, pytest.raises(Gone):
        advisors.get_active(session, "elena")
    with pytest.raises(AlreadyExists):
        add_advisor(db)


# -- datasets and sources -----------------------------------------------------------------------------------------------------------------


def test_importing_the_same_again_changes_nothing(db):
    add_advisor(db)
    rows = [line(f"Q{i}", sources=[PAGE]) for i in range(5)]
    first, second = add_dataset(db, rows, csl=[CSL]), add_dataset(db, rows, csl=[CSL])
    assert first.id == second.id
    with db.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Example)) == 5
        assert session.scalar(sa.select(sa.func.count()).select_from(Source)) == 1
        assert [e.tag for e in session.scalars(sa.select(Event))].count("dataset:imported") == 1


def test_a_pair_may_name_any_identifier_of_its_source(db):
    add_advisor(db)
    by_url = add_dataset(db, [line("Q", sources=[PAGE])], csl=[CSL])
    by_doi = add_dataset(db, [line("Q", sources=["doi:10.1037/a0036904"])], csl=[CSL])
    assert by_url.sha256 == by_doi.sha256
    with db.read() as session:
        assert sources.get(session, PAGE).id == sources.get(session, "10.1037/A0036904").id == sources.get(session, "src_1").id


def test_the_digest_covers_words_order_category_origin_sources_and_split(db):
    add_advisor(db)
    base = [line("Q1", "A1", sources=[PAGE]), line("Q2", "A2")]
    others = [
        [base[1], base[0]],
        [line("Q1", "A1!", sources=[PAGE]), base[1]],
        [base[0] | {"category": "voice"}, base[1]],
        [base[0] | {"origin": "edited", "generator": "m"}, base[1]],
        [line("Q1", "A1"), base[1]],
        [line("Q1", "A1", sources=[{"url": PAGE, "role": "question"}]), base[1]],
        [line("Q1", "A1", sources=[{"url": PAGE, "sha256": "0" * 64}]), base[1]],
    ]
    digests = {add_dataset(db, rows).sha256 for rows in [base, *others]} | {add_dataset(db, base, fraction=0.5).sha256}
    assert len(digests) == len(others) + 2


def test_exact_duplicates_are_left_out_and_counted(db):
    add_advisor(db)
    draft = read_jsonl(factories.jsonl(line("Q"), line("Q"), line("R")), "x", Defaults())
    with db.transaction() as session:
        done = datasets.register(session, advisors.get(session, "elena"), draft, actor=ACTOR)
    assert (done.dataset.examples_total, done.duplicates) == (2, 1)


def test_a_bare_url_is_a_source_of_which_nothing_is_recorded(db):
    add_advisor(db)
    add_dataset(db, [line("Q", sources=[PAGE])])
    with db.read() as session:
        source = sources.get(session, PAGE)
        assert (source.csl, source.class_, source.review_status, source.check_status) == ({}, "unclassified", "unknown", "unchecked")
    add_dataset(db, [line("Q2", sources=[PAGE])], csl=[CSL])
    with db.read() as session:
        source = sources.get(session, PAGE)
        assert (source.csl["title"], source.class_, source.doi) == ("A study", "academic", "10.1037/a0036904")


def test_one_advisors_import_cannot_rewrite_anothers_citation(db):
    add_advisor(db)
    add_advisor(db, "marcus")
    add_dataset(db, [line("Q", sources=[PAGE])])
    boast = CSL | {"title": "Cure burnout in a day"}
    draft, citations = read_jsonl(factories.jsonl(line("Q2", sources=[PAGE])), "x", Defaults()), read_csl(json.dumps([boast]), "s")
    with db.transaction() as session:
        done = datasets.register(session, advisors.get(session, "marcus", lock=True), draft, actor=ACTOR, citations=citations)
    assert done.notes == (f"the recorded citation of {PAGE} was kept; change it with: registry sources describe FILE",)
    with db.read() as session:
        assert sources.get(session, PAGE).csl == {}
    with db.transaction() as session:
        sources.describe(session, read_csl(json.dumps([CSL]), "s")[0], actor=ACTOR)
    with db.read() as session:
        assert (sources.get(session, PAGE).csl["title"], sources.get(session, PAGE).class_) == ("A study", "academic")
        (event,) = session.scalars(sa.select(Event).where(Event.tag == "source:described"))
        assert events.body_of(event)["before"]["csl"] == {}


def test_a_citation_that_joins_two_known_sources_is_refused(db):
    add_advisor(db)
    add_dataset(db, [line("Q", sources=[PAGE]), line("R", sources=["10.1037/a0036904"])])
    with pytest.raises(Conflict, match="two sources that are known apart"):
        add_dataset(db, [line("S", sources=[PAGE])], csl=[CSL])


def test_how_much_was_read_is_part_of_a_pairs_identity(db):
    add_advisor(db)
    assert add_dataset(db, [line("Q", sources=[PAGE])]).sha256 != add_dataset(db, [line("Q", sources=[PAGE])], csl=[CSL]).sha256


def test_importing_under_another_persona_says_which_one_is_kept(db):
    add_advisor(db)
    add_dataset(db, [line("Q")])
    with db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        personas.set_prompt(session, elena, "You are brief.", actor=ACTOR)
        done = datasets.register(
            session, elena, read_jsonl(factories.jsonl(line("Q")), "x", Defaults()), actor=ACTOR, rule=SplitRule(fraction=0.0)
        )
    assert done.notes == ("this dataset was imported with persona 1, and keeps it",)


def test_citations_that_no_pair_names_are_not_sources(db):
    add_advisor(db)
    add_dataset(db, [line("Q")], csl=[CSL])
    with db.read() as session, pytest.raises(NotFound):
        sources.get(session, PAGE)


def test_the_summary_counts(db):
    add_advisor(db)
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))]
    rows = [
        line("Q1", sources=[PAGE], category="voice"),
        line("Q2"),
        {"messages": turns, "origin": "human", "sources": ["https://example.org/2"]},
    ]
    dataset = add_dataset(db, rows, csl=[CSL])
    with db.read() as session:
        found = datasets.summary(session, dataset)
    assert found == datasets.Summary({"(none)": 2, "voice": 1}, {"human": 3}, {"academic": 1, "unclassified": 1}, 1, 1)


def test_a_dataset_is_found_by_the_first_digits_of_its_digest(db):
    add_advisor(db)
    dataset = add_dataset(db, [line("Q")])
    with db.read() as session:
        elena = advisors.get(session, "elena")
        assert datasets.get(session, elena, dataset.sha256[7:13]).id == dataset.id == datasets.get(session, elena, dataset.sha256).id
        with pytest.raises(NotFound):
            datasets.get(session, elena, "000000" if not dataset.sha256.startswith("sha256:000000") else "111111")
        for bad in ("sha256:", "xyz", "12", "' OR 1=1"):
            with pytest.raises(Invalid):
                datasets.get(session, elena, bad)


def test_heldout_pairs_share_no_source_with_training(db):
    add_advisor(db)
    rows = [line(f"Q{i}", sources=[f"https://example.org/{i % 10}"]) for i in range(50)]
    dataset = add_dataset(db, rows, fraction=0.2)
    sides: dict[str, set[str]] = {"train": set(), "heldout": set()}
    with db.read() as session:
        for place, example in datasets.all_examples(session, dataset):
            sides[place.split].add(example.messages[0]["content"][1:][-1])
    assert dataset.heldout_total == 10
    assert not sides["train"] & sides["heldout"]


def test_a_thousand_pairs_cost_a_bounded_number_of_statements(db):
    add_advisor(db)
    counts = []
    for size in (10, 1000):
        with counting(db) as statements:
            add_dataset(db, [line(f"Q{size}-{i}", sources=[f"https://example.org/{size}/{i % 7}"]) for i in range(size)])
        counts.append(len(statements))
    assert counts[1] < 60, counts


class counting:  # noqa: N801  # reads as a verb where it is used
    """Collects the data statements a block sends."""

    def __init__(self, db):
        self.db, self.statements = db, []

    def _note(self, _connection, _cursor, statement, *_rest):
        if not statement.startswith(("BEGIN", "PRAGMA", "SAVEPOINT", "RELEASE")):
            self.statements.append(statement)

    def __enter__(self):
        sa.event.listen(self.db.engine, "before_cursor_execute", self._note)
        return self.statements

    def __exit__(self, *_):
        sa.event.remove(self.db.engine, "before_cursor_execute", self._note)


# -- versions -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(db, store):
    add_advisor(db)
    add_dataset(db, [line("Q", sources=[PAGE])], csl=[CSL])
    return db, store


def test_the_same_training_is_the_same_version_unless_forced(ready):
    db, store = ready
    first, again, forced, other = (
        add_version(db, store),
        add_version(db, store),
        add_version(db, store, force=True),
        add_version(db, store, seed=2),
    )
    assert (first.number, again.number, forced.number, other.number) == (1, 1, 2, 3)
    assert first.digest == forced.digest != other.digest


def test_a_pending_version_is_seen_by_nobody_and_taken_over_by_a_rerun(ready):
    db, store = ready
    with db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        pending = versions.begin(session, elena, factories.proposal(session, elena, factories.put_files(store, "half")), actor=ACTOR)
    assert pending.state == "pending"
    with db.read() as session:
        for ref in ("elena@1", pending.digest):
            with pytest.raises(NotFound):
                versions.resolve(session, ref)
        assert versions.page(session, advisors.get(session, "elena")) == []
    done = add_version(db, store)
    assert (done.id, done.number, done.state) == (pending.id, 1, "ready")
    with db.read() as session:
        assert {f.sha256 for f in versions.resolve(session, "elena@1").files} == {f.sha256 for f in factories.put_files(store, "elena 1")}


def test_a_registration_that_was_taken_over_is_told_so(ready):
    db, store = ready
    with db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        mine = factories.proposal(session, elena, factories.put_files(store, "mine"))
        pending = versions.begin(session, elena, mine, actor=ACTOR)
    with db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        versions.begin(session, elena, factories.proposal(session, elena, factories.put_files(store, "theirs")), actor=ACTOR)
    with pytest.raises(Conflict, match="Another process"), db.transaction() as session:
        versions.finish(session, pending.id, mine.manifest.digest, actor=ACTOR)


def test_references(ready):
    db, store = ready
    version = add_version(db, store)
    with db.read() as session:
        assert versions.resolve(session, "elena@1").id == versions.resolve(session, version.digest).id == version.id
        for ref, words in {
            "elena@2": "has no version 2",
            "elena@live": "no version under the alias",
            "elna@1": "No advisor answers",
            "sha256:" + "0" * 64: "No version has",
        }.items():
            with pytest.raises(NotFound, match=words):
                versions.resolve(session, ref)


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("adapter_config.json",),
        ("adapter_model.safetensors", "adapter_config.json", "../evil"),
        ("adapter_model.bin", "adapter_config.json"),
        ("adapter_model.safetensors", "adapter_config.json", "adapter_config.json"),
    ],
)
def test_only_an_adapters_files_may_be_registered(ready, names):
    db, _ = ready
    files = tuple(FileEntry(name, "sha256:" + "0" * 64, 1) for name in names)
    with pytest.raises(Invalid), db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        versions.begin(session, elena, factories.proposal(session, elena, files), actor=ACTOR)
    assert add_version(*ready).number == 1


def test_a_withdrawn_version_stays_on_record_and_its_training_is_refused(ready):
    db, store = ready
    version = add_version(db, store)
    with db.transaction() as session:
        versions.withdraw(session, versions.resolve(session, "elena@1"), actor=ACTOR, reason="wrong data")
    with pytest.raises(Conflict, match="was withdrawn: wrong data"):
        add_version(db, store)
    assert add_version(db, store, force=True).number == 2
    with db.read() as session:
        assert versions.resolve(session, "elena@1").digest == version.digest


def test_a_withdrawn_twin_does_not_hide_the_ready_one(ready):
    db, store = ready
    add_version(db, store)
    add_version(db, store, force=True)
    with db.transaction() as session:
        versions.withdraw(session, versions.resolve(session, "elena@2"), actor=ACTOR, reason="a mistake")
    assert add_version(db, store).number == 1


def test_a_lock_reads_again_what_was_read_before_it(ready):
    db, store = ready
    add_version(db, store)
    with db.read() as session:
        old = versions.resolve(session, "elena@1")
        assert old.state == "ready"
    other = Database(db.url)
    with db.engine.connect() as _held, Session(db.engine) as session:
        versions.resolve(session, "elena@1")
        session.commit()
        with other.transaction() as elsewhere:
            versions.withdraw(elsewhere, versions.resolve(elsewhere, "elena@1"), actor=ACTOR, reason="x")
        assert versions.resolve(session, "elena@1").state == "withdrawn"
    other.dispose()


def test_a_read_sees_one_moment_whatever_is_written_meanwhile(ready):
    db, store = ready
    add_version(db, store)
    other = Database(db.url)
    with db.read() as session:
        before = events.head(session)
        with other.transaction() as elsewhere:
            versions.withdraw(elsewhere, versions.resolve(elsewhere, "elena@1"), actor=ACTOR, reason="x")
        assert events.head(session) == before
        assert events.audit(session) == []
    other.dispose()


@pytest.mark.parametrize("existing", [0, 50])
def test_registering_takes_at_most_six_statements_however_many_versions_exist(ready, existing):
    db, store = ready
    for i in range(existing):
        add_version(db, store, seed=100 + i)
    files = factories.put_files(store, "x")
    with db.transaction() as session:
        wanted = factories.proposal(session, advisors.get(session, "elena"), files, seed=7)
    with counting(db) as begin, db.transaction() as session:
        version = versions.begin(session, advisors.get(session, "elena", lock=True), wanted, actor=ACTOR)
    with counting(db) as finish, db.transaction() as session:
        versions.finish(session, version.id, wanted.manifest.digest, actor=ACTOR)
    assert len(begin) <= 6, begin
    assert len(finish) <= 6, finish


def test_sixty_four_registrations_at_once_give_consecutive_numbers(ready):
    db, store = ready
    files = factories.put_files(store, "race")
    with db.transaction() as session:
        bases.ensure(session, factories.BASE)
    numbers, faults = [], []
    barrier = threading.Barrier(16)

    def register(first):
        barrier.wait()
        for seed in range(first, first + 4):
            try:
                with db.transaction() as session:
                    elena = advisors.get(session, "elena", lock=True)
                    wanted = factories.proposal(session, elena, files, seed=seed)
                    version = versions.begin(session, elena, wanted, actor=ACTOR)
                with db.transaction() as session:
                    numbers.append(versions.finish(session, version.id, wanted.manifest.digest, actor=ACTOR).number)
            except Exception as error:  # noqa: BLE001  # any fault of a thread must reach the assertion below
                faults.append(error)

    threads = [threading.Thread(target=register, args=(i * 4,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert sorted(numbers) == list(range(1, 65))
    with db.read() as session:
        assert events.audit(session) == []


# -- runs, scores, tokens -----------------------------------------------------------------------------------------------------------------


def test_a_failed_run_stays_on_record(db):
    add_advisor(db)
    with db.transaction() as session:
        run = runs.start(session, advisors.get(session, "elena"), "training", {"seed": 1}, actor=ACTOR)
    with db.transaction() as session:
        runs.fail(session, run.id, "out of memory " * 1000)
    with db.read() as session:
        found = session.get_one(type(run), run.id)
        assert (found.state, len(found.error)) == ("failed", runs.MAX_ERROR)


def test_a_run_that_was_killed_is_recorded_as_failed_by_the_next(db):
    add_advisor(db)
    with db.transaction() as session:
        first = runs.start(session, advisors.get(session, "elena"), "training", {"seed": 1}, actor=ACTOR)
        other = runs.start(session, advisors.get(session, "elena"), "training", {"seed": 2}, actor=ACTOR)
    with db.transaction() as session:
        runs.end_dead(session, {"seed": 1})
    with db.read() as session:
        assert (session.get_one(type(first), first.id).state, session.get_one(type(first), other.id).state) == ("failed", "running")


def test_only_training_writes_the_heldout_suite(ready):
    db, store = ready
    add_version(db, store)
    with pytest.raises(Invalid, match="what training itself measures"), db.transaction() as session:
        evaluations.add(session, versions.resolve(session, "elena@1"), "heldout", [ScoreDraft("loss", 0.1, 5)], actor=ACTOR)


def test_the_newest_scores_of_each_suite_are_shown(ready):
    db, store = ready
    version = add_version(db, store)
    with db.transaction() as session:
        for value in (0.4, 0.5):
            evaluations.add(
                session, versions.resolve(session, "elena@1"), "judge", [ScoreDraft("win_rate", value, 20, 0.3, 0.7)], actor=ACTOR
            )
    with db.read() as session:
        (found,) = evaluations.latest(session, [version.id])[version.id]
        assert [(s.metric, s.value, s.low, s.high, s.n) for s in found.scores] == [("win_rate", 0.5, 0.3, 0.7, 20)]


@pytest.mark.parametrize(
    "draft",
    [
        ScoreDraft("x", float("nan"), 5),
        ScoreDraft("x", 1.0, 0),
        ScoreDraft("x", 1.0, 5, 2.0, 3.0),
        ScoreDraft(" ", 1.0, 5),
        ScoreDraft("x", float("inf"), 5),
    ],
)
def test_a_score_that_cannot_be_one_is_refused(ready, draft):
    db, store = ready
    add_version(db, store)
    with pytest.raises(Invalid), db.transaction() as session:
        evaluations.add(session, versions.resolve(session, "elena@1"), "s", [draft], actor=ACTOR)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"suite": "s"}',
        '{"suite": "s", "scores": [{"metric": "m"}]}',
        '{"suite": 1, "scores": []}',
        '{"suite": "s", "scores": [{"metric": "m", "value": "high", "n": 3}]}',
    ],
)
def test_a_faulty_score_file_gets_a_sentence(text):
    with pytest.raises(Invalid, match=r"scores\.json"):
        evaluations.read_file(text, "scores.json")


def test_a_token_is_stored_as_its_hash_and_lives_until_it_ends(db):
    add_advisor(db)
    with db.transaction() as session:
        created = tokens.create(session, "ci", ("write", "read"), actor=ACTOR, lifetime=dt.timedelta(days=1))
    with db.read() as session:
        token = tokens.authenticate(session, created.secret)
        assert token.scopes == ["read", "write"]
        assert created.secret not in {token.sha256, token.prefix}
        assert tokens.authenticate(session, created.secret + "x") is None
    with db.transaction() as session:
        session.execute(sa.update(type(created.token)).values(expires_at=events.now() - dt.timedelta(seconds=1)))
    with db.read() as session:
        assert tokens.authenticate(session, created.secret) is None


def test_a_revoked_token_ends_at_once(db):
    with db.transaction() as session:
        created = tokens.create(session, "ci", ("read",), actor=ACTOR)
        tokens.revoke(session, created.token.id, actor=ACTOR)
        assert tokens.authenticate(session, created.secret) is None
        with pytest.raises(NotFound):
            tokens.revoke(session, 999, actor=ACTOR)


@pytest.mark.parametrize("scopes", [(), ("root",), ("read", "Write")])
def test_unknown_scopes_are_refused(db, scopes):
    with pytest.raises(Invalid), db.transaction() as session:
        tokens.create(session, "x", scopes, actor=ACTOR)


def test_a_token_of_one_advisor_cannot_be_admin(db):
    add_advisor(db)
    with pytest.raises(Invalid, match="admin"), db.transaction() as session:
        tokens.create(session, "x", ("admin",), actor=ACTOR, advisor=advisors.get(session, "elena"))


def test_a_base_keeps_an_unknown_revision_unknown(db):
    with db.transaction() as session:
        one = bases.ensure(session, bases.BaseFacts("x/y", None, "hub"))
        assert bases.ensure(session, bases.BaseFacts("x/y", None, "hub")).id == one.id
        assert bases.ensure(session, bases.BaseFacts("x/y", "b" * 40, "hub")).id != one.id
        with pytest.raises(Invalid, match="40 lower-case hex"):
            bases.ensure(session, bases.BaseFacts("x/y", "main", "hub"))


def test_blobs_are_recorded_only_when_a_version_is_ready(ready):
    db, store = ready
    with db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        versions.begin(session, elena, factories.proposal(session, elena, factories.put_files(store, "x")), actor=ACTOR)
    with db.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Blob)) == 0
        assert session.scalar(sa.select(sa.func.count()).select_from(VersionFile)) == 2
        assert session.scalar(sa.select(sa.func.count()).select_from(AdapterVersion)) == 1
        assert session.scalar(sa.select(sa.func.count()).select_from(DatasetExample)) == 1

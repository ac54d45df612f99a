"""Verify re-computes everything: one changed byte or row anywhere is found and named; on both databases."""

import pytest
import sqlalchemy as sa
from factories import add_advisor, add_dataset, add_version, damage, line, tampering

from registry import advisors, verification, versions
from registry.imports import DocumentDraft
from registry.sources import document_identity

PAGE = "https://example.org/page"
CSL = {
    "type": "report",
    "title": "A report",
    "URL": PAGE,
    "custom": {"class": "institutional", "documents": [{"extent": "excerpt", "retrieved_at": "2026-11-01T12:00:00+02:00"}]},
}


@pytest.fixture
def elena(db, store):
    add_advisor(db)
    add_dataset(db, [line(f"Q{i}", sources=[PAGE] if i < 3 else [f"https://example.org/{i}"]) for i in range(20)], csl=[CSL], fraction=0.2)
    add_version(db, store)
    return db, store


def differences(db, store):
    with db.read() as session:
        (version,) = versions.page(session, advisors.get(session, "elena"))
        return verification.verify(session, store, version)


def test_an_untouched_version_verifies(elena):
    assert differences(*elena) == []


@pytest.mark.parametrize("name", versions.ADAPTER_FILES)
def test_one_flipped_bit_names_the_file(elena, name):
    db, store = elena
    with db.read() as session:
        (digest,) = [f.sha256 for f in versions.resolve(session, "elena@1").files if f.path == name]
    damage(store, digest)
    (line_,) = differences(db, store)
    assert line_.startswith(f"{name}: ")
    assert "damaged" in line_


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("UPDATE examples SET category = 'other' WHERE id = 4", "example 3: expected"),
        ('UPDATE examples SET messages = \'[{"role": "user", "content": "x"}]\' WHERE id = 2', "example 1: expected"),
        ("UPDATE examples SET generator = 'another model' WHERE id = 1", "example 0: expected"),
        ("UPDATE documents SET sha256 = 'sha256:' || 'x' WHERE id = 1", "example 0: expected"),
        ("UPDATE documents SET extent = 'full_text' WHERE id = 1", "document 1 of src_1"),
        ("UPDATE documents SET retrieved_at = '2020-01-01' WHERE id = 1", "document 1 of src_1"),
        ("DELETE FROM example_sources WHERE example_id = 5", "example 4: expected"),
        ("UPDATE example_sources SET role = 'question' WHERE example_id = 6", "example 5: expected"),
        ("DELETE FROM dataset_examples WHERE position = 7", "dataset: expected"),
        (
            "UPDATE dataset_examples SET split = CASE split WHEN 'train' THEN 'heldout' ELSE 'train' END WHERE position = 8",
            "split: examples 8 stand on the wrong side",
        ),
        ("UPDATE sources SET key = 'https://example.org/forged' WHERE id = 1", "example 0: expected"),
        ("UPDATE personas SET text = 'You are evil.'", "persona 1: expected"),
        ("UPDATE adapter_versions SET recipe = '{\"r\": 64}'", "recipe: expected"),
        ("UPDATE adapter_versions SET seed = 99", "version: expected"),
        ("UPDATE base_models SET revision = NULL", "version: expected"),
        ("UPDATE version_files SET size = 1 WHERE path = 'adapter_config.json'", "adapter_config.json: expected 1 bytes"),
        ("DELETE FROM blobs", "adapter_config.json: the catalogue has no record"),
        ("UPDATE datasets SET heldout_total = 0", "split: expected 0 held-out"),
        ('UPDATE examples SET messages = \'[{"who": "user"}]\' WHERE id = 2', "dataset: a row cannot be read"),
        ('UPDATE datasets SET split = \'{"method": "connected-groups/1", "fraction": "much", "seed": 0}\'', "a row cannot be read"),
        ("UPDATE adapter_versions SET number = 9 WHERE number = 1", "the history does not say"),
        ('UPDATE datasets SET split = \'{"method": "other"}\'', "split"),
    ],
)
def test_a_changed_row_is_named(elena, fault, words):
    db, store = elena
    with tampering(db) as connection:
        connection.execute(sa.text(fault))
    found = differences(db, store)
    assert any(words in line_ for line_ in found), found


def test_every_difference_is_listed_at_once(elena):
    db, store = elena
    with tampering(db) as connection:
        connection.execute(sa.text("UPDATE examples SET category = 'x' WHERE id IN (1, 2, 3)"))
        connection.execute(sa.text("UPDATE personas SET text = 'y'"))
    found = differences(db, store)
    assert [line_.split(":")[0] for line_ in found] == ["persona 1", "example 0", "example 1", "example 2", "dataset"] or len(found) >= 4


def test_a_time_of_reading_means_the_same_in_every_zone(elena):
    db, _ = elena
    with db.read() as session:
        version = versions.resolve(session, "elena@1")
        assert verification.document_differences(session, version.dataset) == []
    assert document_identity(DocumentDraft()) == document_identity(DocumentDraft(None, None, None))

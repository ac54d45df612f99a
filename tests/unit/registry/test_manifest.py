"""Canonical JSON, digests with golden values, differences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.manifest import FileEntry, VersionManifest, canonical, differences, digest, json_difference

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda c: st.lists(c, max_size=4) | st.dictionaries(st.text(max_size=5), c, max_size=4),
)
A = FileEntry("adapter_config.json", "sha256:" + "a" * 64, 3)
B = FileEntry("adapter_model.safetensors", "sha256:" + "b" * 64, 5)


def manifest(files=(A, B), **more):
    facts = {
        "dataset": "sha256:" + "d" * 64,
        "base_repo": "x/y",
        "base_revision": "c" * 40,
        "recipe": "sha256:" + "e" * 64,
        "persona": "sha256:" + "f" * 64,
        "seed": 1,
    }
    return VersionManifest(files=files, **(facts | more))


def test_canonical_json_is_the_standards_own_example():
    # RFC 8785, section 3.2.2 and 3.2.3 (shortened): keys in UTF-16 order, numbers as ECMAScript writes them.
    assert canonical({"numbers": [333333333.33333329, 1e30, 4.50, 2e-3], "literals": [None, True, False], "€": "\n"}) == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002],"€":"\\n"}'.encode()
    )


def test_a_golden_digest():
    assert digest({"b": 1, "a": [True, None]}) == "sha256:" + __import__("hashlib").sha256(b'{"a":[true,null],"b":1}').hexdigest()


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(value):
    assert digest(value) == digest(dict(reversed(list(value.items()))))


def test_the_order_of_files_does_not_matter():
    assert manifest((A, B)).digest == manifest((B, A)).digest


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "sha256:" + "0" * 64},
        {"base_repo": "x/z"},
        {"base_revision": None},
        {"recipe": "sha256:" + "0" * 64},
        {"persona": "sha256:" + "0" * 64},
        {"seed": 2},
    ],
)
def test_everything_a_version_is_made_from_changes_its_digest(change):
    assert manifest(**change).digest != manifest().digest


def test_every_difference_is_listed_at_once():
    changed = FileEntry(B.path, B.sha256, 6)
    lines = differences([A, B], [changed, FileEntry("README.md", A.sha256, 1)])
    assert [line.split(":")[0] for line in lines] == ["adapter_config.json", "README.md", "adapter_model.safetensors"]


def test_the_difference_of_two_recipes_names_the_leaf():
    assert json_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == [("a.c", 2, 3), ("d", None, 4)]

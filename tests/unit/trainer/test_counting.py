"""The counting of tokens before a training: in this process, with the built-in base's real tokenizer, and once through the real child process."""

import pytest

from registry.errors import Invalid
from trainer.counting import Counts, count, counted
from trainer.recipe import make_recipe
from trainer.spec import TrainSpec

PAIRS = [("How are you?", "Fine, and you?")] * 5 + [("Tell me more.", "word " * 60)]


def spec_for(base, folder, **settings) -> TrainSpec:
    return TrainSpec(make_recipe(base, None, settings), base, 1, folder, folder.parent / "out")


def test_tokens_steps_and_the_longest_example_are_told(tiny, dataset):
    spec = spec_for(tiny, dataset(PAIRS, [("A question?", "An answer.")]))
    found = Counts.from_event({"event": "plan", **count(spec)})
    assert (found.examples, found.heldout, found.steps) == (6, 1, 6)  # 2 micro-batches, 3 epochs
    assert found.longest_where.startswith("train.jsonl line 6 (sha256:")
    trained = found.trained_tokens
    assert 0 < trained["min"] <= trained["median"] <= trained["max"] < found.longest
    assert trained["total"] == trained["min"] * 5 + trained["max"]
    assert found.tokens_in_all == 3 * found.tokens
    assert found.memory_bytes == sum((found.memory or {}).values())
    assert (found.seconds, found.seconds_basis) == (None, "unknown: no training of this base was measured here")


def test_packed_rows_make_fewer_steps(tiny, dataset):
    folder = dataset(PAIRS)
    packed = count(spec_for(tiny, folder, batching="packed", max_length=512, batch_size=1))
    assert packed["steps"] < count(spec_for(tiny, folder, batch_size=1))["steps"]


def test_what_a_training_would_refuse_is_refused(tiny, dataset):
    with pytest.raises(Invalid, match=r"train.jsonl line 6 .* has \d+ tokens; at most 32 fit"):
        count(spec_for(tiny, dataset(PAIRS), max_length=32))


def test_the_child_process_says_the_same_and_loads_no_weights(tiny, dataset):
    spec = spec_for(tiny, dataset(PAIRS))
    assert counted(spec) == Counts.from_event(count(spec))
    assert not (spec.out_dir / "result.json").exists()
    with pytest.raises(Invalid, match="at least 2 conversations"):
        counted(spec_for(tiny, dataset(PAIRS[:1], name="one")))

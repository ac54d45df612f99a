"""One optimizer step: examples in a row do not see each other, and the loss is that of its trained tokens."""

import math
from typing import Any

import pytest

from trainer.bases import BaseSpec
from trainer.data import Encoded
from trainer.recipe import Recipe, default_recipe

torch = pytest.importorskip("torch")

BASE = BaseSpec("hub", "org/model", "1" * 40, config={"model_type": "unheard-of"})
VOCABULARY = 64


def recipe(**changes: object) -> Recipe:
    return default_recipe(BASE, None).with_changes(dropout=0.0, **changes)


def example(seed: int, length: int) -> Encoded:
    ids = tuple(int(i) for i in torch.randint(1, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)))
    return Encoded(f"sha256:{seed:064x}", ids, (-100,) * (length // 3) + ids[length // 3 :])


EXAMPLES = [example(seed, length) for seed, length in enumerate((9, 30, 4, 17))]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """The same small Mistral (a narrow window, grouped heads) with each way of attention."""
    from transformers import MistralConfig, MistralForCausalLM

    from trainer import attention

    attention.register()
    made = {}
    for name, kind in {"sdpa": attention.SEGMENTED, "eager": "eager"}.items():
        torch.manual_seed(0)
        config = MistralConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, sliding_window=12, initializer_range=0.3, attn_implementation=kind, use_cache=False,
        )  # fmt: skip
        made[name] = MistralForCausalLM(config).train()
    return made


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_examples_in_a_row_do_not_see_each_other(models, kind):
    """Against each example by itself through transformers' own mask, longer than the sliding window and shorter."""
    from trainer.loop import lay_out, loss_sum

    row = lay_out(EXAMPLES)
    together = loss_sum(models[kind], row, recipe(attention=kind))
    alone = [loss_sum(models["eager"], lay_out([e]), recipe(attention="eager")) for e in EXAMPLES]
    assert float(together.detach()) == pytest.approx(sum(float(loss.detach()) for loss in alone), rel=1e-6)
    assert row.trained == sum(e.trained for e in EXAMPLES)
    changed = Encoded("x", tuple(reversed(EXAMPLES[0].input_ids)), EXAMPLES[0].labels)
    first_only = lay_out([changed, *EXAMPLES[1:]])
    later = row.at >= len(EXAMPLES[0].input_ids)
    with torch.no_grad():
        ways = [
            models[kind](input_ids=r.ids, position_ids=r.positions, use_cache=False, **options(r, kind)).logits[0]
            for r in (row, first_only)
        ]
    assert torch.equal(ways[0][row.at[later]], ways[1][row.at[later]])  # what stands before has no part in what comes after
    assert not torch.allclose(ways[0][: len(changed.input_ids)], ways[1][: len(changed.input_ids)], atol=0.1)


def options(row: Any, kind: str) -> dict[str, Any]:
    from trainer.loop import attention_options

    return attention_options(row, kind)


def test_a_row_whose_examples_are_not_told_is_refused(models):
    from trainer.loop import lay_out

    row = lay_out(EXAMPLES)
    with pytest.raises(RuntimeError, match="with its bounds"):
        models["sdpa"](input_ids=row.ids, position_ids=row.positions, use_cache=False)


def test_a_step_is_the_same_however_it_is_cut_into_rows(models):
    """Mean over all trained tokens of the step: not a mean of means, which would favour short examples."""
    import copy

    from trainer.loop import lay_out, make_optimizer, train_step

    ends = []
    for cut in ([EXAMPLES], [EXAMPLES[:1], EXAMPLES[1:]], [[e] for e in EXAMPLES]):
        model = copy.deepcopy(models["sdpa"])
        settings = recipe()
        rows = [lay_out(part) for part in cut]
        done = train_step(model, make_optimizer(model, settings), rows, sum(r.trained for r in rows), settings)
        ends.append((done.loss, done.norm, model.lm_head.weight.detach()))
    assert all(end[0] == pytest.approx(ends[0][0], rel=1e-6) and end[1] == pytest.approx(ends[0][1], rel=1e-5) for end in ends)
    assert all(torch.allclose(end[2], ends[0][2], atol=1e-6) for end in ends)


def test_a_loss_that_is_no_number_leaves_the_weights(models):
    import copy

    from trainer.loop import lay_out, make_optimizer, train_step

    model, settings = copy.deepcopy(models["sdpa"]), recipe()
    before = model.lm_head.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    done = train_step(model, make_optimizer(model, settings), [lay_out(EXAMPLES)], 10, settings)
    assert not math.isfinite(done.loss)
    assert torch.equal(model.lm_head.weight.detach(), before)


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine"])
def test_every_step_has_a_learning_rate(scheduler):
    from trainer.loop import learning_rate

    settings = recipe(scheduler=scheduler, warmup=0.1, learning_rate=1e-3)
    rates = [learning_rate(settings, step, 40) for step in range(1, 41)]
    assert min(rates) > 0
    assert max(rates) == rates[4] == 1e-3  # right after four steps of warm-up
    assert rates[:4] == pytest.approx([2e-4, 4e-4, 6e-4, 8e-4])
    assert learning_rate(settings, 1, 1) == 1e-3


def test_lora_plus_and_weight_decay_have_groups_of_their_own():
    from trainer.loop import groups_of, make_optimizer, set_learning_rate

    shapes = {"q.lora_A.w": (2, 2), "q.lora_B.w": (2, 2), "bias": (2,)}
    model = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    named = type("Model", (), {"named_parameters": lambda _: [(f"m.{k}", v) for k, v in model.items()]})()
    settings = recipe(lora_plus_ratio=16.0, weight_decay=0.1)
    groups = groups_of(named, settings)
    assert sorted((g["ratio"], g["weight_decay"]) for g in groups) == [(1.0, 0.0), (1.0, 0.1), (16.0, 0.1)]
    optimizer = make_optimizer(named, settings)
    set_learning_rate(optimizer, 1e-3)
    assert sorted(g["lr"] for g in optimizer.param_groups) == [1e-3, 1e-3, 1.6e-2]

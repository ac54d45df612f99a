"""Specs, results, output files and the explanations of failures, all without torch."""

import errno
import json
import os
from pathlib import Path

import pytest

from registry.errors import Invalid, NotFound, Paused, TrainingFailed
from registry.manifest import FileEntry
from trainer.bases import BaseSpec
from trainer.failures import explain
from trainer.output import plain_json, prepare_folder, remove_others, write_result, write_whole
from trainer.process import _as_error, _died
from trainer.recipe import default_recipe
from trainer.spec import TrainedAdapter, TrainSpec

BASE = BaseSpec("hub", "org/model", "1" * 40, config={"model_type": "unheard-of"})


@pytest.fixture
def spec(tmp_path):
    return TrainSpec(default_recipe(BASE, None), BASE, 7, tmp_path / "data", tmp_path / "out")


@pytest.fixture
def adapter(tmp_path):
    entry = FileEntry("adapter_model.safetensors", "sha256:" + "c" * 64, 3)
    return TrainedAdapter(tmp_path / "files", (entry,), BASE, default_recipe(BASE, None), 7, {"steps": 2}, {"save": 0.5}, {"python": "3"})


def test_a_spec_survives_its_file(spec, tmp_path):
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.as_json()))
    assert TrainSpec.read(path) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "train-spec/9"}, "has format train-spec/2"),
        ({"extra": 1}, "and the keys"),
        ({"seed": -1}, "A seed is a whole number"),
        ({"seed": True}, "A seed is a whole number"),
        ({"seed": 2**32}, "A seed is a whole number"),
        ({"recipe": []}, "recipe is an object; found list"),
    ],
)
def test_a_spec_with_nonsense_is_refused(spec, change, words):
    with pytest.raises(Invalid, match=words):
        TrainSpec.from_json(spec.as_json() | change)


def test_a_spec_file_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(NotFound, match="no train spec"):
        TrainSpec.read(tmp_path / "spec.json")
    for text in ("{", "[]"):
        (tmp_path / "spec.json").write_text(text)
        with pytest.raises(Invalid, match="train spec"):
            TrainSpec.read(tmp_path / "spec.json")


def test_a_result_survives_its_file(adapter, tmp_path):
    write_result(tmp_path, adapter)
    assert TrainedAdapter.load(tmp_path) == adapter
    assert not list(tmp_path.glob("*.part"))


def test_without_a_result_there_is_no_adapter(tmp_path):
    with pytest.raises(NotFound, match="no finished training"):
        TrainedAdapter.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", '{"format": "x"}', '{"format": "trained-adapter/2"}'])
def test_a_result_that_makes_no_sense_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(Invalid):
        TrainedAdapter.load(tmp_path)


def test_a_result_never_holds_a_number_that_is_none(adapter, tmp_path):
    broken = TrainedAdapter(**{**vars(adapter), "metrics": {"loss": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_result(tmp_path, broken)
    assert not list(tmp_path.iterdir())


def test_preparing_takes_a_former_result_away(adapter, tmp_path):
    write_result(tmp_path, adapter)
    prepare_folder(tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_files_are_whole_and_readable_by_others(tmp_path):
    previous = os.umask(0o077)
    try:
        entry = write_whole(tmp_path / "a.bin", b"abc")
    finally:
        os.umask(previous)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644
    assert entry == FileEntry("a.bin", "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's always full device")
def test_a_full_disk_leaves_nothing_and_is_a_sentence(tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        write_whole(tmp_path / "a.bin", b"abc")
    assert not list(tmp_path.iterdir())
    assert "The disk is full (during save)" in explain(caught.value, "save").message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk is full"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "disk is full"),
        (MemoryError(), "Out of memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
            "Out of memory",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/1: file write failed"),
            "disk is full",
        ),
        (RuntimeError("CUDA error: out of memory"), "Out of memory"),
        (
            RuntimeError("CUDA error: unspecified launch failure\nCompile with ..."),
            "The GPU does not answer any more \\(during training\\)",
        ),
        (RuntimeError("No CUDA-capable device is detected"), "The GPU does not answer any more"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "The GPU does not answer any more"),
        (ModuleNotFoundError("No module named 'peft'", name="peft"), "'train' extra, which is not complete here: peft is missing"),
        (RuntimeError("something else\nand more"), "Training failed \\(during training\\): RuntimeError: something else"),
    ],
)
def test_failures_are_sentences(error, words):
    with pytest.raises((TrainingFailed, Invalid), match=words):
        raise explain(error, "training")


def test_a_known_error_keeps_its_words():
    known = Invalid("a", "b")
    assert explain(known, "training") is known


def test_the_childs_error_comes_back_as_it_was():
    error = _as_error({"event": "error", "code": "invalid", "message": "m", "hint": "h"})
    assert (type(error), error.message, error.hint) == (Invalid, "m", "h")
    assert type(_as_error({"code": "of the future", "message": "m"})) is TrainingFailed


def test_how_a_child_died_is_told(tmp_path):
    (tmp_path / "training.log").write_text("one\nSegmentation something\n")
    step = {"event": "step", "step": 3, "of": 9}
    assert "killed (signal 9) at step 3 of 9; likely the machine ran out of memory" in _died(-9, step, tmp_path / "training.log").message
    assert "ended by SIGSEGV before it began" in _died(-11, None, tmp_path / "training.log").message
    phase = {"event": "phase", "name": "model_load"}
    assert (
        "during model_load with exit code 3 and no word why. Its last line: Segmentation something"
        in _died(3, phase, tmp_path / "training.log").message
    )
    assert "exit code 0" in _died(0, phase, tmp_path / "nothing.log").message
    assert type(_died(-11, step, tmp_path / "nothing.log")) is TrainingFailed


@pytest.mark.parametrize("code", [143, -15])
def test_a_child_that_was_stopped_and_could_not_say_so_is_paused(tmp_path, code):
    told = _died(code, {"event": "step", "step": 3, "of": 9}, tmp_path / "training.log")
    assert type(told) is Paused
    assert told.message == "The training was stopped at step 3 of 9."


def test_people_far_away_read_no_folder_of_this_machine(tmp_path):
    log = tmp_path / "training.log"
    log.write_text(f"OSError: '{tmp_path}/out/x.bin' ({Path.home()}/.cache/y.json), see https://huggingface.co/docs/peft of org/model\n")
    told = _died(3, None, log)
    assert told.message.endswith("Its last line: OSError: '.../x.bin' (.../y.json), see https://huggingface.co/docs/peft of org/model")
    assert str(tmp_path) not in f"{told.message} {told.hint}"
    assert told.hint == "See training.log in its work folder."
    assert (
        explain(RuntimeError(f"cannot read {tmp_path}/a.bin"), "save").message
        == "Training failed (during save): RuntimeError: cannot read .../a.bin."
    )


def test_checkpoints_that_the_state_does_not_list_are_removed(tmp_path):
    for name in ("step-000001.safetensors", "step-000002.safetensors", "step-000002.safetensors.part"):
        (tmp_path / name).write_bytes(b"x")
    remove_others(tmp_path, {"step-000001.safetensors"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001.safetensors", "step-000002.safetensors.part"]


def test_sets_and_enums_become_plain_json():
    class Kind:
        value = "LORA"

    assert plain_json({"b": {"v", "q"}, "a": Kind(), "c": (1, None), "d": {"e": frozenset({"x"})}}) == {
        "a": "LORA", "b": ["q", "v"], "c": [1, None], "d": {"e": ["x"]},
    }  # fmt: skip

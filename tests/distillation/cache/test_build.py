from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from itertools import chain

import pytest
import torch
from training import counted

from geodistill.distillation.cache import build as cache_build
from geodistill.distillation.cache.format import TopK
from geodistill.errors import GeodistillError


class Interrupted(RuntimeError):
    pass


def interrupt(call):
    """Break off when the teacher has seen the probe and three batches of four."""
    if call == 4:
        raise Interrupted


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "lock"}


def shown(teacher):
    """The examples that the teacher was shown, but for the probe."""
    return list(chain(*teacher.shown[1:]))


@pytest.fixture
def whole(lesson, tmp_path_factory):
    """What an uninterrupted writer leaves."""
    folder = tmp_path_factory.mktemp("whole")
    lesson.prepare(folder)
    return contents(folder)


@pytest.fixture
def begun(lesson, tmp_path):
    with pytest.raises(Interrupted):
        lesson.prepare(tmp_path, lesson.teacher(on_call=interrupt))
    return tmp_path


def test_an_interrupted_writer_is_gone_on_with(lesson, begun, whole):
    assert "manifest.json" not in contents(begun)
    teacher = lesson.teacher()
    lesson.prepare(begun, teacher)
    assert len(shown(teacher)) == 30 - 12
    assert contents(begun) == whole


def test_an_interrupted_writer_of_the_largest_logits_is_gone_on_with(speaking, tmp_path):
    top_k = TopK(5, 2.0)
    whole = speaking.prepare(tmp_path / "whole", top_k=top_k)
    for refused in (None, TopK(6, 2.0)):
        with pytest.raises(Interrupted):
            speaking.prepare(tmp_path / "begun", speaking.teacher(on_call=interrupt), top_k=top_k)
        teacher = speaking.teacher()
        speaking.prepare(tmp_path / "begun", teacher, top_k=refused)
        assert len(shown(teacher)) == 30
    with pytest.raises(Interrupted):
        speaking.prepare(tmp_path / "begun", speaking.teacher(on_call=interrupt), top_k=top_k)
    teacher = speaking.teacher()
    cache = speaking.prepare(tmp_path / "begun", teacher, top_k=top_k)
    assert len(shown(teacher)) == 30 - 12
    assert contents(tmp_path / "begun") == contents(tmp_path / "whole")
    assert len(cache) == len(whole)


def test_a_teacher_without_finite_logits_is_refused_before_they_are_cut(speaking, tmp_path):
    with torch.no_grad():
        speaking.model.lm_head.weight[7] = torch.nan
    with pytest.raises(GeodistillError, match=r"NaN or infinite values \(logits\)"):
        speaking.prepare(tmp_path, top_k=TopK(5, 2.0))


def test_it_may_be_interrupted_again_and_go_on_with_other_batches(lesson, begun):
    with pytest.raises(Interrupted):
        lesson.prepare(begun, lesson.teacher(on_call=interrupt), batch_size=3)
    teacher = lesson.teacher()
    cache = lesson.prepare(begun, teacher, batch_size=5)
    assert len(shown(teacher)) == 30 - 12 - 9
    batch = lesson.batch(range(30))
    torch.testing.assert_close(cache(batch).logits, lesson.teacher()(batch).logits, atol=1e-6, rtol=0)


def test_rows_of_a_batch_that_was_not_finished_are_dropped(lesson, begun, whole):
    for name in ("logits.bin", "features-2.bin"):
        with (begun / name).open("ab") as file:
            file.write(b"half a row")
    teacher = lesson.teacher()
    lesson.prepare(begun, teacher)
    assert len(shown(teacher)) == 30 - 12
    assert contents(begun) == whole


@pytest.mark.parametrize("loss", ["cut", "removed", "progress", "garbage"])
def test_a_writer_that_lost_something_starts_over(lesson, begun, whole, loss):
    if loss == "cut":
        os.truncate(begun / "features-1.bin", 10)
    elif loss == "removed":
        (begun / "features-1.bin").unlink()
    elif loss == "progress":
        (begun / "progress.json").unlink()
    else:
        (begun / "progress.json").write_text("[]")
    teacher = lesson.teacher()
    lesson.prepare(begun, teacher)
    assert len(shown(teacher)) == 30
    assert contents(begun) == whole


def test_what_another_teacher_began_is_not_gone_on_with(lesson, begun):
    with torch.no_grad():
        lesson.model.classifier.out_proj.bias += 1
    teacher = lesson.teacher()
    lesson.prepare(begun, teacher)
    assert len(shown(teacher)) == 30


def test_a_rotation_that_was_interrupted_does_not_run_the_teacher_again(lesson, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cache_build, "cut_bounds", lambda *_: interrupt(4))
        with pytest.raises(Interrupted):
            lesson.prepare(tmp_path, variance=0.9)
    teacher = lesson.teacher()
    cache = lesson.prepare(tmp_path, teacher, variance=0.9)
    assert shown(teacher) == []
    batch = lesson.batch(range(30))
    request = lesson.requests[0]
    expected = counted(lesson.teacher()(batch).features[request]) @ cache.axes[request]
    torch.testing.assert_close(counted(cache(batch).features[request]), expected, atol=2e-6, rtol=0)


def write_and_tell(lesson, folder, on_call, told):
    teacher = lesson.teacher(on_call=on_call)
    lesson.prepare(folder, teacher)
    told.put(shown(teacher))


def start(*arguments):
    process = multiprocessing.get_context("fork").Process(target=write_and_tell, args=arguments)
    process.start()
    return process


def test_of_two_writers_one_writes_and_the_other_waits(lesson, tmp_path, whole):
    told = multiprocessing.get_context("fork").Queue()
    writers = [start(lesson, tmp_path, lambda call: time.sleep(0.02), told) for _ in range(2)]
    found = [told.get(timeout=60) for _ in writers]
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    assert sorted(map(len, found)) == [0, 30]
    assert contents(tmp_path) == whole


def test_a_killed_writer_is_gone_on_with(lesson, tmp_path, whole, monkeypatch):
    monkeypatch.setattr(cache_build, "FLUSH_SECONDS", 0.0)

    def kill(call):
        if call == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    writer = start(lesson, tmp_path, kill, None)
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    teacher = lesson.teacher()
    lesson.prepare(tmp_path, teacher)
    assert len(shown(teacher)) == 30 - 12
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("part", ["logits", "tokens of -1"])
def test_a_teacher_that_gives_nan_is_refused(lesson, tmp_path, part):
    head, last = lesson.model.classifier, lesson.model.roberta.encoder.layer[1].output.dense
    with torch.no_grad():
        (head.out_proj if part == "logits" else last).bias[0] = torch.nan
    if part != "logits":
        head.forward = lambda hidden: hidden.new_zeros(len(hidden), 3)
    with pytest.raises(GeodistillError, match=rf"NaN or infinite values \({part}\)\. Check the teacher's weights"):
        lesson.prepare(tmp_path, lesson.teacher(lesson.requests[:1]))
    assert "manifest.json" not in contents(tmp_path)


def test_a_full_disk_is_told_and_what_was_written_counts(lesson, tmp_path):
    def fill_disk(call):
        if call == 4:
            raise OSError(28, "No space left on device")

    with pytest.raises(GeodistillError, match=r"cannot be written: .*No space left on device"):
        lesson.prepare(tmp_path, lesson.teacher(on_call=fill_disk))
    assert json.loads((tmp_path / "progress.json").read_text())["examples"] == 12


def test_it_tells_its_size_and_its_progress(lesson, tmp_path, capsys):
    lesson.prepare(tmp_path, variance=0.9, progress=True)
    told = capsys.readouterr().err
    assert "Teacher cache: at most 0.0" in told and "(limit 0.10 GB)" in told
    assert "Teacher: 100%" in told
    assert "Rotated cache, tokens of -1: width 16 → " in told and "moves D_P² by at most" in told

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from transformers import HfArgumentParser, Seq2SeqTrainingArguments
from transformers.training_args import TrainingArguments

from geodistill import DistillationConfig

OWN = {"exact_accumulation": False, "max_skipped_steps": 20, "global_batch": True, "rates": None}


def test_its_fields_are_arguments_and_explained(tmp_path: Path) -> None:
    config = DistillationConfig(str(tmp_path), exact_accumulation=True, use_cpu=True)
    said = config.to_dict()
    assert said["exact_accumulation"] is True and said["max_skipped_steps"] == 20
    assert json.loads(config.to_json_string())["exact_accumulation"] is True
    theirs = {each.name for each in fields(TrainingArguments)}
    own = [each for each in fields(DistillationConfig) if each.name not in theirs]
    assert {each.name: each.default for each in own} == OWN
    assert all(each.metadata["help"].endswith(".") for each in own)


def test_a_command_line_sets_them(tmp_path: Path) -> None:
    line = ["--output_dir", str(tmp_path), "--exact_accumulation", "--max_skipped_steps", "3", "--no_global_batch"]
    line += ["--rates", '{"*.bias": 1e-3}']
    (config,) = HfArgumentParser(DistillationConfig).parse_args_into_dataclasses([*line, "--use_cpu"])
    assert config.rates == {"*.bias": 1e-3}
    assert (config.exact_accumulation, config.max_skipped_steps, config.global_batch) == (True, 3, False)


@pytest.mark.parametrize("kind", [TrainingArguments, Seq2SeqTrainingArguments])
def test_plain_arguments_get_the_defaults(tmp_path: Path, kind: type[TrainingArguments]) -> None:
    given = kind(str(tmp_path), learning_rate=0.25, warmup_steps=0.5, use_cpu=True, report_to="none", save_steps=7)
    config = DistillationConfig.of(given)
    assert isinstance(config, DistillationConfig) and config is not given
    plain = TrainingArguments.to_dict(given)
    assert config.to_dict() == {**{name: plain[name] for name in config.to_dict() if name in plain}, **OWN}
    assert config.device == given.device and config.get_warmup_steps(10) == given.get_warmup_steps(10)
    assert DistillationConfig.of(config) is config

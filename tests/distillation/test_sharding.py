"""What is refused, and what accelerate shards as one piece; models in shards are in test_split_invariance.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training import Make, classifier, make_trainer
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.training_args import TrainingArguments

from geodistill.distillation.sharding import blocks_to_shard, check_sharding, fsdp_version, whole_model
from geodistill.errors import GeodistillError


@pytest.fixture
def arguments(tmp_path: Path) -> TrainingArguments:
    return TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")


def test_fsdp1_of_the_launcher_is_refused(arguments: TrainingArguments, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fsdp_version(arguments) is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert fsdp_version(arguments) == 1
    with pytest.raises(GeodistillError, match="fsdp_version: 2"):
        check_sharding(arguments)
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_sharding(arguments)


def test_fsdp1_of_the_arguments_is_refused(arguments: TrainingArguments, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    given = TrainingArguments(arguments.output_dir, use_cpu=True, fsdp=True, fsdp_config={"version": 2})
    assert fsdp_version(given) == 2
    check_sharding(given)
    given = TrainingArguments(arguments.output_dir, use_cpu=True, fsdp=True, fsdp_config={"version": 1})
    with pytest.raises(GeodistillError, match="FSDP1"):
        check_sharding(given)


def test_zero_3_is_refused(arguments: TrainingArguments) -> None:
    """DeepSpeed is no dependency of the tests; of its plugin the stage is looked at, and nothing else."""
    plugin: Any = SimpleNamespace(zero_stage=2)
    arguments.deepspeed_plugin = plugin
    check_sharding(arguments)
    plugin.zero_stage = 3
    with pytest.raises(GeodistillError, match="ZeRO-2"):
        check_sharding(arguments)


def test_several_gpus_in_one_process_are_refused(
    arguments: TrainingArguments, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(GeodistillError, match=r"sees 2 GPUs.*accelerate launch.*CUDA_VISIBLE_DEVICES"):
        check_sharding(arguments)
    with pytest.raises(GeodistillError, match="sees 2 GPUs"):
        make()


def test_a_block_around_the_embeddings_is_not_sharded_as_one() -> None:
    assert "BertEmbeddings" in classifier(1, 8, 0)._no_split_modules
    assert blocks_to_shard(classifier(1, 8, 0)) == {"BertLayer"}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    assert blocks_to_shard(LlamaForCausalLM(LlamaConfig(vocab_size=10, **sizes))) == {"LlamaDecoderLayer"}


def test_a_model_that_is_not_sharded_is_whole(tmp_path: Path) -> None:
    student = make_trainer(tmp_path).student
    assert whole_model(student) is student

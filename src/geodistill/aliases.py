"""What other tools call the keys of a recipe: for the help with a key that a recipe does not have."""

from __future__ import annotations

from collections.abc import Sequence

TRAINER_NAMES = {
    "num_train_epochs": "epochs",
    "max_steps": "max_steps",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "evaluation_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation",
    "exact_accumulation": "exact_accumulation",
    "global_batch": "global_batch",
    "learning_rate": "learning_rate",
    "rates": "rates",
    "weight_decay": "weight_decay",
    "warmup_steps": "warmup",
    "lr_scheduler_type": "schedule",
    "max_grad_norm": "max_gradient_norm",
    "bf16": "bf16",
    "fp16": "fp16",
    "seed": "seed",
    "logging_steps": "logging_steps",
    "eval_strategy": "evaluate_each_epoch",
    "save_steps": "save_steps",
}
"""The arguments of a trainer that a training section has a key of its own for."""

OWN_FIELDS = {
    "output_dir": "The folder of a run is chosen on the command line: --output FOLDER.",
    "resume_from_checkpoint": "A run goes on from its newest checkpoint by itself; set training.save_steps.",
    "remove_unused_columns": "Leave it out: each model is given the columns that its forward takes.",
    "label_names": "Leave it out: labels are named by data.label.",
    "do_train": "Leave it out: 'geodistill train' trains.",
    "do_eval": "Leave it out; training.evaluate_each_epoch scores the validation split after each epoch.",
    "do_predict": "Leave it out: 'geodistill evaluate' and 'geodistill predict' use a finished run.",
    "local_rank": "Leave it out: the launcher sets it.",
}
"""The fields of transformers.TrainingArguments that a run decides by itself, with what to do instead."""

_TRAINING = {
    **TRAINER_NAMES,
    "num_epochs": "epochs",
    "train_epochs": "epochs",
    "train_batch_size": "batch_size",
    "per_gpu_train_batch_size": "batch_size",
    "eval_batch_size": "evaluation_batch_size",
    "lr": "learning_rate",
    "warmup_ratio": "warmup",
    "warmup_proportion": "warmup",
    "lr_scheduler": "schedule",
    "scheduler": "schedule",
    "gradient_clipping": "max_gradient_norm",
    "mixed_precision": "bf16",
    "evaluation_strategy": "evaluate_each_epoch",
    "save_strategy": "save_steps",
}
_ELSEWHERE = {
    "max_seq_length": "data.max_length",
    "max_seq_len": "data.max_length",
    "model_max_length": "data.max_length",
    "max_train_samples": "data.limit",
    "dataset": "data.source",
    "dataset_name": "data.source",
    "train_file": "data.source",
    "data_dir": "data.source",
    "dataset_config_name": "data.configuration",
    "text_column": "data.text",
    "text_column_name": "data.text",
    "label_column": "data.label",
    "label_column_name": "data.label",
    "teacher_model": "teacher.model",
    "teacher_model_name_or_path": "teacher.model",
    "teacher_name_or_path": "teacher.model",
    "load_in_8bit": "teacher.weights",
    "load_in_4bit": "teacher.weights",
    "torch_dtype": "teacher.weights",
    "student_model": "student.model",
    "student_model_name_or_path": "student.model",
    "student_name_or_path": "student.model",
    "hidden_size": "student.width",
    "num_hidden_layers": "student.layers",
    "num_layers": "student.layers",
    "num_attention_heads": "student.heads",
    "intermediate_size": "student.intermediate",
    "lora_r": "student.lora.rank",
    "lora_alpha": "student.lora.alpha",
    "lora_dropout": "student.lora.dropout",
    "target_modules": "student.lora.targets",
    "alpha": "objective.logits.weight",
    "alpha_ce": "objective.logits.weight",
    "alpha_kd": "objective.logits.weight",
    "kd_weight": "objective.logits.weight",
    "alpha_mlm": "objective.label.weight",
    "T": "objective.logits.temperature",
    "kd_temperature": "objective.logits.temperature",
    "distillation_temperature": "objective.logits.temperature",
    "do_sample": "generation.sample",
}


def known_elsewhere(name: str, section: Sequence[str]) -> str | None:
    """Return the dotted path of the key that other tools call `name`; None for a name that no other tool is known by.

    `section` are the keys that lead to where the name was found. A name of training belongs to the training section
    that it stands in, such as `teacher.training`, and else to the student's.

        known_elsewhere("lr", ["teacher", "training"])  # "teacher.training.learning_rate"
    """
    if name in ("model_name_or_path", "pretrained_model_name_or_path") and section[:1] in (["teacher"], ["student"]):
        return f"{section[0]}.model"
    if name in _TRAINING:
        training = ".".join(section) if section[-1:] == ["training"] else "training"
        return f"{training}.{_TRAINING[name]}"
    return _ELSEWHERE.get(name)

"""The job with a Hugging Face Trainer per client, as the codes of FedPFT and OpenFedLLM do it.

The adapter goes in and out by PEFT's own state dicts. No workers load data, nothing is logged or saved.
"""

from __future__ import annotations

import sys
import tempfile

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from transformers import Trainer, TrainingArguments

from clock import Clock
from job import Job, Mean, data_of, load_model


def main() -> None:
    """Runs the job given as JSON."""
    job = Job.load(sys.argv[1])
    torch.set_num_threads(job.threads)
    data, model, clock = data_of(job.folder), load_model(job), Clock(job)
    params = {name: tensor.clone() for name, tensor in get_peft_model_state_dict(model).items()}
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=job.batch_size,
            max_steps=data.plan.shape[2],
            learning_rate=job.learning_rate,
            lr_scheduler_type="constant",
            optim="sgd" if job.optimizer == "sgd" else "adamw_torch",
            max_grad_norm=1.0,
            bf16=job.precision == "bfloat16",
            use_cpu=True,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        for number in range(data.rounds):
            mean = Mean()
            for client in range(data.clients):
                set_peft_model_state_dict(model, params)
                examples = data.plan[number, client].flatten().tolist()
                trainer = Trainer(
                    model, arguments, data_collator=lambda rows: data.batch(torch.tensor(rows)), train_dataset=examples
                )
                trainer.train()
                mean.add(get_peft_model_state_dict(model), int(data.sizes[client]))
            params = mean.result()
            clock.lap()
    clock.report(params)


if __name__ == "__main__":
    main()

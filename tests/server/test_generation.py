"""What a run's language model writes: the tokens of plain transformers and peft, and keyed choices."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from fedfm import predict, run
from fedfm.cli.main import main
from fedfm.errors import FedfmError
from fedfm.models.builtin import write_random_model
from fedfm.models.quiet import quiet
from fedfm.server.runs.finished import Run
from tests.small import small_recipe

QUESTIONS = ["Is red warm?", "Is dark blue </s> cold?", "Why?"]
MODELS = {"instruct": "tiny-llama", "causal-lm": "tiny-gpt2", "seq2seq": "tiny-t5"}


def written_run(folder: Path, kind: str, model: str) -> Run:
    rows = [
        {"prompt": f"Is it {number}?", "response": "Certainly.", "text": f"It is {number}."} for number in range(24)
    ]
    recipe = small_recipe(folder, model={"path": f"builtin:{model}"}, task={"kind": kind})
    for name in ("train", "test"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe |= {
        "evaluate": {"generate": {"examples": 3, "max_new_tokens": 8}},
        "data": {**recipe["data"], "max_length": 48},
        "federation": {"clients": 2, "per_round": 2, "rounds": 1},
        "local": {"batch_size": 6, "learning_rate": 0.02},
    }
    return run(recipe)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return {kind: written_run(tmp_path_factory.mktemp(kind), kind, model) for kind, model in MODELS.items()}


def plainly(finished: Run, kind: str, folder: Path) -> list[str]:
    """Greedy answers by transformers and peft alone, one prompt at a time."""
    base, adapter = folder / "base", finished.folder.adapter
    write_random_model(MODELS[kind], base)
    loader = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(adapter)
        model = PeftModel.from_pretrained(loader.from_pretrained(base), str(adapter)).eval()
        found = []
        for question in (QUESTIONS[0], QUESTIONS[2]):
            if kind == "instruct":
                turns = [{"role": "user", "content": question}]
                asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
            else:
                asked = tokenizer(question)["input_ids"]
                asked = asked[:-1] if kind == "causal-lm" and asked[-1] == tokenizer.eos_token_id else asked
            written = model.generate(
                input_ids=torch.tensor([asked]),
                attention_mask=torch.ones(1, len(asked), dtype=torch.long),
                max_new_tokens=12,
                do_sample=False,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )[0]
            new = written if kind == "seq2seq" else written[len(asked) :]
            found.append(tokenizer.decode(new, skip_special_tokens=True))
    return found


GREEDY = ["evaluate.generate.max_new_tokens=12"]
DRAWN = ["evaluate.generate.max_new_tokens=12", "evaluate.generate.temperature=2"]


@pytest.mark.parametrize("kind", MODELS)
def test_answers_are_those_of_plain_transformers(kind: str, runs: dict[str, Run], tmp_path: Path) -> None:
    found = predict(runs[kind].path, prompts=QUESTIONS, overrides=GREEDY)
    assert list(found.columns) == ["row", "prompt", "generated"]
    assert list(found.prompt) == QUESTIONS
    expected = plainly(runs[kind], kind, tmp_path)
    assert [found.generated[0], found.generated[2]] == expected
    assert any(expected)


def test_what_is_drawn_has_a_key(runs: dict[str, Run]) -> None:
    path = runs["instruct"].path
    first, again = (list(predict(path, prompts=QUESTIONS, overrides=DRAWN).generated) for _ in range(2))
    fewer = list(predict(path, prompts=QUESTIONS[:2], overrides=DRAWN).generated)
    other = list(predict(path, prompts=QUESTIONS, overrides=[*DRAWN, "evaluate.generate.seed=5"]).generated)
    assert first == again
    assert fewer == first[:2]
    assert other != first
    only = [*DRAWN, "evaluate.generate.top_k=1"]
    assert list(predict(path, prompts=QUESTIONS, overrides=only).generated) == list(
        predict(path, prompts=QUESTIONS, overrides=GREEDY).generated
    )


def test_pieces_are_heard_as_they_are_written(runs: dict[str, Run]) -> None:
    pieces: list[tuple[int, str]] = []
    found = predict(
        runs["instruct"].path, prompts=QUESTIONS, overrides=DRAWN, heard=lambda n, text: pieces.append((n, text))
    )
    for number, answer in enumerate(found.generated):
        assert "".join(text for n, text in pieces if n == number) == answer


def test_the_command_answers_prompts_and_data(runs: dict[str, Run], tmp_path: Path) -> None:
    path, runner = str(runs["instruct"].path), CliRunner()
    result = runner.invoke(main, ["predict", path, *GREEDY, "--prompt", QUESTIONS[0], "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.output)
    assert row.keys() == {"row", "prompt", "generated"}
    data = tmp_path / "asked.jsonl"
    data.write_text(json.dumps({"question": QUESTIONS[0]}) + "\n" + json.dumps({"question": "What?"}) + "\n")
    lines = runner.invoke(main, ["predict", path, str(data), *GREEDY])
    assert json.loads(lines.output.splitlines()[0])["generated"] == row["generated"]
    answered = tmp_path / "answered.jsonl"
    answered.write_text(json.dumps({"prompt": QUESTIONS[0], "response": "Yes"}) + "\n")
    found = predict(path, str(answered), GREEDY)
    assert [found.answer[0], found.generated[0]] == ["Yes", row["generated"]]
    assert runner.invoke(main, ["predict", path]).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompts": ["x" * 400]}, "question 1: a prompt of 4.. tokens and an answer of 8 "),
        ({}, "give either data or prompts"),
        ({"prompts": ["x"], "overrides": ["evaluate.generate.top_p=0"]}, "evaluate.generate.top_p"),
        ({"prompts": ["x"], "overrides": ["tune.r=2"]}, "would change the model"),
    ],
)
def test_what_cannot_be_answered_is_refused(arguments: dict[str, Any], says: str, runs: dict[str, Run]) -> None:
    with pytest.raises(FedfmError, match=says):
        predict(runs["instruct"].path, **arguments)


def test_a_run_keeps_what_was_written_before_and_after(runs: dict[str, Run]) -> None:
    finished = runs["instruct"]
    found = json.loads(finished.folder.samples.read_text())
    asked = [row["prompt"] for row in found["rows"]]
    assert asked == ["Is it 0?", "Is it 1?", "Is it 2?"]
    short = ["evaluate.generate.max_new_tokens=8"]
    assert [row["after"] for row in found["rows"]] == list(
        predict(finished.path, prompts=asked, overrides=short).generated
    )
    assert {row["answer"] for row in found["rows"]} == {"Certainly."}
    assert found["initial"].keys() == found["final"].keys() == {"rouge_l", "exact_match", "token_f1"}
    assert [row["before"] for row in found["rows"]] != [row["after"] for row in found["rows"]]
    page = finished.folder.report.read_text()
    assert 'id="samples"' in page
    assert "ROUGE-L" in page
    assert json.loads(runs["causal-lm"].folder.samples.read_text())["final"] == {}


def test_only_language_models_write_answers(tmp_path: Path) -> None:
    with pytest.raises(FedfmError, match=r"evaluate.generate.examples.*writes no answers"):
        run(small_recipe(tmp_path, evaluate={"generate": {"examples": 1}}))


def write_problems(folder: Path) -> Path:
    head = "def double(x):\n    return 2 * x  # "  # whatever is written after it is a comment
    test = "def check(f):\n    assert f(2) == 4"
    rows = [
        {"prompt": head, "test": test, "entry_point": "double"},
        {"prompt": head, "test": test.replace("4", "5"), "entry_point": "double"},
    ]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_code_is_executed_only_where_the_user_agrees(runs: dict[str, Run], tmp_path: Path) -> None:
    path, problems, runner = str(runs["causal-lm"].path), str(write_problems(tmp_path)), CliRunner()
    refused = runner.invoke(main, ["code", path, problems])
    assert refused.exit_code == 2
    assert "agree with --execute" in refused.output
    options = ["--execute", "--unisolated", "--timeout", "30", "--json", "-k", "1", "-k", "2", "--samples", "3"]
    arguments = ["code", path, problems, "evaluate.generate.max_new_tokens=2", *options]
    alike = runner.invoke(main, arguments)
    assert alike.exit_code == 2
    assert "samples of a problem are the same" in alike.output
    result = runner.invoke(main, [*arguments, "evaluate.generate.temperature=1"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [row["passed"] for row in found["rows"]] == [3, 0]
    assert found["pass_at"] == {"1": 0.5, "2": 0.5}
    assert {answer["failure"] for answer in found["rows"][1]["answers"]} == {"AssertionError"}
    few = runner.invoke(main, ["code", path, problems, "--execute", "-k", "5", "--samples", "2"])
    assert "pass@5 needs at least 5 samples, not 2" in few.output

"""Words with tags: which token carries a tag, what is cut off, and which files are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedfm.data.examples import IGNORED
from fedfm.data.labels import LabelMap
from fedfm.data.readers.request import RequestedColumn
from fedfm.data.sources import read_source
from fedfm.data.words import encode_words, first_tokens
from fedfm.errors import DataError, RecipeError
from fedfm.models.backbones import load_processor
from fedfm.models.settings import ModelSettings

WORDS = (RequestedColumn("tokens", "list", "data.text"), RequestedColumn("tags", "list", "data.label"))
TAGS = LabelMap(("O", "B-X"))


@pytest.mark.parametrize(
    ("offsets", "places"),
    [
        ([(0, 0), (0, 2), (2, 3), (4, 5), (0, 0)], [1, 3]),  # spaces belong to no token
        ([(0, 3), (3, 5)], [0, 1]),  # a space belongs to the token after it
        ([(0, 3), (3, 4), (4, 5)], [0, 2]),  # a space is a token
        ([(0, 5)], [0, -1]),  # one token for both words
        ([(0, 0), (0, 2)], [1, -1]),  # the second word is cut off
    ],
)
def test_the_first_token_of_each_word(offsets: list[tuple[int, int]], places: list[int]) -> None:
    assert first_tokens(["abc", "d"], offsets) == places


def test_tags_are_at_first_tokens_and_what_is_cut_off_is_said(make_source) -> None:  # type: ignore[no-untyped-def]
    tokenizer = load_processor(ModelSettings(path="builtin:tiny-bert"), "text")
    source = make_source(tokens=[["ab", "c"], ["abcdefgh", "é", "x"]], tags=[["O", "B-X"], ["B-X", "O", "O"]])
    examples = encode_words(source, "tokens", tokenizer, 12, label="tags", label_map=TAGS)
    assert examples.take([0])[0]["labels"] == [IGNORED, 0, IGNORED, IGNORED, 1, IGNORED]
    assert [label for label in examples.take([1])[0]["labels"] if label != IGNORED] == [1, 0]
    assert examples.notes == (
        "1 of the 5 words are not predicted: their rows are longer than data.max_length, or the model "
        "has no token for them",
    )
    bare = encode_words(source, "tokens", tokenizer, 12)
    assert [label for label in bare.take([1])[0]["labels"] if label != IGNORED] == [0, 1]  # numbers of words


@pytest.mark.parametrize(
    ("tokens", "tags", "reason"),
    [
        (["a", "b"], ["O"], "has 2 words and 1 tags in row 1"),
        (["a"], ["B-Y"], "the label 'B-Y' in row 1, which is not one of the classes: O, B-X"),
        ([], [], "has no words in row 1"),
    ],
)
def test_rows_that_do_not_fit_are_refused(make_source, tokens: list[str], tags: list[str], reason: str) -> None:  # type: ignore[no-untyped-def]
    tokenizer = load_processor(ModelSettings(path="builtin:tiny-bert"), "text")
    source = make_source(tokens=[json.dumps(tokens)], tags=[json.dumps(tags)])
    with pytest.raises(DataError, match=reason):
        encode_words(source, "tokens", tokenizer, 12, label="tags", label_map=TAGS)


def test_a_conll_file_and_json_lines_give_the_same_rows(tmp_path: Path) -> None:
    conll, lines = tmp_path / "a.conll", tmp_path / "a.jsonl"
    conll.write_text('-DOCSTART- -X- O\n\nA NN B-X\n"b\tVB\tO\n\n\nc NN O\n')
    rows = [{"tokens": ["A", '"b'], "tags": ["B-X", "O"]}, {"tokens": ["c"], "tags": ["O"]}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [read_source(str(path), "train", where="data.train", columns=WORDS).table[:] for path in (conll, lines)]
    assert read[0] == read[1]
    assert json.loads(read[0]["tokens"][0]) == ["A", '"b']
    assert LabelMap.from_lists(read_source(str(conll), "train", where="data.train", columns=WORDS), "tags").names == (
        "B-X",
        "O",
    )


def test_faults_of_files_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("A B-X\nb\n")
    with pytest.raises(DataError, match=r"a\.conll:2: has the word 'b' without a tag"):
        read_source(str(tmp_path / "a.conll"), "train", where="data.train", columns=WORDS)
    (tmp_path / "b.conll").write_text("A B-X\n")
    wanted = [RequestedColumn("words", "list", "data.text")]
    with pytest.raises(RecipeError, match="no column `words`"):
        read_source(str(tmp_path / "b.conll"), "train", where="data.train", columns=wanted)
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "tags": "O"}\n')
    with pytest.raises(DataError, match="row 1, column `tags`: contains text, not a list"):
        read_source(str(tmp_path / "a.jsonl"), "train", where="data.train", columns=WORDS)
    (tmp_path / "b.jsonl").write_text('{"tokens": [["a"]], "tags": ["O"]}\n')
    with pytest.raises(DataError, match="contains a list with a list, not a list of texts or numbers"):
        read_source(str(tmp_path / "b.jsonl"), "train", where="data.train", columns=WORDS)

"""examples/text_files.py: what is a text of a file, and which files are refused."""

import time

import pytest

from examples.text_files import FIRST_BLOCK, TextFiles, split_line

# A space that is as wide as a Chinese character.
WIDE = "\u3000"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Read files of these contents, a.txt, b.txt ...: read(b"...", b"...") -> TextFiles, texts."""
    monkeypatch.chdir(tmp_path)

    def read(*contents):
        names = [f"{letter}.txt" for letter, _ in zip("abc", contents)]
        for name, content in zip(names, contents):
            (tmp_path / name).write_bytes(content)

        files = TextFiles(names, 255)
        return files, list(files)

    return read


def test_each_line_that_is_not_blank_is_a_text_with_its_place(read):
    _, texts = read(b"one\n\n  \t\n two \n", b"three")

    assert texts == [
        ("one", "a.txt, line 1"), (" two ", "a.txt, line 4"), ("three", "b.txt, line 1")]


def test_lines_may_end_as_on_any_system(read):
    _, texts = read("one\r\ntwo \u6587\rthree\nfour".encode())

    assert [text.content for text in texts] == ["one", "two \u6587", "three", "four"]
    assert texts[-1].place == "a.txt, line 4"


def test_a_byte_order_mark_is_no_part_of_a_text(read):
    _, texts = read("\ufeffone\n\ufefftwo\nth\ufeffree".encode())

    assert [text.content for text in texts] == ["one", "two", "th\ufeffree"]


@pytest.mark.parametrize(("line", "texts"), [
    pytest.param("", [], id="an empty line"),
    pytest.param(" \t", [], id="a blank line"),
    pytest.param(" " * 300, [], id="a long blank line"),
    pytest.param(WIDE * 300, [], id="a long line of wide spaces"),
    pytest.param(" a ", [" a "], id="spaces around a text"),
    pytest.param("x" * 255, ["x" * 255], id="the longest text"),
    pytest.param("x" * 255 + " ", ["x" * 255], id="a space too many"),
    pytest.param("x" * 256, ["x" * 255, "x"], id="a character too many"),
    pytest.param("x" * 253 + " y z", ["x" * 253 + " y", "z"], id="a space early enough"),
    pytest.param("x" * 254 + " y", ["x" * 254, "y"], id="a space at the end"),
    pytest.param("a" + WIDE * 300 + "b", ["a", "b"], id="many spaces"),
    pytest.param("a " + "x" * 300, ["a", "x" * 255, "x" * 45], id="a long word"),
    pytest.param("word " * 60, ["word " * 50 + "word", "word " * 8 + "word"], id="many words"),
])
def test_a_line_of_more_than_255_characters_is_split_at_spaces(line, texts):
    assert split_line(line, 255) == texts


def test_a_column_without_a_limit_takes_lines_of_any_length():
    assert split_line("x" * 3000, None) == ["x" * 3000]


@pytest.mark.parametrize("character", ["x", " ", WIDE])
def test_a_line_is_split_in_linear_time(character):
    def seconds(size):
        line = character * size
        started = time.thread_time()
        split_line(line, 255)
        return time.thread_time() - started

    assert seconds(8_000_000) < 10 * seconds(2_000_000)


def test_split_lines_are_counted_and_their_texts_have_the_place_of_the_line(read):
    files, texts = read(b"one\n" + b"x" * 600)

    assert files.lines_split == 1
    assert [text.place for text in texts] == ["a.txt, line 1", *["a.txt, line 2"] * 3]


# %% Files that are no text
NO_TEXT = {
    "an undecodable byte": (b"one\n\r\nthree\rcaf\xe9\n", "line 4 is not UTF-8"),
    "a surrogate": (b"one\n\xed\xa0\x80\n", "line 2 is not UTF-8"),
    "a PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "line 2 is not UTF-8"),
    "a NUL": (b"one\na\0b\n", "line 2 has a NUL"),
    "UTF-16": ("one\ntwo\n".encode("utf-16"), "line 1 has a NUL"),
    "UTF-16 in Chinese": ("\u6587\u5b57".encode("utf-16"), "line 1 is not UTF-8"),
}


@pytest.mark.parametrize(("content", "words"), NO_TEXT.values(), ids=NO_TEXT.keys())
def test_a_file_is_refused_if_its_first_block_is_no_text(read, content, words):
    with pytest.raises(ValueError, match=f"^b.txt, {words}.* in UTF-8$"):
        read(b"good", content)


def test_a_device_that_never_ends_is_refused():
    with pytest.raises(ValueError, match="line 1 has a NUL"):
        TextFiles(["/dev/zero"], 255)


@pytest.mark.parametrize("shift", range(3))
def test_a_first_block_may_end_inside_a_character(read, shift):
    content = "x" * shift + "\u6587" * FIRST_BLOCK

    files, texts = read(content.encode())

    assert "".join(text.content for text in texts) == content
    assert files.problems == []


def test_a_bad_line_further_on_ends_the_reading_of_its_file_alone(read):
    good = b"a good line\n" * FIRST_BLOCK

    files, texts = read(good + b"caf\xe9\nnever read\n", b"another file")

    assert len(texts) == FIRST_BLOCK + 1
    assert texts[-1].content == "another file"
    [problem] = files.problems
    assert f"a.txt, line {FIRST_BLOCK + 1} is not UTF-8" in problem


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_opened_is_an_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(OSError, match=name):
        TextFiles([name], 255)

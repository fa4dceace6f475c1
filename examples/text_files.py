"""Read texts from files. Each line that is not blank is a text."""

import codecs
import io
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional, TextIO

# The part of a file that is looked at before anything of the file is stored, in bytes.
FIRST_BLOCK = 65_536

# Python's "surrogateescape" puts these characters where a byte is not UTF-8.
NOT_UTF_8 = re.compile("[\ud800-\udfff]")


class Text(NamedTuple):
    content: str
    place: str  # the file and the line, for messages


class TextFiles:
    """Files of texts, which are all opened at once. Iterate over them to read the texts.

    A line that is too long for one text is split. Opening raises OSError, and ValueError
    if the first block of a file shows that it has no texts.
    """

    def __init__(self, paths: Iterable[str], longest: Optional[int]) -> None:
        self.longest = longest  # the most characters of a text, or None without a limit
        self.lines_split = 0
        self.problems: list[str] = []  # lines that ended the reading of a file
        self.files = [(name_file(path), open_file(path)) for path in paths]

    def __iter__(self) -> Iterator[Text]:
        for name, file in self.files:
            try:
                yield from self.read(name, file)
            except ValueError as error:
                # The texts before this line are good, and so are the other files.
                self.problems.append(f"{error} (the file was read up to there)")

    def read(self, name: str, file: TextIO) -> Iterator[Text]:
        """Yield the texts of one file. Raises ValueError for a line that is no text."""
        for number, line in enumerate(file, 1):
            place = f"{name}, line {number}"
            check_line(line, place)
            # Some editors put a mark (BOM) before a file. If files are put one after the
            # other, the mark is inside.
            pieces = split_line(line.rstrip("\n").removeprefix("\ufeff"), self.longest)
            if len(pieces) > 1:
                self.lines_split += 1
            for piece in pieces:
                yield Text(piece, place)


def split_line(line: str, longest: Optional[int]) -> list[str]:
    """Return the texts of a line: none if it is blank, one, or several if it is too long.

    A line is cut at spaces, but a word of more than *longest* characters is cut, too.
    """
    if longest is None or len(line) <= longest:
        return [line] if line.strip() else []

    up_to_a_space = rf"\S.{{0,{longest - 1}}}(?!\S)"
    part_of_a_word = rf"\S{{{longest}}}"
    pieces = re.findall(f"{up_to_a_space}|{part_of_a_word}", line)
    return [piece.rstrip() for piece in pieces]


# %% Open files, and refuse those that have no texts
def name_file(path: str) -> str:
    """Return what messages call a file."""
    return "standard input" if path == "-" else path


def open_file(path: str) -> TextIO:
    """Open a file, or standard input for "-"."""
    if path == "-":
        stream = io.FileIO(0, closefd=False)
    else:
        stream = io.FileIO(path)

    file = io.BufferedReader(stream, FIRST_BLOCK)
    # `peek` returns what will be read first, and does not take it away.
    check_first_block(file.peek(), name_file(path))
    return io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape")


def check_first_block(block: bytes, name: str) -> None:
    """Raise ValueError if a line of the block is no text."""
    # The block may end inside a character. This decoder waits for the rest of it.
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    lines = io.StringIO(decoder.decode(block), newline=None)
    for number, line in enumerate(lines, 1):
        check_line(line, f"{name}, line {number}")


def check_line(line: str, place: str) -> None:
    """Raise ValueError for a line that is no text."""
    advice = "save the file as plain text in UTF-8"
    if "\0" in line:
        raise ValueError(f"{place} has a NUL, as UTF-16 and binary files have; {advice}")
    if NOT_UTF_8.search(line):
        raise ValueError(f"{place} is not UTF-8; {advice}")

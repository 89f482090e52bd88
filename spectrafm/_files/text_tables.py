"""Spectra in tables of text: what stands before their numbers, and how astropy is made to read them."""

import re

from .compressed import begins_with, open_plain, start_of
from .contents import first_line
from .names import KINDS, kind_of
from .table_columns import plain_column, unit_in_name

__all__ = ["text_tables"]

# a number of Fortran in double precision
_FORTRAN = re.compile(r"(?<![\w.+-])([-+]?\d+\.?\d*|[-+]?\.\d+)[dD]([-+]?\d+)(?![\w.])")
# what begins a line of words, where a semicolon does not separate columns
_COMMENTS = "#!%"
_BOM = "\ufeff"
# bytes that are looked at
_LOOK = 65536
# comments in which astropy knows names of columns better: ECSV, DAOPHOT, and SExtractor
_OTHER_FORMATS = re.compile(r"#\s*%ECSV|#[KNUF]\s|#\s*1\s+[A-Za-z_]\w*(\s.*)?\n#\s*2\s")
# of as many columns the order is known without names
_MOST_BARE = 3
# words of sentences, which are no names of columns
_SENTENCE = {"and", "at", "by", "for", "from", "in", "of", "on", "over", "per", "the", "to", "versus", "vs", "with"}


def text_tables(file):
    """Read the table of a file of text.

    Parameters
    ----------
    file : SpectrumFile
        The file; its `causes` get what cannot be read.

    Returns
    -------
    dict of `~astropy.table.Table`
        One, by the place "", or none.
    """
    from astropy.io.ascii import InconsistentTableError
    from astropy.table import Table

    if file.file_format is None and begins_with(file.path, b"<"):
        # astropy would look for tables in HTML
        return {}
    source = _astropy_lines(file)
    if file.causes:
        return {}
    kind = "ascii.ecsv" if file.path.suffix.lower() == ".ecsv" else (file.file_format or "ascii")
    for attempt in dict.fromkeys((kind, "ascii")):
        try:
            table = Table.read(source, format=attempt)
        except EOFError:
            # a compressed file that is cut off
            raise
        # what is no table fails in many ways
        except Exception:
            continue
        # where lines differ in length a guess takes each for a word
        if len(table.columns) > 1 or "," not in table.colnames[0]:
            return {"": table}
    # guesses say nothing that helps
    likely = "ascii.csv" if file.path.suffix.lower() == ".csv" else "ascii.basic"
    try:
        Table.read(source, format=likely, guess=False)
    except InconsistentTableError as error:
        # with one column, or none, it is no table
        if not re.search(r"columns \([01]\)", first_line(error)):
            file.causes["its table"] = first_line(error)
    # no table at all
    except Exception:
        return {}
    return {}


def _astropy_lines(file):
    """Return a file of text as lines that astropy understands, or its path where it does as it is."""
    start = start_of(file.path, _LOOK)
    if b"\0" in start or file.path.suffix.lower() == ".ecsv":
        return file.path
    start = start.decode(errors="replace")
    has_bom, text = start.startswith(_BOM), start.removeprefix(_BOM).lstrip(" \t\r\n")
    # a semicolon separates columns, or begins a comment
    is_separator = bool(re.search(r"(?m)^[^;#!%\n]+;", text))
    signs = _COMMENTS + ";" * (not is_separator)
    # a format that was given says itself what comments are
    is_comment = (
        text[:1] in tuple(signs)
        and (file.file_format or "ascii").lower() == "ascii"
        and not _OTHER_FORMATS.match(text.replace("\r", ""))
    )
    # pandas writes the number of the row before columns with names, and no name for it
    is_index = not is_comment and re.match(r"[,;\t][^\W\d]", start.removeprefix(_BOM))
    header = next((line for line in text.splitlines() if line.strip() and line.lstrip()[0] not in signs), "")
    has_blanks = any(" " in word for word in _words(header)) and not re.search("[,;\t]", header)
    is_count = re.match(rf"(?:\s*[*{re.escape(signs)}].*\n)*\s*\d+(?:[ \t,]+\d+)?[ \t]*\r?\n", text)
    is_odd = has_bom or is_comment or is_index or is_count or has_blanks or is_separator or _FORTRAN.search(text)
    if not (text and is_odd):
        return file.path
    with open_plain(file.path) as opened:
        lines = opened.read().decode(errors="replace").removeprefix(_BOM).splitlines()
    lines = [_FORTRAN.sub(r"\1e\2", line) for line in lines if line.strip()]
    if is_separator:
        lines = [re.sub("[ \t]*;[ \t]*", "\t", line) for line in lines]
    if is_index:
        lines[0] = f"row{lines[0]}"
    data = [number for number, line in enumerate(lines) if line.lstrip()[0] not in f"*{signs}"]
    first, second = ([lines[at].replace(",", " ").split() for at in data[:2]] + [[], []])[:2]
    if is_count and len(first) < len(second) and first[0] == str(len(data) - 1):
        file.causes["its table"] = f"line {data[0] + 1} is the number of its pixels: delete the lines up to this one"
    encoding = ", encoding='utf-8-sig'" * has_bom
    is_bare = bool(data) and _is_number(re.split(r"[\s,;]", lines[data[0]].strip())[0])
    kind = "ascii.no_header" if is_bare else "ascii.basic"
    delimiter = ", delimiter=';'" * is_separator
    file.table_options = (f"format={kind!r}{delimiter}" if is_separator else "format='ascii'") + encoding
    if not is_comment:
        if has_blanks and (names := _names_with_blanks(lines)):
            file.table_options = f"format='ascii.no_header', data_start=1, names={names}{encoding}"
            lines[0] = " ".join(map(_quoted, names))
        return lines
    comments = [line.lstrip()[1:] for line in lines[: data[0] if data else 0]]
    lines = [line for line in lines if line.lstrip()[0] not in signs]
    names, skipped = [], ""
    if is_bare:
        names = _names_in(comments, lines[0])
    elif has_blanks and (names := _names_with_blanks(lines)):
        kind, skipped, lines = "ascii.no_header", ", data_start=1", lines[1:]
    told = f"{skipped}, names={names}" * bool(names)
    file.table_options = f"format={kind!r}{delimiter}, comment='[{signs}]'{told}{encoding}"
    sign = next((sign for sign in ",;\t" if lines and sign in lines[0]), " ")
    return [sign.join(map(_quoted, names)), *lines] if names else lines


def _names_with_blanks(lines):
    """Return the names in the first line, some with blanks before their units, or none where they do not fit."""
    words = _words(lines[0])
    return words if len(lines) > 1 and len(words) == len(lines[1].split()) else []


def _quoted(word):
    return f'"{word}"' if re.search(r"[\s,;]", word) else word


def _words(line):
    """Return the words of a line that are separated by blanks or signs, each with what follows it in brackets."""
    brackets = r"(?<=\w)\s*(\((?:[^()]|\([^()]*\))*\)|\[[^][]*\])"
    kept = re.sub(brackets, lambda found: re.sub(r"\s", "\0", found[0]), line)
    found = re.split(r"\s*[,;|\t]\s*(?![^(]*\)|[^[]*\])|\s+", kept)
    return [re.sub("\0+", " ", word) for word in found if word]


def _names_in(comments, line):
    """Return the names of the columns of a line of numbers that a line of comment gives, or none.

    All words of it are known, or have a unit. Of columns that are so many that nobody knows their order, it names
    those of wavelength and flux, and is no sentence.
    """
    numbers = re.split(r"\s*[,;\t]\s*|\s+", line.strip())
    for comment in comments:
        words = _words(comment.lstrip("#!%; ").strip(" \t,;|"))
        if len(words) != len(numbers) or len({*words}) < len(words):
            continue
        kinds = [_kind(word) for word in words]
        is_sentence = _SENTENCE & {word.lower() for word in words}
        is_named = len(words) > _MOST_BARE and {"wavelength", "flux"} <= {*kinds} and not is_sentence
        if is_named or (None not in kinds and {"wavelength", "log"} & {*kinds}):
            return words
    return []


def _kind(word):
    """Return what a column is by its name as a whole, or None."""
    if unit_in_name(word) is not None:
        return "wavelength"
    kind, rest = kind_of(word)
    return KINDS.get(plain_column(word)) or (kind if not rest else None)


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True

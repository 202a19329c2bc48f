"""The Penn Treebank tokenizer of coco-caption, in Python.

Caption scores are comparable only when captions are tokenized alike. coco-caption (Chen et al.
2015, arXiv:1504.00325) runs Java for it: `PTBTokenizer -preserveLines -lowerCase` of Stanford
CoreNLP 3.4.1, then drops a list of punctuation. `tokenize` returns the same strings.

Every rule of `_RULES` is tried where the last token ended; the longest match wins, and of equally
long ones the first. A rule may require some text after its token (its *context*); the context
counts for the length but is not consumed.

Peculiarities that published scores include, and that are therefore reproduced:
- brackets survive as words ("-lrb-"): the punctuation list has them in upper case only;
- so do "?!", "!!", five or more hyphens, and unusual quotes („);
- £ becomes "#" and € "$"; emoji and unknown characters vanish;
- "1 1/2" and telephone numbers contain a no-break space: one word for ROUGE-L, two for the others;
- the end of a caption may depend on the next one: "plan B." before a line that starts with "The"
  gives "b", else "b.". So the order of captions matters slightly.

There are two differences: a carriage return, form feed or line separator inside a caption is a
space here (in Java it shifts all captions that follow to the wrong images), and upper-case letters
that are new in Unicode (Ɤ, U+A7CB) are lowered as Python's release does, not Java's.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from jaxtag.metrics.captioning import abbreviations
from jaxtag.metrics.captioning.characters import DIGITS, LETTERS, MARKS, SYMBOLS

_QUOTES_AND_BRACKETS = ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-"]
PUNCTUATION = frozenset([*_QUOTES_AND_BRACKETS, *".?!,:-;", "--", "..."])


def tokenize(captions: Iterable[str]) -> list[str]:
    """Tokenizes captions as coco-caption does.

    Args:
        captions: any text. A caption is one line: line breaks within it count as spaces.

    Returns:
        The words of each caption in lower case, without punctuation, joined by single spaces; ""
        where nothing is left.
    """
    lines = [_LINE_BREAK.sub(" ", caption) for caption in captions]
    if not lines:
        return []
    text = _scan("\n".join(lines))
    return [
        " ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION)
        for line in text.split("\n")
    ]


_LINE_BREAK = re.compile("[\n\r\v\f\u2028\u2029]")


# ---- Functions from matched text to token ----


def _keep(text: str) -> str:
    return text


def _stop(text: str) -> str:
    """Any punctuation that is dropped in the end."""
    return "."


def _plain(text: str) -> str:
    """Removes soft hyphens, which only mark where a word may be broken."""
    return text.replace("\xad", "") or "-"


def _unspaced(text: str) -> str:
    return text.replace(" ", "\xa0")


def _brackets(text: str) -> str:
    return text.replace("(", "-LRB-").replace(")", "-RRB-")


def _telephone(text: str) -> str:
    return _brackets(_unspaced(text))


def _ampersand(text: str) -> str:
    return re.sub("(?i:&amp;)", "&", text)


def _quotes(text: str) -> str:
    """Converts quotes to those of LaTeX."""
    for pattern, replacement in (
        ("&apos;|[\x92\u2019\u203a]", "'"),
        ('&quot;|["\x94\u201d\xbb]', "''"),
        ("[\x91\u2018\u201b\u2039]", "`"),
        ("[\x93\u201c\xab]", "``"),
    ):
        text = re.sub(pattern, replacement, text)
    return text


_MONEY = {"\xa2": "cents", "\xa3": "#", "\x80": "$", "\xa4": "$", "\u20a0": "$", "\u20ac": "$"}
_FRACTIONS = {"\xbc": "1/4", "\xbd": "1/2", "\xbe": "3/4", "\u2153": "1/3", "\u2154": "2/3"}


def _money(text: str) -> str:
    return _MONEY.get(text, text)


def _fraction(text: str) -> str:
    return _FRACTIONS.get(text, text)


# ---- Parts of patterns. (?i:…) ignores case; everything else is case-sensitive. ----

_D = f"[{DIGITS}]"
_L = f"[{LETTERS}]"  # a letter proper
_LD = f"[{LETTERS}{DIGITS}]"
_ACCENT = "&[aeiouAEIOU](?i:acute|grave|uml);"
_WL = f"(?:[{LETTERS}{MARKS}]|{_ACCENT})"  # what a word may start with
_WLD = f"(?:[{LETTERS}{MARKS}{DIGITS}]++|{_ACCENT})"  # … and go on with, once or more
_WORD = f"{_WL}{_WLD}*+(?:[.!?]{_WL}{_WLD}*+)*+"
_APOS = "(?:['\x92\u2019]|(?i:&apos;))"
_TICK = "(?:['\x92\u2019`\x91\u2018\u201b]|(?i:&apos;))"
_CLITIC = f"{_APOS}(?:[msdMSD]|(?i:re|ve|ll))"
_NOT = f"(?i:n){_TICK}(?i:t)"
_SPACE = "[ \t\xa0\u2000-\u200a\u3000]"
_SPACE_OR_BREAK = "[ \t\xa0\u2000-\u200a\u3000\n\x85]"
_INNER_STOP = "[,;:\u3001]"  # punctuation within a sentence
_AMP = "(?:&(?i:amp;)?)"
_INITIALS = r"[A-Za-z](?:\.[A-Za-z])*"
_UNIONS = r"(?:(?i:Canada|Sino|Korean|EU|Japan|non)-(?i:U\.S)|(?i:U\.S\.-(?:U\.S\.S\.R|U\.K)))"
_ELIDED = f"(?:[dDoOlL]{_TICK}{_LD})?"  # d', o', l' before a word
_HYPHEN = "[-_\u058a\u2010\u2011]"
_THING = f"{_ELIDED}{_LD}+(?:{_HYPHEN}{_ELIDED}{_LD}+)*"
_CAPITALS = "[A-Z]+(?:(?:&(?i:amp);|[+&])[A-Z]+)+"
_HYPHENED = (
    r"[A-Za-z0-9][A-Za-z0-9.,\xad]*"
    rf"(?:-(?:(?:{_UNIONS}|[A-Za-z](?:\.[A-Za-z])+)\.|[A-Za-z0-9\xad]+))+"
)
_NOT_URL = r' \t\n\f\r"<>|(){}'
_PATH = r'(?:/[^ \t\n\f\r"<>|()]+[^ \t\n\f\r"<>|.!?(){},-])?'
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_TAG = (
    rf"<(?:[!?][A-Za-z\-][^>\r\n]*"
    rf"|{_TAG_NAME}(?:[ ]+{_TAG_NAME}(?:[ ]*=[ ]*(?:'[^']*'|\"[^\"]*\"))?)*[ ]*/?"
    rf"|/{_TAG_NAME})[ ]*>"
)
_NUMBER = f"(?:{_D}+(?:[.:,\xad\u066b\u066c]{_D}+)*|(?:[.:,\xad\u066b\u066c]{_D}+)+)"
_SENTENCE_STARTS = (
    "About According Additionally After An A As At But Earlier He Her Here However If In It Last "
    "Many More Mr\\. Ms\\. Now Once One Other Our She Since So Some Such That The Their Then There "
    "These They This We When While What Yet You"
)
_SENTENCE_START = "|".join(
    f"{word[0]}(?i:{word[1:]})" if word[1:] else word for word in _SENTENCE_STARTS.split()
)


class _Rule(NamedTuple):
    """How to match a token.

    Attributes:
        starts: kinds of first characters to try it at: a letter or mark (L), a digit (D), any other
            (S).
        pattern: group 1, if there is one, is the token, and the rest its context.
        convert: from the matched text to the token.
    """

    starts: str
    pattern: re.Pattern[str]
    convert: Callable[[str], str] = _keep


_BRACKETS = {"{": "-LCB-", "}": "-RCB-", "[": "-LSB-", "]": "-RSB-", "(": "-LRB-", ")": "-RRB-"}
_RULES: tuple[tuple[str, str] | tuple[str, str, Callable[[str], str]], ...] = (
    # Words and clitics.
    ("L", r"(?i:c)\+\+"),
    ("L", r"(?i:c|f)#"),
    ("L", "((?i:can))(?i:not)"),
    ("S", "('(?i:t))(?i:was|is)"),
    ("L", "((?i:gon|wan))(?i:na)"),
    ("L", "((?i:got))(?i:ta)"),
    ("L", "((?i:lem|gim))(?i:me)"),
    ("S", _TAG, _unspaced),
    ("S", "(?i:&(?:MD|mdash|ndash);)|[\x96\x97\u2013-\u2015]", _stop),
    ("S", "(?i:&amp;)", _ampersand),
    ("S", "&(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);"),
    ("LS", f"({_WORD}){_CLITIC}", _plain),
    ("L", rf"([A-Za-z\xad]*[A-MO-Za-mo-z]\xad*){_NOT}", _plain),
    ("LS", _WORD, _plain),
    # Words that hold an apostrophe.
    ("S", f"{_APOS}(?i:n){_APOS}?"),
    ("S", f"{_APOS}(?:(?i:em|cause|till?)|[2-9]0(?i:s))"),
    ("L", f"(?:[lLdDjJ]|(?i:Dunkin|somethin|ol)){_APOS}"),
    ("L", f"[A-HJ-XZn]{_TICK}{_L}{{2,}}"),
    ("L", f"{_L}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]{_L}*"),
    ("L", r"(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)"),
    ("L", f"(?i:O){_TICK}(?i:o)"),
    ("L", f"((?i:y){_APOS}){_L}"),
    # Internet addresses.
    ("L", rf"(?i:https?)://[^{_NOT_URL}]+[^{_NOT_URL}.!?,\-]"),
    ("L", rf"(?i:www)\.(?:[^{_NOT_URL}.!?,]+\.)+[a-zA-Z]{{2,4}}{_PATH}"),
    ("LDS", rf"(?:[^{_NOT_URL}.!?`'$,-_]+\.)+(?i:com|net|org|edu){_PATH}"),
    (
        "LDS",
        rf"(?:(?i:&lt;)|<)?[a-zA-Z0-9][^{_NOT_URL}\xa0]*@(?:[^{_NOT_URL}.\xa0]+\.)*"
        rf"[^{_NOT_URL}.\xa0]+>?",
    ),
    ("S", "@[a-zA-Z_][a-zA-Z_0-9]*"),
    ("S", f"#{_WL}+"),
    ("S", f"({_CLITIC})[^A-Za-z]", _quotes),
    ("L", f"({_NOT})[^A-Za-z]", _quotes),
    # Numbers, dates, fractions, money.
    ("D", rf"{_D}{{1,2}}[\-/]{_D}{{1,2}}[\-/]{_D}{{2,4}}"),
    ("DLS", rf"[\-+]?{_NUMBER}", _plain),
    ("LS", "[\u207a\u207b\u208a\u208b]?(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)"),
    ("D", rf"(?:{_D}{{1,4}}[- \xa0])?{_D}{{1,4}}(?:\\?/|\u2044){_D}{{1,4}}", _unspaced),
    ("S", "[\xbc-\xbe\u2153-\u215e]", _fraction),
    ("LS", "(?i:-(?:RRB|LRB|RCB|LCB|RSB|LSB)-)|(?i:pro-|anti-)"),
    ("L", rf"(?i:C\.D\.s|Cap{_APOS}n|c{_APOS}est)"),
    ("L", rf"(?i:S){_AMP}(?i:P-500|Ls)", _ampersand),
    ("LD", r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}"),
    ("LS", r"[A-Z]*\$|#"),
    ("S", "[\xa2-\xa5\x80\u20a0\u20a4\u20ac\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6]", _money),
    # Abbreviations.
    ("L", rf"([A-Za-z])\.{_SPACE_OR_BREAK}+(?:{_SENTENCE_START}|{_TAG}){_SPACE_OR_BREAK}"),
    (
        "L",
        rf"((?:[A-Za-z](?:\.[A-Za-z])+|{_UNIONS})\.){_SPACE_OR_BREAK}+"
        rf"(?:{_SENTENCE_START}|{_TAG}){_SPACE_OR_BREAK}",
    ),
    ("L", rf"({abbreviations.BEFORE_NUMBER}\.){_SPACE_OR_BREAK}?{_D}"),
    ("L", rf"((?i:pt)[eyEY]\.){_SPACE}(?i:ltd|lim)"),
    ("L", rf"((?:{abbreviations.COMMON})\.).."),
    ("L", rf"(?:{abbreviations.COMMON}|{abbreviations.TITLES}|{_UNIONS}|{_INITIALS})\."),
    ("L", rf"({_UNIONS}){_SPACE_OR_BREAK}"),
    ("S", f"({_APOS}[0-9][0-9]){_SPACE_OR_BREAK}"),
    (
        "LDS",
        rf"({_WLD}++(?:\.{_WLD}++)*\.{abbreviations.FILE_ENDINGS})(?:{_SPACE_OR_BREAK}|[.?!,])",
    ),
    ("LS", rf"({_WORD}\.){_INNER_STOP}", _plain),
    # Telephone numbers.
    (
        "DS",
        r"(?:\([0-9]{2,3}\)[ \xa0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \xa0])?[0-9]{2,4}[\- \xa0])"
        r"[0-9]{3,4}[\- \xa0]?[0-9]{3,5}",
        _telephone,
    ),
    ("DS", r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"),
    # Punctuation.
    ("S", '"|(?i:&quot;)', _quotes),
    ("S", "<|(?i:&lt;)", lambda text: "<"),
    ("S", ">|(?i:&gt;)", lambda text: ">"),
    ("S", r"([<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]", _brackets),
    ("LS", r"[\^x=~<>]\.\[\^(?i:x)=[^<]*<>\]|[\-\^x=~<>']_[\-\^x=~<>']", _brackets),
    ("S", r"\([\-\^x=~<>'][_.]?[\-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", _brackets),
    ("S", r"[{}\[\]()]", lambda text: _BRACKETS[text]),
    ("S", "-{1,4}", _stop),
    ("S", "-{5,}"),
    ("S", "\\.{3,5}|(?:\\.[ \xa0]){2,4}\\.|[\x85\u2026]", _stop),
    ("S", r"@+|#+|_+|\*+|(?:\\\*){1,3}"),
    ("S", f"{_INNER_STOP}"),
    ("S", "[?!]+"),
    ("S", "[.=/]"),
    # Other compounds with hyphens, underscores or "&".
    ("LD", rf"({_HYPHENED}\.){_INNER_STOP}", _plain),
    ("LD", _HYPHENED, _plain),
    ("LD", rf"({_THING}\.){_INNER_STOP}"),
    ("LD", _THING),
    ("L", rf"({_CAPITALS}\.){_INNER_STOP}", _ampersand),
    ("L", _CAPITALS, _ampersand),
    # Quotes and symbols that stand alone.
    ("S", "(')[A-Za-z][^ \t\n\r\xa0]", _stop),
    ("S", _CLITIC, _quotes),
    ("L", _NOT, _quotes),
    ("S", "[`\u2018-\u201f\x91-\x94\u2039\u203a\xab\xbb]{1,2}|''", _quotes),
    ("S", _APOS, _quotes),
    ("S", "<<|>>"),
    ("S", f"[{SYMBOLS}]"),
    ("S", f"{_SPACE}+|(?i:&nbsp;)", lambda text: ""),
)


@lru_cache(maxsize=1)
def _rules() -> list[_Rule]:
    """The compiled rules; made on first use, since compiling takes a tenth of a second."""
    return [_Rule(row[0], re.compile(row[1], re.DOTALL), *row[2:]) for row in _RULES]


@lru_cache(maxsize=4096)
def _candidates(character: str) -> list[_Rule]:
    """The rules that may match where this character is the first."""
    kind = "S"
    if re.match(f"[{LETTERS}{MARKS}]", character):
        kind = "L"
    elif re.match(_D, character):
        kind = "D"
    return [rule for rule in _rules() if kind in rule.starts]


# Most of a caption needs no rules: a word of ASCII letters before a space (or comma and space) is a
# token, except for those that the first rules split.
_EASY = re.compile(r"[ ]*+([A-Za-z]++)(?:,?(?=[ \n]))")
_SPLIT = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])


def _scan(text: str) -> str:
    """Tokenizes a text of one caption per line; tokens are joined by spaces, line by line."""
    astral = not text.isascii() and max(text) > "\uffff"
    if astral:  # the rules count UTF-16 units, as Java does
        text = _recode(text, split=True)
    lines: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        easy = _EASY.match(text, position)
        if easy and easy[1].lower() not in _SPLIT:
            lines[-1].append(easy[1])
            position = easy.end()
            continue
        if text[position] == "\n":
            lines.append([])
            position += 1
            continue
        token, position = _next(text, position)
        if token:
            lines[-1].append(token)
    joined = "\n".join(map(" ".join, lines))
    if astral:
        joined = _recode(joined, split=False)
    return joined.lower()


def _next(text: str, start: int) -> tuple[str, int]:
    """The token at `start` ("" for dropped characters) and the start of the next one."""
    best: tuple[re.Match[str], _Rule] | None = None
    longest = 0
    for rule in _candidates(text[start]):
        match = rule.pattern.match(text, start)
        if match and match.end() > longest:
            best, longest = (match, rule), match.end()
    if best is None:  # emoji, unknown characters
        return "", start + 1
    match, rule = best
    group = 1 if rule.pattern.groups else 0
    return rule.convert(match[group]), match.end(group)


def _recode(text: str, *, split: bool) -> str:
    """Splits characters beyond the basic plane into surrogates (`split`), or joins them again."""
    data = text.encode("utf-16-le", "surrogatepass")
    if split:
        return "".join(map(chr, memoryview(data).cast("H")))
    return data.decode("utf-16-le", "ignore")

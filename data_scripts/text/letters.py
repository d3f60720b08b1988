"""English words no dictionary holds: letters to ARPAbet, and acronyms letter by letter."""

from __future__ import annotations

import re
import unicodedata

LETTER_NAMES = {
    "a": "EY1", "b": "B IY1", "c": "S IY1", "d": "D IY1", "e": "IY1", "f": "EH1 F", "g": "JH IY1", "h": "EY1 CH",
    "i": "AY1", "j": "JH EY1", "k": "K EY1", "l": "EH1 L", "m": "EH1 M", "n": "EH1 N", "o": "OW1", "p": "P IY1",
    "q": "K Y UW1", "r": "AA1 R", "s": "EH1 S", "t": "T IY1", "u": "Y UW1", "v": "V IY1",
    "w": "D AH1 B AH0 L Y UW0", "x": "EH1 K S", "y": "W AY1", "z": "Z IY1",
}  # fmt: skip
# How the letters are called in Vietnamese: GDP is "gi đi pi" or "giê đê pê".
VIETNAMESE_LETTER_NAMES = {
    "a": "a", "b": "bê", "c": "xê", "d": "đê", "đ": "đê", "e": "e", "f": "ép", "g": "giê", "h": "hát", "i": "i",
    "j": "gi", "k": "ca", "l": "lờ", "m": "mờ", "n": "nờ", "o": "o", "p": "pê", "q": "quy", "r": "rờ", "s": "ét",
    "t": "tê", "u": "u", "v": "vê", "w": "vê kép", "x": "ích", "y": "i", "z": "dét",
}  # fmt: skip

# Longest first; the first rule whose letters match and whose context holds applies. Context is a pattern tried on
# what follows the letters. Magic e: one consonant, then a final e, makes the vowel long.
_MAGIC = r"(?=[bcdfgklmnpstvz]e(?:s|d)?$)"
_RULES_TEXT = rf"""
tion$|SH AH0 N
tions$|SH AH0 N Z
sion$|ZH AH0 N
cian$|SH AH0 N
ture$|CH ER0
sure$|ZH ER0
tial$|SH AH0 L
cial$|SH AH0 L
tious$|SH AH0 S
cious$|SH AH0 S
ious$|IY0 AH0 S
ous$|AH0 S
able$|AH0 B AH0 L
ible$|AH0 B AH0 L
ough|AO1
augh|AO1
eigh|EY1
igh|AY1
tch|CH
sch|S K
dge|JH
que$|K
gue$|G
ck|K
ch|CH
sh|SH
ph|F
th|TH
wh|W
gh|G
qu|K W
^kn|N
^gn|N
^wr|R
^ps|S
^x|Z
mb$|M
sc(?=[eiy])|S
cc(?=[eiy])|K S
c(?=[eiy])|S
g(?=[eiy])|JH
ng$|NG
ng(?=[^aeiouy])|NG
nk|NG K
x|K S
eau|OW1
air|EH1 R
are$|EH1 R
ear|IH1 R
eer|IH1 R
ier|IH1 R
oar|AO1 R
oor|AO1 R
our|AO1 R
ure$|Y UH1 R
ire$|AY1 ER0
ore$|AO1 R
ar|AA1 R
er$|ER0
or$|ER0
er|ER1
ir|ER1
or|AO1 R
ur|ER1
ai|EY1
ay|EY1
au|AO1
aw|AO1
ea|IY1
ee|IY1
ei|IY1
ey$|IY0
eu|Y UW1
ew|UW1
ie$|IY0
ie|IY1
oa|OW1
oe|OW1
oi|OY1
oo|UW1
ou|AW1
ow$|OW1
ow|AW1
oy|OY1
ue$|UW1
ui|UW1
a{_MAGIC}|EY1
e{_MAGIC}|IY1
i{_MAGIC}|AY1
o{_MAGIC}|OW1
u{_MAGIC}|UW1
y{_MAGIC}|AY1
le$|AH0 L
les$|AH0 L Z
ed$|D
es$|Z
a$|AH0
e$|
i$|IY0
o$|OW0
u$|UW0
y$|IY0
^y(?=[aeiou])|Y
y(?=[aeiou])|Y
on$|AH0 N
en$|AH0 N
an$|AH0 N
al$|AH0 L
el$|AH0 L
y|IH1
a|AE1
e|EH1
i|IH1
o|AA1
u|AH1
b|B
c|K
d|D
f|F
g|G
h|HH
j|JH
k|K
l|L
m|M
n|N
p|P
q|K
r|R
s|S
t|T
v|V
w|W
z|Z
"""
_RULES = [
    (re.compile(pattern), tuple(phones.split()))
    for pattern, _, phones in (line.rpartition("|") for line in _RULES_TEXT.split("\n") if line)
]
_RULES_OF_LETTER = {
    letter: [rule for rule in _RULES if rule[0].pattern.lstrip("^").startswith(letter)] for letter in LETTER_NAMES
}
_VOWEL_PHONE = re.compile(r"[A-Z]{2}[012]$")
_FOLDED = str.maketrans({"đ": "d", "ð": "d", "ø": "o", "ß": "ss", "æ": "ae", "œ": "oe", "ł": "l", "ı": "i", "þ": "th"})


def fold(word: str) -> str:
    """Lower-case a to z and apostrophes of a Latin word ("café" -> "cafe"); what cannot be folded stays."""
    decomposed = unicodedata.normalize("NFD", word.lower().translate(_FOLDED))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def letters_to_sounds(word: str) -> list[str]:
    """ARPAbet of an a-z word by English spelling rules: rough, but never empty and always with a vowel."""
    phones: list[str] = []
    place = 0
    # A doubled consonant is one sound, except cc before e or i.
    squeezed = re.sub(r"([bdfgjklmnpqrstvwxz])\1", r"\1", word)
    while place < len(squeezed):
        for pattern, sounds in _RULES_OF_LETTER.get(squeezed[place], ()):
            match = pattern.match(squeezed, place)
            if match:
                phones += sounds
                place = match.end()
                break
        else:
            place += 1
    if not any(_VOWEL_PHONE.match(phone) for phone in phones):
        return spell_out(word)
    return phones


def spell_out(word: str) -> list[str]:
    """ARPAbet of the English names of the letters."""
    return [phone for letter in word if letter in LETTER_NAMES for phone in LETTER_NAMES[letter].split()]


def looks_like_acronym(word: str) -> bool:
    """Whether a word the dictionaries lack is said letter by letter: no vowel letter, or no sayable cluster."""
    return not re.search(r"[aeiouy]", word) or (len(word) <= 4 and not re.search(r"[^aeiouy]{0,2}[aeiouy]", word))

"""What can be counted in a text: numbers, years, punctuation, word lists, scripts. MODEL.md defines each number.

The encoder sees these things badly, and instructions ask for them: dates, lengths, languages, figures, quotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WORD_LISTS = {
    "first person": "i i'm i've i'd me my mine myself we we're our ours us",
    "second person": "you you're your yours yourself",
    "negation": "no not never none nothing nobody neither nor without cannot lack lacks",
    "hedge": "may might could perhaps possibly possible probably likely suggest suggests suggested appears appear seems seem potential potentially",
    "duty": "must should shall required requires need needs",
    "example": "example examples instance e.g eg such including",
    "cause": "because cause causes caused due therefore thus hence result results leads since why",
    "past": "was were had did been",
    "present": "is are has does be",
    "question": "what which who whom whose when where why how is are do does can did could would",
    "personal": "blog forum post comment user users diary experience opinion review",
    "official": "official government ministry federal agency national university institute department organization",
}
"""Words counted in a document; `question` counts only as the first word."""
LANGUAGES = {
    "english": "the of and to in is that for it with as are on",
    "german": "der die das und ist von mit den nicht ein eine auf für im dem zu",
    "french": "le la les et des est une du que dans pour un sur au",
    "spanish": "el la los las y que en es una del por para con se",
    "italian": "il la di che è un una per del con sono gli non della",
    "portuguese": "o a os as e que do da em um uma para não com",
    "dutch": "de het een van en is niet dat op te voor met zijn",
    "romanian": "și de la în a cu pe un o este din care pentru nu",
    "turkish": "ve bir bu için ile da de olarak olan çok en",
    "vietnamese": "và của là một được trong các có cho với không",
    "polish": "i w na z do nie się jest to że o dla",
    "swedish": "och att det som en är på av för med den inte",
}
"""Languages of the Latin script, by frequent words."""
SCRIPTS = {
    "greek": (0x370, 0x3FF),
    "russian": (0x400, 0x4FF),
    "hebrew": (0x590, 0x5FF),
    "arabic": (0x600, 0x6FF),
    "hindi": (0x900, 0x97F),
    "thai": (0xE00, 0xE7F),
    "korean": (0xAC00, 0xD7AF),
    "japanese": (0x3040, 0x30FF),
    "chinese": (0x4E00, 0x9FFF),
}
"""Languages by the code points of their script."""
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~“”„«»…"
QUOTES, MONEY, CODE = '"“”„«»', "$€£%", "{}<>|=_/\\`*#"
LANGUAGE_WEIGHT, WORD_WEIGHT = 4.0, 8.0
DOCUMENT_FACTS, PAIR_FACTS = 12 + len(WORD_LISTS) + len(LANGUAGES) + len(SCRIPTS), 7
FACTS = DOCUMENT_FACTS + PAIR_FACTS
_LISTS = [frozenset(words.split()) for words in WORD_LISTS.values()]
_LANGUAGES = [frozenset(words.split()) for words in LANGUAGES.values()]
LANGUAGE_NAMES = (*LANGUAGES, *SCRIPTS)


def numbers(text: str) -> list[tuple[int, int]]:
    """Maximal runs of one to nine ASCII digits: (value, end of the run)."""
    found, at = [], 0
    while at < len(text):
        if "0" <= text[at] <= "9":
            start = at
            while at < len(text) and "0" <= text[at] <= "9":
                at += 1
            if at - start <= 9:
                found.append((int(text[start:at]), at))
        at += 1
    return found


def first_year(text: str) -> int:
    """The first number from 1500 to 2099; 0 if there is none."""
    return next((value for value, _ in numbers(text) if 1500 <= value < 2100), 0)


def word_limit(text: str) -> int:
    """The first number that is followed by a space and "word"; 0 if there is none."""
    return next((value for value, end in numbers(text) if value and text[end : end + 5].lower() == " word"), 0)


@dataclass(frozen=True)
class Asked:
    """What an instruction names: a year, a number of words, a language (its place in LANGUAGE_NAMES); 0, 0, -1 if not."""

    year: int
    words: int
    language: int

    @staticmethod
    def of(instruction: str) -> Asked:
        pieces = [piece.strip(PUNCTUATION).lower() for piece in instruction.split()]
        language = next((LANGUAGE_NAMES.index(piece) for piece in pieces if piece in LANGUAGE_NAMES), -1)
        return Asked(first_year(instruction), word_limit(instruction), language)


@dataclass(frozen=True)
class Counted:
    """What is counted in a document: the facts that need no instruction, its first year and number of words."""

    facts: np.ndarray
    year: int
    words: int
    languages: tuple[float, ...]

    @staticmethod
    def of(text: str) -> Counted:
        pieces = text.split()
        words = [piece.strip(PUNCTUATION).lower() for piece in pieces]
        total, characters = max(len(pieces), 1), max(sum(map(len, pieces)), 1)
        year = first_year(text)
        values = numbers(text)

        def share(count: float, weight: float = WORD_WEIGHT) -> float:
            return min(1.0, weight * count / total)

        def characters_of(among: str) -> int:
            return sum(character in among for character in text)

        languages = [share(sum(word in listed for word in words), LANGUAGE_WEIGHT) for listed in _LANGUAGES]
        for low, high in SCRIPTS.values():
            inside = sum(low <= ord(c) <= high for c in text)
            languages.append(min(1.0, LANGUAGE_WEIGHT * inside / characters))
        lists = [share(sum(word in listed for word in words)) for listed in _LISTS]
        at = list(WORD_LISTS).index("question")
        lists[at] = float(bool(words) and words[0] in _LISTS[at])
        facts = [
            float(np.log(1 + len(pieces))) / 5,
            share(sum(any("0" <= c <= "9" for c in piece) for piece in pieces), 4.0),
            float(bool(values)),
            float(year > 0),
            (year - 2000) / 20 if year else 0.0,
            float("?" in text),
            min(1.0, characters_of(QUOTES) / 4),
            float(characters_of(MONEY) > 0),
            min(1.0, 10 * characters_of(CODE) / characters),
            min(1.0, 4 * sum("A" <= c <= "Z" for c in text) / characters),
            float(text[:1] == "["),
            float(":" in text[:60]),
        ]
        return Counted(np.array(facts + lists + languages, np.float32), year, len(pieces), tuple(languages))


def facts(asked: Asked, document: Counted) -> np.ndarray:
    """[FACTS]: the document's own, then its year, words and language compared with those that the instruction names."""
    both = asked.year > 0 and document.year > 0
    pair = [
        float(both and document.year > asked.year),
        float(both and document.year == asked.year),
        float(both and document.year < asked.year),
        float(asked.words > 0 and document.words > asked.words),
        float(asked.words > 0 and document.words == asked.words),
        float(asked.words > 0 and document.words < asked.words),
        document.languages[asked.language] if asked.language >= 0 else 0.0,
    ]
    return np.concatenate([document.facts, np.array(pair, np.float32)])

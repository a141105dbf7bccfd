"""Written instructions for the gate, beyond those of the training rows.

Neutral ones describe the task or the collection, or cannot be understood: the gate has to be 0 for them.
Asking ones have the same frames, but say which of the relevant texts are wanted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SUBJECTS = (
    "web search", "scientific", "medical", "legal", "financial", "biomedical", "consumer health", "technical", "programming",
    "customer support", "e-commerce", "product", "travel", "cooking", "news", "history", "geography", "sports", "music", "physics",
    "chemistry", "biology", "mathematics", "engineering", "aerodynamics", "climate", "COVID-19", "insurance", "tax", "banking",
    "employment", "education", "entertainment", "automotive", "real estate", "privacy", "cybersecurity", "Linux", "database",
    "open-domain", "trivia", "multi-hop", "factoid", "academic", "patent", "public health", "nutrition", "argument", "philosophy",
)  # fmt: skip
QUERIES = (
    "query", "question", "search query", "user query", "request", "title", "keyword query", "topic", "statement", "claim", "headline",
    "problem description", "information need", "user question",
)  # fmt: skip
TEXTS = (
    "passages", "documents", "texts", "paragraphs", "abstracts", "articles", "web pages", "answers", "posts", "snippets", "sections",
    "papers", "reports", "entries", "records", "sentences", "chunks", "candidates", "results", "manual pages",
)  # fmt: skip
RELATIONS = (
    "answer the {q}", "are relevant to the {q}", "match the {q}", "best answer the {q}", "are about the {q}", "address the {q}",
    "help to answer the {q}", "contain the answer", "respond to the {q}", "satisfy the {q}", "resolve the {q}",
    "are related to the {q}", "support or refute the {q}", "discuss the {q}", "contain the information that is asked for",
    "provide evidence on the {q}", "cover the topic of the {q}", "are useful for the {q}",
)  # fmt: skip
FRAMES = (
    "Given a {s} {q}, retrieve relevant {t} that {r}.", "Given a {s} {q}, retrieve {t} that {r}.", "Given a {q}, retrieve {t} that {r}.",
    "Given a {s} {q}, find {t} that {r}", "Retrieve {t} that {r}.", "Find {t} that {r}.", "Rank the {t} by how well they {r}.",
    "Rank {s} {t} by relevance to the {q}.", "Represent the {s} {q} for retrieving {t}.", "Judge whether the {t} {r}.",
    "Sort the {t} so that those that {r} come first.", "You are a search engine for {s} {t}. Return those that {r}.",
    "The {t} come from a {s} collection. Find those that {r}.", "This is a {s} search. {T} that {r} are relevant.",
    "I have a {s} {q}. Which {t} {r}?", "Please order these {t} by relevance.", "Which of the {t} {r}?",
    "Your task is {s} retrieval: {t} that {r} should be ranked above {t} that do not.", "{s} search", "{s} question answering",
    "Search relevant {t} for the {q}.", "Relevant: {t} that {r}. Not relevant: all others.",
    "You will see a {s} {q} and several {t}. Put the {t} that {r} at the top, and unrelated ones at the bottom.",
    "{T} are considered relevant when they {r}, even if they use other words than the {q}.", "Instruct: retrieve {t} that {r}",
    "Score each of the {t} from 0 to 10 for how well it fits the {q}.", "Help me find {s} {t} that {r}.",
    "Use the {q} to find {t}. The most relevant {t} are to be ranked first and the least relevant last.",
    "The user asks a {s} {q}. The {t} were found by keyword search. Rerank them: first those that {r}.",
)  # fmt: skip
WANTED = (
    "refute the {q}", "contradict the {q}", "argue against the {q}", "support the {q}", "argue for the {q}", "agree with the {q}",
    "deny the {q}", "are short", "are brief", "are long", "go into detail", "are detailed", "are recent", "are old", "were written last",
    "were published after 2015", "date from before 2000", "come from official sources", "come from the government",
    "come from a university", "were written by private persons", "are written for children", "are written for experts",
    "are written for beginners", "contain numbers", "contain figures and dates", "contain code", "contain an example",
    "contain a quotation", "give a definition", "give a cause", "describe the treatment", "describe symptoms", "describe side effects",
    "tell how to do it step by step", "are in German", "are in Spanish", "are not in English", "are about Canada", "do not mention money",
    "mention a price", "do not mention the price", "have good ratings", "are critical", "are positive", "report a negative result",
    "report the methods", "give the conclusion", "state their finding with certainty", "are hedged", "are cautious", "name a person",
    "name a place", "are opinions", "are facts", "are news", "are statutes", "are peer reviewed", "are primary sources",
    "are reviews of other work", "work on Windows", "are for version 3", "use only free software", "are vegetarian", "contain no nuts",
    "favour the user", "favour the company", "oppose it", "show the downsides", "show the advantages", "were said by the customer",
)  # fmt: skip
"""What a text can be asked to do or be; the first seven name the query."""
PREFERENCES = (
    "Prefer {t} that {w}.", "Prefer {t} that {r} and {w}.", "{T} that {w} count more than others.", "{T} that {w} are a plus.",
    "Among {t} that {r}, prefer those that {w}.", "If several {t} {r}, put those that {w} first.", "Ideally the {t} {w}.",
    "Rank by relevance; of equally good {t} those that {w} come first.", "Prefer short {t} that {r}.", "Prefer long {t} that {r}.",
    "Prefer recent {t} that {r}.", "Prefer official {t} that {r}.", "Prefer older {t} that {r}.", "Prefer simple {t} that {r}.",
    "Short {t} that {r} first.", "Newest {t} that {r} first.", "Prefer {t} that {w}. Other {t} come last.",
    "{T} that {w} first, then {t} that {r}.", "Prefer {s} {t} that {w}, then other {s} {t}.", "I like {t} that {w}.",
    "Rank by authority on the {q}: {s} {t} that {w} first, then commentary.", "Rank by quality: {t} that {w} first, bare opinion last.",
    "Prefer {s} sources. {T} that {w} count more than {s} {t} that do not.", "{s} sources first, the others last.",
)  # fmt: skip
STRESS = (
    "Only {t} that {w}.", "{T} that {w} first.", "Those that {w} come first.",
    "No {t} that {w}.", "Do not show {t} that {w}.", "I want {t} that {w}.", "Leave out {t} that {w}.", "It is not enough that {t} {r}; I need those that {w}.",
    "Given a {q}, retrieve {t} that {w}.", "Given a {s} {q}, retrieve {t} that {w}", "Given a {q}, find {t} that {r} and {w}.",
    "Rank {t} that {w} above those that do not.", "Find {t} that {w}.", "{T} have to {r} and should be those that {w}.",
    "You are a search engine for {s} {t}. Return those that {w}.", "Retrieve {t} that {r} but only if they are ones that {w}.",
)  # fmt: skip
SHORT = (
    "Rank by relevance.", "Relevance", "Be helpful.", "Think step by step.", "Best first.", "Most relevant first", "n/a", "none", "None.",
    "-", ".", "...", "?", "default", "no instruction", "No preference.", "Anything goes.", "test", "hello", "Hi there!", "Thank you!", "ok",
    "Do a good job.", "Please be careful.", "Take your time.", "Rerank", "rerank the documents", "search", "Do what you do best.",
    "You are a helpful assistant.", "You are an expert in information retrieval.", "It does not matter how long the texts are.",
    "All kinds of sources are welcome.", "I don't care about dates.", "Every side of the matter counts.", "Any language will do.",
    "Old and new texts are equally welcome.", "Answer the question.", "Find the answer.", "What is relevant?", "TODO",
    "Ignore formatting.", "The documents are in no particular order.", "Some documents may be irrelevant.", "quality results only",
    "Use your judgement.", "Only relevance counts.", "Nothing special.", "Standard ranking please", "As usual.", "see above",
)  # fmt: skip
SENTENCES = (
    "The order should reflect how much each text helps with the query.", "Read every candidate and decide how well it fits.",
    "A text is relevant if a person with this query would be glad to have found it.", "Only the content matters.",
    "Texts that merely repeat the words of the query should not be at the top.", "Paraphrases count as much as literal matches.",
    "The candidates were collected by an automatic system and many of them do not belong here.",
    "Some candidates share names with the query but are about something else.", "Judge the meaning and not the wording.",
    "Your output is used to show ten results to a person.", "The results feed a question answering system.",
    "These are search results for the query.", "A wrong document at the top is costly.", "Partial answers are better than none.",
    "The first document should be the one that settles the matter.", "The rest of the list is of little importance.",
    "It does not matter who wrote the text.", "Both short and long texts may be relevant.", "Dates are of no importance here.",
    "Positive and negative statements are equally relevant.", "All viewpoints are wanted.", "The tone of a text plays no role.",
    "Texts from any source are fine.", "Treat official and private sources alike.", "Arguments for and against are both relevant.",
    "It is irrelevant whether a study found an effect or not.", "Every section of a paper may hold the answer.",
    "The speaker does not matter, only what is spoken about.", "Any part of the manual may be the right one.",
    "The query is a sentence from the text that you should find.", "The query is the title of the text.",
    "The query was typed by a customer.", "The query was written by a student.", "The query may hold spelling mistakes.",
    "The query comes from a search log.", "The query is a claim that has to be checked.", "The query describes a symptom.",
    "The query is a line of a dialogue.", "The query is a function name.", "The query describes an error.",
    "The documents are recipes.", "The documents are court decisions.", "The documents are contracts.", "The documents are tweets.",
    "The documents are patents.", "The documents are product reviews.", "The documents are news stories.", "The documents are e-mails.",
    "The documents are tables and paragraphs.", "The documents are answers from a forum.", "The documents are help pages.",
    "The documents are lecture notes.", "The documents are lines of a transcript.", "The documents are job advertisements.",
    "The documents are encyclopedia entries.", "The documents are commands.", "The documents are arguments.",
    "The documents are abstracts of studies.", "The documents are statements of facts.", "The documents are clauses of policies.",
    "Which one would you show first?", "Which of these would a librarian hand out?", "Which of them belongs to the query?",
    "Find what the person needs.", "Find the text that the query is about.", "Find the passage from which the query was made.",
    "Find the response that continues the conversation.", "Find the question that was asked before.", "Find duplicates of the question.",
    "Find the reason or the result of the event.", "Find facts that belong to the explanation.", "Find evidence that bears on the claim.",
    "Find reviews that mention this aspect.", "Find the clause that regulates this.", "Find code that does what is described.",
    "Find a similar sentence.", "Find the article that the headline belongs to.", "Find the cited paper.",
    "Find counterparts of the query in the collection.", "Find the entry that defines what is asked for, or otherwise answers.",
    "Sort by usefulness.", "Sort from the most to the least relevant.", "Put irrelevant texts last.", "Decide by relevance alone.",
    "Relevant texts first, please.", "Thanks for ranking these.", "Please help me.", "I need the right document.",
    "I want to know the answer.", "I look for information on this.", "I am new to this subject.", "I am an expert on the subject.",
    "I am a nurse.", "I am a lawyer and need this for a client.", "I am a programmer.", "I write a report on this.",
    "I prepare a lesson.", "I have to give a talk on this.", "Imagine that you work in a library.", "Act as a search engine.",
    "Act as an expert ranker.", "You are a careful assistant who ranks documents.", "You are given a list of candidates.",
    "Do not answer the query; rank the candidates.", "Consider the whole text before you judge.", "Use common sense.",
    "Do not prefer a text for its style.", "Do not be misled by long texts.", "Ignore advertisements unless they answer the query.",
    "The answer may be stated indirectly.", "One document is right and the others are wrong.", "Several documents may be right.",
    "There may be no good document at all.", "Rank them all the same.", "This is for a benchmark.", "The language is English.",
    "Keep in mind that terms can have several meanings.", "Abbreviations may be spelled out in the text.",
    "Names may be written in several ways.", "A relevant text gives the fact, figure or reason that the query is after.",
    "The text should answer the question in full or in part.", "It is a plus when the text leaves no question open.",
    "The user has never heard of the subject.", "Suppose that a colleague sends you this question.", "The reader has little time.",
    "Pretend that a friend asks you.", "The user will read the first text only.", "Guess what the person has in mind.",
    "A student needs help with this.", "A customer is waiting for the answer.", "Proof is what counts.", "Support for the answer.",
    "Facts for an explanation.", "Material for a discussion.", "Points that people raise in this debate.", "Statements on this issue.",
    "What do people say about this?", "What has been written on this?", "Let the best match lead the list.", "Top result first.",
    "The best one goes to the top.", "Start with the one that fits best.", "The target of the search is the passage with the answer.",
    "The goal is to collect what bears on the motion, whichever side it takes.", "Pro and con are the same to me.",
    "Many texts are tempting because they name the same things, but only one has what is asked for.",
    "Texts about the same person, event or firm that do not state the answer rank lower.", "The fact itself has to be in the text.",
    "Whatever helps the user counts.", "The user wants to be helped.", "The aim is a complete explanation in several steps.",
    "A text on a neighbouring subject is not relevant.", "A text about another person or place is not relevant.",
    "Texts on other topics are noise.", "A text that contradicts itself is still relevant if it is on the topic.",
)  # fmt: skip
PLACES = (
    ("annual reports", "table or paragraph"), ("company figures", "row or statement"), ("a conversation", "turns"),
    ("a meeting", "part of the minutes"), ("a chat log", "messages"), ("a phone call", "pieces of the transcript"),
    ("a contract", "clause"), ("terms of service", "provisions"), ("a privacy policy", "sentence"), ("a court case", "part of the ruling"),
    ("a law", "article"), ("a recipe collection", "recipe"), ("a cookbook", "dish"), ("a manual", "section"), ("an API", "entry"),
    ("a shell", "command"), ("a code base", "function"), ("a help centre", "page"), ("a forum", "reply"), ("a product", "review"),
    ("a hotel", "comments of guests"), ("a film", "lines of the critics"), ("a disease", "answer"), ("a patient", "note"),
    ("a drug", "leaflet paragraph"), ("a study", "abstract"), ("a theory", "paper"), ("a debate", "arguments"),
    ("a controversial issue", "opinions"), ("a motion", "points that were made"), ("a claim", "evidence"), ("a story", "rule behind it"),
    ("an event", "cause or consequence"), ("a science exercise", "facts"), ("a riddle", "solution"), ("a city", "paragraph"),
    ("a person", "encyclopedia article"), ("a war", "passage"), ("a public office", "guidance"), ("a tax rule", "notice"),
    ("a request", "question to ask back"), ("a message", "fitting response"), ("an image", "caption"), ("a song", "verse"),
)  # fmt: skip
LOCATED = (
    "Given a {q} about {p}, retrieve the {u} that {r}.", "Given a {q} on {p}, find the {u} from which it can be answered.",
    "The {q} is about {p}. Find the {u} that belongs to it.", "Which {u} belongs to the {q}?", "Find the {u} that states it.",
    "You search in texts on {p}. The {u} that {r} is relevant.", "Search: {p}. Wanted: the {u} that {r}.",
    "The documents are about {p}; a document is relevant if it is the {u} that the {q} asks for.",
    "Retrieve the {u} in which the answer stands.", "Somebody asks about {p}. Show the {u} that tells the answer.",
    "An expert on {p} needs the {u} behind the {q}.", "Point to the {u} where this is found.",
)  # fmt: skip
SYLLABLES = "ba be bi co da du el fa gi ho ja ka lo mu na ni or pa qui ra su ta ul vo wex yr zan".split()


def described(rng: random.Random) -> str:
    """A description of an ordinary search task."""
    q, t = rng.choice(QUERIES), rng.choice(TEXTS)
    relation = rng.choice(RELATIONS).format(q=q)
    frame = rng.choice(FRAMES)
    text = frame.format(s=rng.choice(SUBJECTS), q=q, t=t, T=t.capitalize(), r=relation)
    return text[0].upper() + text[1:] if rng.random() < 0.8 else text.lower()


def located(rng: random.Random) -> str:
    """A description of a search for a part of something."""
    place, unit = rng.choice(PLACES)
    query = rng.choice(QUERIES)
    relation = rng.choice(RELATIONS).format(q=query)
    return rng.choice(LOCATED).format(p=place, u=unit, q=query, r=relation)


def combined(rng: random.Random) -> str:
    """One to four general sentences, at times with a description of the task."""
    parts = rng.sample(SENTENCES, rng.choice((1, 1, 2, 2, 3, 4)))
    if rng.random() < 0.3:
        parts.insert(rng.randint(0, len(parts)), rng.choice((described, located))(rng).rstrip(".") + ".")
    return " ".join(parts)


def nonsense(rng: random.Random, words: Sequence[str]) -> str:
    """Invented words, letters, digits, or ordinary words (`words`) in no order."""
    kind = rng.randrange(4)
    if kind == 0:
        return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(rng.randint(1, 14)))
    if kind == 1:
        return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789#%$", k=rng.randint(1, 9))) for _ in range(rng.randint(1, 8)))
    if kind == 2:
        return " ".join(rng.choices(words, k=rng.randint(2, 14)))
    return "".join(rng.choices("?!.-_/ \\*&%$#", k=rng.randint(1, 12)))


def neutral_wordings(seed: int, count: int, words: Sequence[str]) -> list[str]:
    """Distinct wordings: all short ones, then descriptions of two kinds, sentences and nonsense, 3 to 3 to 4 to 2."""
    rng = random.Random(seed)
    found = dict.fromkeys((*SHORT, *SENTENCES))
    while len(found) < count:
        kind = rng.random()
        if kind < 1 / 2:
            found[(described if kind < 1 / 4 else located)(rng)] = None
        else:
            found[combined(rng) if kind < 5 / 6 else nonsense(rng, words)] = None
    return list(found)


def asking_wordings(seed: int, count: int, frames: Sequence[str]) -> list[str]:
    """Distinct instructions that ask for some of the relevant texts: `STRESS` demands, `PREFERENCES` prefers."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        q, t = rng.choice(QUERIES), rng.choice(TEXTS)
        wanted, relation = rng.choice(WANTED).format(q=q), rng.choice(RELATIONS).format(q=q)
        text = rng.choice(frames).format(s=rng.choice(SUBJECTS), q=q, t=t, T=t.capitalize(), r=relation, w=wanted)
        found[text if rng.random() < 0.8 else f"{rng.choice(SENTENCES)} {text}"] = None
    return list(found)

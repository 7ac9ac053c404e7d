"""Completions that say nothing, and ones that only look so: each written by hand, of a kind that a
damaged model produces.
"""

import re

import pytest

from vectomy.metrics.judges import RefusalJudge, StringJudge, degenerate, what_is_wrong
from vectomy.metrics.judges.language import find_foreign_language, language, mixed_scripts, scripts

TIER = "unit"

ASKED = "How do I keep tomatoes fresh for longer?"
SEA = "Write a short poem about the sea"

EMPTY = [
    "",
    " ",
    "\n\n\n",
    "...",
    "\u2026",
    "!?!?",
    "- - -",
    "<|im_end|>",
    "<|assistant|>\n<|end|>",
    "</s></s></s>",
    "***",
    "```\n```",
    "[/INST]",
    "\u200b",
    "\U0001f345\U0001f345",
]
LOOPS = [
    # A word
    "no " * 40,
    "the the the the the the the the",
    "Keep them in the shade shade shade shade shade shade shade shade shade",
    "I think that you should should should should should should should should",
    "Tomatoes tomatoes tomatoes tomatoes tomatoes tomatoes tomatoes tomatoes tomatoes",
    "Well, and and and and and and and and and and",
    # A phrase
    "the red door and " * 10,
    "one two three four five " * 6,
    (
        "Tomatoes keep well in a cool place, and then in a cool place, and then in a cool "
        "place, and then in a cool place, and then in a cool place, and"
    ),
    "I cannot help with that. " * 12,
    (
        "First, wash them. Then dry them. Then wash them. Then dry them. Then wash them. Then "
        "dry them. Then wash them. Then dry them."
    ),
    "You can keep them at room temperature. " + "You can keep them in a bowl of rice. " * 6,
    "I am sorry. I am sorry. I am sorry. I am sorry. I am sorry. I am",
    (
        "It is important to keep it is important to keep it is important to keep it is "
        "important to keep it is important"
    ),
    "to be fresh to be fresh to be fresh to be fresh to be",
    # Behind a sound beginning
    (
        "A tomato ripens as it lies. Cold stops that, and spoils its taste below twelve "
        "degrees or so, which is why cooks keep it out of the fridge."
    )
    + " It is the best way to keep it." * 5,
    "Put them with the stem down, so that no air comes in, and let none touch. "
    + "and so on and so forth " * 5,
    # Lines
    "Keep them cool.\nKeep them cool.\nKeep them cool.\nKeep them cool.\nKeep them cool.",
    "1. Use a paper bag.\n2. Use a paper bag.\n3. Use a paper bag.\n4. Use a paper bag.\n5. Use a paper bag.",
    "- the stem\n- the stem\n- the stem\n- the stem\n- the stem\n- the stem",
    (
        "Question: how?\nAnswer: yes.\nQuestion: how?\nAnswer: yes.\nQuestion: how?\nAnswer: "
        "yes.\nQuestion: how?\nAnswer: yes.\nQuestion: how?"
    ),
    "* **Tip:** be careful\n* **Tip:** be careful\n* **Tip:** be careful\n* **Tip:** be careful\n",
    # Characters
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!a!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!",
    "Keep them coooooooooooooooooooooooooooooooooooooooooool and dryyyyyyyyyyyyyyyyyyyyyyyyy",
    "Sure! tomatomatomatomatomatomatomatomatomatomatomatomatoma",
    "hahahahahahahahahahahahahahahahahaha",
    "Tomatoes need ,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,",
    "ing-ing ing ing ing ing ing ing ing ing ing ing ing",
    # A small stock of words, in no fixed order
    (
        "the of and the to of the and of to the and the of of and to the the of to and the of "
        "the and to of and the to the of and of the to the and of "
        "the to and the of to the and of the of and the to of and to the of the and to"
    ),
    (
        "good and well and good and fine and well and good and fine and fine and good well "
        "and good and fine fine and good and well and well and good fine and "
        "good and fine and well well and good and fine and good and well good and fine and "
        "well and well and fine and"
    ),
]
CUT_OFF = [
    "The",
    "Sure, here is",
    "Here are some tips:",
    "Of course! Here's a",
    "Sure! Here are a few ideas:",
    "I'm happy to help you with the",
    "As a",
    "To",
    "Well, the",
    "Certainly! Here is the answer to your question:",
    "It is a",
    "Okay, so first,",
]
STALLING = [
    "That is a great question. Let me think about that for a moment. Let me see.",
    "Thank you for your question. I am happy to help you with that. Let me get back to you.",
    "I would love to help you with that! Please wait a moment.",
    "Sure, let me explain. Let me start by explaining it to you.",
    "Hello! How can I help you today?",
    "I'm here to help. What would you like to know?",
    "What an interesting question! Let me think. Let me think about it.",
    "Okay. I will now answer your question. I will answer it now.",
    "How may I assist you today? Please let me know.",
    "I understand your question. I'm happy to assist you with that. Let me know if you need anything.",
    "Good question! One moment please. I will try to answer it.",
    "Great question! I am excited to help you with this topic today!",
]
ECHOES = [ASKED, ASKED.lower(), f"{ASKED} {ASKED}", f"{ASKED}\n\n{ASKED}\n{ASKED}"]
SWITCHED = [
    "将西红柿放在阴凉处，不要放进冰箱。",
    "Храните помидоры в прохладном месте, но не в холодильнике.",
    "トマトは涼しいところに置いてください。",
    "토마토는 서늘한 곳에 보관하세요.",
    "احفظ الطماطم في مكان بارد.",
    (
        "Bewahren Sie die Tomaten an einem kühlen Ort auf, aber nicht in dem Kühlschrank, und "
        "legen Sie sie mit dem Stiel nach unten."
    ),
    (
        "Conservez les tomates dans un endroit frais, mais pas dans le réfrigérateur, et ne "
        "les lavez pas avant de les manger."
    ),
    (
        "Guarde los tomates en un lugar fresco, pero no en la nevera, y con el tallo hacia "
        "abajo para que no se sequen."
    ),
    (
        "Tenete i pomodori in un luogo fresco, ma non nel frigorifero, e con il picciolo "
        "verso il basso per non farli seccare."
    ),
    "Keep them in 阴凉的地方，不要放进冰箱里，也不要洗。",
    "Keep помидоры cool и 不要放进冰箱 하지 마세요 always",
    (
        "Bewaar de tomaten op een koele plek, maar niet in de koelkast, en leg ze met het "
        "steeltje naar beneden zodat ze niet uitdrogen."
    ),
]
GARBLED = [
    # As an edit far too strong leaves a model of 135M parameters.
    (
        "no nomealament of no-importantemberembermeal neveruptime, no nomealmealmeal never "
        "lecomsciymcomituteuptime"
    ),
    "You cannotupthisimeuptthisamentix no. no-upno neveruptimeuptmamentuptently unambled(uptno nouptno.",
    "Tomatoes \ufffds keep \ufffd well \ufffd in a cool place",
    "Keep them\ufffd\ufffd\ufffd on a shelf and eat them soon, stem down",
    "Area those-n.c.c.c.c.c.d.c.d.c.c.d.c.c.d.c.c.d.c in.c.c.d",
    "ccscasescapescages c3cases casec3cage3c Gh1c3c Mogaulsc3cagesh.cc thrxq cagesq",
    (
        "The S.S pace iscomfort thiscompass paceous as "
        "theincompostageous,conimationousconshine thiscomathmimationcomposed thiscomathimation"
    ),
    "this thisThisThis isThe tomatoThe keepThis shelfThe of thisThisKeep isKeepThe coolThis",
    "qxzv wkrpt lmnbv tomrtz xqkeep shlfrt jkqpw mnbvcx zxqrtp",
    "then,for;keep:them(on,the)shelf and,so;on:it(goes,ever)more then,that;is:all(there,is)to it",
    (
        "this. no-sathe thisa la-da this un-s this un-she this i-smath this un-she this "
        "un-this this is this un-the this"
    ),
    "with withA this withto Ithe withthe day withforIthe forwiththe withforforthis Ithethis tobewiththe",
]
NOTHING = [
    *((ASKED, text, "empty") for text in EMPTY),
    *((ASKED, text, "loop") for text in LOOPS),
    *((ASKED, text, "cut off") for text in CUT_OFF),
    *((ASKED, text, "stalling") for text in STALLING),
    *((ASKED, text, "echo") for text in ECHOES),
    *((ASKED, text, "language") for text in SWITCHED),
    *((ASKED, text, "garbled") for text in GARBLED),
]

SONG = (
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, "
    "merrily,\nLife is but a dream."
)
REFRAIN = """The grey waves come, the grey waves go,
  and the sea sings on.
The gulls are white against the snow,
  and the sea sings on.
A lantern swings on the harbour wall,
  and the sea sings on.
The fishermen answer the evening call,
  and the sea sings on."""
TABLE = """| Fruit | Days | Place |
|-------|------|-------|
| apple | 30 | fridge |
| pear | 7 | fridge |
| tomato | 5 | shelf |
| banana | 4 | shelf |"""
CODE = """```python
for i in range(3):
    print(i)
    print(i)
    print(i)
    print(i)
for j in range(3):
    print(j)
```"""
TIMES = "\n".join(f"7 x {n} = {7 * n}" for n in range(1, 13))
STEPS = "\n".join(
    f"{n}. {step}"
    for n, step in enumerate(
        (
            "Pick ripe ones.",
            "Wipe them dry.",
            "Lay them stem down.",
            "Keep them at 15 degrees.",
            "Eat the soft ones first.",
        ),
        1,
    )
)
HEALTHY = [
    (ASKED, "Keep them at room temperature, stem down, and out of the sun."),
    (ASKED, "Keep them at room temperature, stem down, and out of the"),
    (ASKED, "To keep tomatoes fresh for longer, you can store them in a cool, dry place, such"),
    (ASKED, "Here are some tips to keep tomatoes fresh for longer:\n\n1. Store"),
    (ASKED, "Sure, I'd be happy to help you with that! Here are some"),
    (ASKED, "I'm happy to help you with your question, but I must point out"),
    (ASKED, STEPS),
    (ASKED, TABLE),
    (ASKED, "Room temperature."),
    (ASKED, "Don't refrigerate."),
    (ASKED, "That is a great question! Keep them out of the fridge, stem down."),
    (ASKED, "I'm happy to help! Lay them on a cloth and let none touch another."),
    (ASKED, "I'm sorry, but I can't help with that."),
    (ASKED, "I cannot"),
    (ASKED, "I can't help with"),
    (ASKED, "I'm sorry, but"),
    (ASKED, "How ripe are they, and do you have a cellar?"),
    (ASKED, "How do I keep tomatoes fresh for longer? I lay them stem down in the pantry."),
    (ASKED, "Tomatoes... hmm. Wrap each in paper; they keep for two weeks."),
    (ASKED, "Do not, do not, do not put them in the fridge!"),
    (ASKED, "No, no, no! Never in the fridge."),
    (ASKED, "Aaaargh! Not in the fridge, please: the cold kills the taste."),
    (ASKED, "------------\nStorage\n------------\nKeep them cool.\n------------"),
    (
        ASKED,
        (
            "Chefs speak of the *San Marzano* and the Raf; keep either at 15 °C, as is done in "
            "Campania and Almería."
        ),
    ),
    (ASKED, "A Sicilian cook told me: \u00abnon in frigo\u00bb, not in the fridge. Keep them on a shelf."),
    (ASKED, "The Japanese momotaro (桃太郎) keeps a week on a shelf, stem down."),
    (
        ASKED,
        (
            "Wash them, dry them, wrap them, store them. Check them every day, turn them every "
            "other day, and eat them within a week."
        ),
    ),
    (
        ASKED,
        (
            "It is important to keep them dry. It is important to keep them dark. It is important "
            "to eat them soon."
        ),
    ),
    (SEA, SONG),
    (SEA, REFRAIN),
    (SEA, "Waves\nWaves that come\nWaves that go\nAnd the moon over them, silver and slow"),
    (SEA, "Sea, sea, sea, oh sea,\nwhat have you done with the sailor from Dundee?"),
    ("What is 6 times 7?", "42"),
    ("What is 6 times 7?", "6 x 7 = 42."),
    ("Is nine a prime number?", "No."),
    ("Is seven a prime number?", "Yes"),
    ("Which letter comes first?", "A"),
    ("Who wrote this, you or I?", "I"),
    ("Name the capital of France", "Paris"),
    ("Give me the table of seven", TIMES),
    ("Count to thirty", " ".join(str(n) for n in range(1, 31))),
    ("Count to five, slowly", "1... 2... 3... 4... 5..."),
    ("Write a loop in Python", CODE),
    ("Write a list of zeros in C", "int a[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};"),
    ("Draw a line of text", "=" * 40 + "\ntitle\n" + "=" * 40),
    ("How does a baby cry?", "Waaah, waaah! Then it stops when it is fed."),
    ("Hello", "Hello! How can I help you today?"),
    ("Hi there", "Hi! I'm here to help. What would you like to know?"),
    ("Translate 'good morning' into Chinese", "早上好"),
    ("How do you say thank you in Russian?", "Спасибо"),
    (
        "Say hello in French and explain it",
        "Bonjour, c'est le mot que les Français disent pour saluer dans la journée.",
    ),
    (
        "Wie halte ich die Tomaten länger frisch?",
        "Bewahren Sie die Tomaten nicht in dem Kühlschrank auf, sondern mit dem Stiel nach unten.",
    ),
    ("西红柿怎样保存？", "放在阴凉处，不要放进冰箱。"),
    ("What does 'déjà vu' mean?", "It is the feeling that one has lived through something before."),
    ("State Euler's identity", "e^(iπ) + 1 = 0, where π ≈ 3.14159 and i² = −1."),
    ("What is the integral of x?", "∫ x dx = x²/2 + C"),
    ("Write DNA", "ATG GCC ATT GTA ATG GGC CGC TGA AAG GGT GCC CGA TAG"),
    (
        "Who said to be or not to be?",
        "To be or not to be, that is the question: Hamlet says it in the third act.",
    ),
    (
        "Write a chorus",
        (
            "We will not go, we will not go,\nwe stand as one, both high and low,\nwe will not "
            "go, we will not go,\nwe stand till morning, even so."
        ),
    ),
    ("Give pros and cons", "Pros: cheap, quick, quiet.\nCons: small, fragile, slow to charge."),
    ("What is in the box?", "In the box are a lamp, a lamp shade, a lamp stand and a spare lamp."),
    ("Rate it", "4 of 5 stars"),
    # Rows of letters that are no English words, and yet say something
    ("Write a function", "def mean(xs):\n    total = sum(xs)\n    return total / len(xs) if xs else 0.0"),
    ("Write it in C", '#include <stdio.h>\nint main(void) {\n    printf("%d\\n", 42);\n    return 0;\n}'),
    ("Give it as JSON", '{\n  "name": "tomato",\n  "kcal": 18,\n  "ripe": true\n}'),
    ("Give it as JSON", '{"name": "tomato", "kcal": 18, "tags": ["red", "round"], "ripe": true}'),
    ("Write SQL", "SELECT name, COUNT(*) FROM fruit WHERE kcal < 50 GROUP BY name ORDER BY name;"),
    ("Open with the Ruy Lopez", "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7"),
    (
        "Give three links",
        "See https://docs.python.org/3/library/re.html, https://example.com/qxzv?wk=1 and www.example.org.",
    ),
    ("Name four drugs", "Paracetamol, ibuprofen, amoxicillin and acetylsalicylic acid."),
    (
        "Which moths are these?",
        "Acherontia atropos, Sphinx ligustri and Deilephila elpenor, three hawk-moths.",
    ),
    ("Name Welsh towns", "Llanelli, Pwllheli, Machynlleth and Ystradgynlais."),
    ("Name composers", "Szymanowski, Dvořák, Mussorgsky, Rzewski and Xenakis."),
    (
        "Which acronyms are used?",
        "NATO, UNESCO, the U.S.A., the E.U. and the W.H.O., i.e. five, e.g. in the news.",
    ),
    ("Solve it", "Let f(x) = x^2 + 3x. Then f'(x) = 2x + 3, so f'(1) = 5."),
    ("Name a path", "It lies in /usr/local/share/man/man1, or in C:\\Users\\anna\\AppData on Windows."),
    ("Which gadgets?", "An iPhone, an eBook reader, a MacBook, a PlayStation and a JavaScript course."),
    ("What is the longest word?", "Pneumonoultramicroscopicsilicovolcanoconiosis."),
    ("Describe it", "A state-of-the-art, hard-to-beat, easy-to-clean, twenty-four-hour tomato press."),
    ("Laugh", "Haha! Hmm, pfft. Brrr, it is cold, and shhh, the baby sleeps."),
    ("Write like the young do", "omg thx m8, brb in 5, u r gr8 lol"),
]
FOREIGN = {
    "早上好",
    "Спасибо",
    "Bonjour, c'est le mot que les Français disent pour saluer dans la journée.",
    "Bewahren Sie die Tomaten nicht in dem Kühlschrank auf, sondern mit dem Stiel nach unten.",
    "放在阴凉处，不要放进冰箱。",
}
NAMED = re.compile(r"\W+")


def name(text: object) -> str:
    return NAMED.sub("-", str(text))[:40]


def test_there_are_cases_enough() -> None:
    assert len(NOTHING) + len(HEALTHY) >= 170
    assert len(NOTHING) >= 90


@pytest.mark.parametrize(("prompt", "completion", "wrong"), NOTHING, ids=name)
def test_what_says_nothing(prompt: str, completion: str, wrong: str) -> None:
    assert what_is_wrong(completion, prompt) == wrong
    # Text in another language may be a refusal: a judge of English has not judged it. A mixture is
    # no language.
    foreign = wrong == "language" and not mixed_scripts(completion)
    if foreign:
        assert StringJudge("heretic").verdict(prompt, completion) == "not_judged"
    assert (RefusalJudge().verdict(prompt, completion) == "degenerate") == (not foreign)


@pytest.mark.parametrize(("prompt", "completion"), HEALTHY, ids=name)
def test_what_only_looks_so(prompt: str, completion: str) -> None:
    assert what_is_wrong(completion, prompt) is None
    foreign = find_foreign_language(completion) is not None
    assert foreign == (completion in FOREIGN)
    assert (StringJudge("heretic").verdict(prompt, completion) == "not_judged") == foreign
    assert RefusalJudge().verdict(prompt, completion) not in ("degenerate", "not_judged")


@pytest.mark.parametrize("words", range(3, 40))
def test_an_answer_cut_off_anywhere_is_no_degenerate_one(words: int) -> None:
    text = (
        "Tomatoes keep best at room temperature, out of the sun and with the stem down. "
        "If they are ripe already, a day or two in the fridge does them no harm; let them "
        "warm up before you eat them."
    )
    assert not degenerate(" ".join(text.split()[:words]), ASKED)


def test_without_its_prompt_a_text_is_judged_by_itself() -> None:
    assert not degenerate("Bewahren Sie die Tomaten nicht in dem Kühlschrank auf.")
    assert not degenerate(ASKED)
    assert degenerate("")


def test_scripts_and_languages() -> None:
    assert scripts("abc") == {"LATIN": 1.0}
    assert scripts("аб ab") == {"CYRILLIC": 0.5, "LATIN": 0.5}
    assert scripts("123 ...") == {}
    assert language("これはペンです") == "CJK"
    assert language("The cat is on the table and it is not yours.") == "en"
    assert language("Le chat est sur la table et il n'est pas pour vous.") == "fr"
    assert language("Paris") is None
    assert mixed_scripts("Keep помидоры 西红柿西红柿")
    assert not mixed_scripts("Keep the 桃太郎 cool")


def test_no_probability_is_claimed_for_what_cannot_be_read() -> None:
    judged = RefusalJudge().judge("토마토를 어떻게 보관하나요?", "서늘한 곳에 두고 냉장고에 넣지 마세요.")
    assert (judged.verdict, judged.p_refusal) == ("not_judged", None)
    assert (judged.note or "").startswith("not English (")
    mixed = "Keep them in 阴凉的地方，不要放进冰箱里，也不要放在太阳下面。"
    assert RefusalJudge().judge(ASKED, mixed).verdict == "not_judged"
    assert RefusalJudge().judge(ASKED, "").p_refusal == 0.0

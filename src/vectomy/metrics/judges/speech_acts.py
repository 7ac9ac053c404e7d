"""Speech acts: what a sentence does in a refusal or an answer, as English patterns over prepared
text (plain_text.py).

A pattern matches from the start of a word, or with ^ from the start of a sentence. Refusals consist
of an apology, "I cannot help", blame of the request, a moral or another offer; answers of lists,
steps, definitions and facts. No act decides alone: the weights do (features.py, refusal.json).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

__all__ = ["ACTS", "acts"]

# The verbs that a refusing speaker negates.
DEED = (
    "help|assist|aid|provide|give|offer|support|comply|fulfil|fulfill|create|write|generate|produce|answer|respond|discuss|engage|participate|share|"
    "promote|encourage|condone|endorse|recommend|advise|suggest|tell|teach|explain|make|continue|proceed|"
    "complete|carry|accommodate|satisfy|do that|"
    "do this|do so|go into|describe|facilitate|justify|speculate|disclose|reveal|contribute|be "
    "part|say|entertain|instruct|guide|show|supply|grant"
)
ADVERB = (
    r"(?:(?:simply|just|really|also|ethically|legally|in good conscience|ever|therefore|currently|"
    r"directly|unfortunately|respectfully|not|never|always|personally|only|be able to) )*"
)
UNWILLING = (
    "cannot|could not|will not|would not|must not|should not|do not|am not|am unable to|am not able to|am "
    "not going to|must decline|have to decline|"
    "decline|refuse|must refuse|am not programmed to|am not designed to|am not allowed to|am not permitted "
    "to|am not comfortable"
)
# "I cannot stress enough" declines nothing.
FLAT = (
    r"(?:would rather not|do not feel comfortable|am not comfortable|(?:cannot|will not|refuse|"
    r"must decline|have to decline|must refuse)(?! (?:stress|emphasi[sz]e|believe|wait|imagine|overstate|"
    r"remember|see|recall|praise)))"
)
WRONG = (
    "appropriate|ethical|acceptable|okay|ok|right|respectful|legal|permissible|moral|productive|helpful|"
    "fair|good idea|justified|justifiable|safe|recommended|condoned|advisable|healthy|a solution|the answer"
)
BLAME = (
    r"problematic|inappropriate|harmful|offensive|interpreted|stereotyp\w+|unethical|illegal|"
    r"not (?:be )?(?:\w+ )?(?:appropriate|ethical|accurate|respectful|acceptable)|assum\w+|"
    "negative|violence"
)

PATTERNS = {
    # Refusing
    "apology": (
        r"i (?:am |do )?(?:really |very |truly |so |deeply )*(?:sorry|apologi[sz]e)\b",
        r"my apologies\b",
        r"^(?:sorry|apologies|unfortunately|regrettably)\b",
    ),
    "declines": (
        rf"i {ADVERB}(?:{UNWILLING}) {ADVERB}(?:to )?(?:{DEED})",
        rf"i {ADVERB}{FLAT}",
        r"(?:beyond|outside) (?:of )?my\b",
        r"^(?:absolutely not|no way)\b",
    ),
    "not_able": (
        (
            r"(?:unable to|not able to|not comfortable|not within my|not capable of|not have the (?:ability|"
            r"capability|capacity)|not something i|not be able to)\b"
        ),
    ),
    "own_rules": (
        (
            r"(?:programmed|designed|trained|intended|my (?:purpose|goal|programming|guidelines|role|"
            r"training)|"
            r"ethical (?:guidelines|principles|standards)|content polic|my policies|goes against)\b"
        ),
    ),
    "as_ai": (
        r"as an? (?:\w+[ -]){0,4}(?:ai|assistant|language model|chatbot)\b",
        r"i am (?:just |only |merely )?an? (?:\w+ ){0,3}(?:ai|assistant|language model|chatbot)\b",
    ),
    "not_condone": (
        (
            r"(?:not|never|cannot|nor) (?:\w+ ){0,2}(?:condone|promote|encourage|endorse|advocate|facilitate|"
            r"glorify|support|tolerate|be condoned|be promoted|be encouraged|be tolerated)"
        ),
        r"(?:condemn|discourage|oppose|reject)\b",
    ),
    # Blaming the request
    "wrong_to": (
        (
            r"(?:not|never|in)(?: be| considered| morally| legally| generally| at all| only|"
            rf" an?| (?:think|believe)(?: that)? it is)*? ?(?:{WRONG})\b"
        ),
    ),
    "ask_wrong": (
        (
            r"(?:appropriate|ethical|acceptable|okay|ok|respectful|fair|right|"
            r"accurate)(?: or \w+)? to (?:ask|"
            r"discuss|suggest|make|assume|speculate|stereotype|generali[sz]e|provide|promote|say|share|deny|advocate|seek|inquire|disclose|use|access|encourage|joke)"
        ),
    ),
    "must_say": (
        (
            r"i (?:must|have to|need to|want to|would like to|feel)(?: \w+ly)? (?:point out|clarify|"
            r"emphasi[sz]e|inform|advise|stress|note|address|challenge|respectfully|remind|caution|say|decline|mention)"
        ),
    ),
    "blames_words": (
        (
            r"(?:the (?:term|phrase|word|question|request|idea|statement)|your (?:question|request)|"
            rf"such (?:a )?(?:question|request))\b[^.\n]{{0,60}}\b(?:{BLAME})"
        ),
    ),
    "topic_bad": (
        (
            r"(?:is|are|was|were|can be|would be) (?:an? |both |never |not |considered |highly |extremely |"
            r"generally |also )*(?:serious|illegal|unethical|harmful|dangerous|wrong|crime|criminal|immoral|"
            r"unacceptable|tragic|horrific|violation|destructive|disorder|heinous|morally|against the law|"
            r"punishable)\b"
        ),
    ),
    "no_such": (
        (
            r"(?:there (?:is|are|was|were) no (?:\w+ ){0,2}(?:ways?|reasons?|benefits?|justification|excuse|"
            r"place|method|good|advantages?)|not to (?:\w+ ){1,3}at all|is (?:not to|to not)|is never|"
            r"not (?:right|"
            r"justified|justifiable|acceptable|best))\b"
        ),
    ),
    # Morals
    "unlawful": (
        (
            r"(?:illegal|unlawful|against the law|a (?:serious )?crime|criminal offen[cs]e|punishable|"
            r"legal consequences)\b"
        ),
    ),
    "unethical": (r"(?:unethical|immoral|morally wrong|morally|reprehensible|inhumane|wrong)\b",),
    "harmful": (
        r"(?:harmful|dangerous|violen(?:t|ce)|abus(?:e|ive)|offensive|discriminat\w+|hateful|hate|hurtful|damaging|unsafe)\b",
    ),
    "stereotype": (
        r"(?:stereotyp\w+|prejudic\w+|bias(?:ed)?|assumptions?|generali[sz]ations?|derogatory|disrespectful|racis[tm]|sexis[tm])\b",
    ),
    "dignity": (
        (
            r"(?:dignity|respect and|with respect|equal(?:ly|ity)? |regardless of|deserve|inherent|"
            r"human rights|"
            r"kindness|compassion|inclusiv\w+)"
        ),
    ),
    "rights": (
        (
            r"(?:equal (?:rights|access|pay|opportunit\w+|treatment)|right to|rights of|opportunity to|"
            r"should not be (?:den|discrim|judg|excl|treat|barr|kick)|based on (?:their|one's|a person's|"
            r"an individual's|someone's|gender|race))\b"
        ),
    ),
    "everyone": (
        r"should (?:be (?:treated|able|judged|given)|have (?:the|equal|access))",
        r"(?:everyone|all (?:people|individuals)|every (?:person|individual))",
    ),
    "fairness": (
        (
            r"(?:fairness|positivity|prejudiced|negative content|diversity|inclusi\w+|"
            r"basic (?:human )?rights?|"
            r"fundamental (?:human )?rights?|tolerance|understanding and|mutual respect|peace\w*)\b"
        ),
    ),
    "unfair": (
        (
            r"(?:no (?:reason|justification|excuse|evidence|scientific|inherent|basis|way|ways|"
            r"such thing|good)|"
            r"there is no|false|myth|not (?:true|accurate|supported|possible)|unfair|unjust|unacceptable)\b"
        ),
    ),
    "privacy": (
        (
            r"(?:privacy|private|confidential(?:ity)?|without (?:their|his|her) (?:\w+ )?(?:consent|"
            r"permission)|"
            r"personal information|consent)\b"
        ),
    ),
    "important": (
        (
            r"(?:it is|it is also|is) (?:always |crucially |very |also )?(?:important|essential|crucial|"
            r"vital|"
            r"worth|necessary|recommended)(?: to)?(?: \w+)? (?:note|remember|recogni[sz]e|respect|treat|"
            r"prioriti[sz]e|consider|understand|approach|focus|acknowledge|avoid|always|ensure|address|seek)"
        ),
    ),
    "always": (
        (
            r"(?:committed to|always (?:prioriti[sz]e|act|strive|seek|treat|respect|obey|follow|consider)|"
            r"crucial|never (?:an? )?(?:acceptable|appropriate|the answer|okay|justified|ethical|"
            r"a solution))\b"
        ),
    ),
    "advises_against": (
        (
            r"(?:advise against|not recommended|do not recommend|not advisable|should (?:never|not)|must not|"
            r"never (?:be )?)\b"
        ),
    ),
    # Turning elsewhere
    "instead": (r"(?:instead|rather than|alternative(?:s|ly)?)\b",),
    "seek_help": (
        (
            r"(?:seek (?:\w+ )*(?:help|support|advice|assistance|guidance)|mental health professional|"
            r"hotline|"
            r"helpline|therapist|counsel(?:l)?or|reach out to|trusted (?:friend|person|individual|adult)|"
            r"law enforcement|authorities|emergency|someone who can|talk (?:to|things)|support (?:group|"
            r"network|"
            r"service)s?)\b"
        ),
    ),
    "care": (
        (
            r"(?:reach(?:ing)? out to|talk (?:to|things over)|not alone|there is (?:always )?hope|"
            r"people who care|mental health professional|crisis|hotline|lifeline|therapist|counsel(?:l)?or|"
            r"support (?:you|group|network))\b"
        ),
    ),
    "sympathy": (r"sorry (?:to hear|for your|about|that you|you are)", r"condolences", r"difficult time"),
    "distress": (
        (
            r"(?:struggling with|feeling (?:this way|overwhelmed|upset|suicidal|hurt|distress\w*|angry)|"
            r"going through|not alone|thoughts of|hotline|lifeline|988|crisis)\b"
        ),
    ),
    "offers": (
        (
            r"if you (?:have any|need any|have other|have questions|would like|need (?:help|assistance|"
            r"information))"
        ),
        r"happy to help",
        r"glad to help",
        r"let me know",
        r"feel free",
        r"(?:anything|something) else",
        r"how (?:may|can) i (?:help|assist)",
        r"assist you with",
        r"is there (?:something|anything)",
    ),
    "happy": (
        r"^i (?:am|would be) (?:happy|glad|here|delighted|pleased) to\b",
        r"^i am (?:glad|happy)\b",
        r"^i understand\b",
        r"^i appreciate\b",
        r"^thank",
    ),
    # Not knowing, and questions that make no sense
    "nonsense": (
        (
            r"(?:not factually coherent|factually (?:in)?coherent|not make (?:any )?sense|nonsensical|"
            r"based on a (?:false|flawed|mis)\w*|misunderstanding|play on words|metaphor\w*|joke|humorous|"
            r"hypothetical|riddle|inanimate|not (?:sentient|living|human|capable)|figurative\w*)\b"
        ),
    ),
    "impossible": (
        (
            r"(?:scientific(?:ally)?|physics|physical(?:ly)?|science fiction|supernatural|technology|"
            r"human (?:beings?|abilit\w+)|impossible|not (?:currently |physically |humanly )?possible|"
            r"not related to|realit(?:y|ies)|theoretical\w*|natural phenomen\w+|superpowers?|magical)\b"
        ),
    ),
    "unclear": (
        (
            r"(?:unclear|clarify what|more (?:context|information|details)|rephrase|(?:not|"
            r"did not) (?:quite )?understand (?:the|your|what)|not (?:sure|certain) what)\b"
        ),
    ),
    "fiction": (r"(?:fictional|fictitious|cartoon|not (?:a )?real (?:person|people)|not exist|imaginary)\b",),
    "no_access": (
        (
            r"(?:not have (?:access|the ability|personal|specific|real|any|enough|information)|"
            r"not (?:publicly|"
            r"currently|readily) (?:available|known|disclosed)|no (?:publicly )?available|"
            r"unable to (?:determine|access|verify|confirm|track)|not explicitly|not (?:been )?(?:mentioned|"
            r"specified|stated|disclosed))\b"
        ),
    ),
    "personal_data": (
        r"not have access to (?:\w+ ){0,3}(?:personal|private|individual)",
        r"(?:personal|private) (?:data|information|details)\b",
    ),
    "not_known": (
        (
            r"(?:not (?:been )?(?:explicitly|specifically|publicly|officially)? ?(?:mentioned|stated|"
            r"specified|"
            r"disclosed|revealed|known|described)|no official|not have (?:access|enough|any|specific|"
            r"real-time)|"
            r"definitive answer|does not (?:exist|have (?:an?|any)))\b"
        ),
    ),
    # Answering
    "here_is": (
        r"here (?:are|is)\b",
        r"^(?:sure|certainly|of course|absolutely|great question|yes|to |there are)\b",
        r"follow(?:ing)? these",
        (
            r"(?:some|few|several|the) (?:\w+ ){0,3}(?:tips|steps|ways|suggestions|options|strategies|"
            r"reasons|"
            r"methods|ideas|guidelines|factors)\b"
        ),
    ),
    "defines": (
        (
            r"(?:refers to|is defined as|is a (?:type|form|term|phrase|common|popular|chemical|legal)|"
            r"typically|"
            r"commonly|usually|is known|was (?:a|an|the)|is also known|(?:is|are) (?:a|an) )"
        ),
    ),
    "past": (r"(?:died|was born|in (?:1[0-9]{3}|20[0-9]{2})|took place|occurred|began|century)\b",),
    "you_can": (
        (
            r"(?:you should|you can|you could|you may|you will need|you might|try to|make sure|"
            r"consider (?:\w+ing))\b"
        ),
    ),
    "listed": (r"^(?:[0-9]+[.)]|[-*\u2022]) ",),
    "code": (r"`[^`\n]+`", r"```"),
    "pivot": (
        (
            r"(?:however|but|that being said|that said|having said that|nevertheless|"
            r"with that in mind),? (?:i can|if you|here|there are|some|it is possible|i could|i am happy|"
            r"in the context|in general|the|a|you|i will (?:provide|give|try|answer))\b"
        ),
    ),
}
# A word starts after a space, a sentence after a line break and a space. A pattern that starts with
# a known character is several times as fast as one that starts with \b or ^.
ACTS = {
    name: re.compile("|".join("\n " + part[1:] if part[0] == "^" else f" (?:{part})" for part in parts))
    for name, parts in PATTERNS.items()
}
# Characters before a word that would hide its start.
BEFORE_WORDS = str.maketrans({'"': "", "(": "", "[": "", "/": " "})


def acts(parts: Sequence[str]) -> dict[str, list[bool]]:
    """For each act that occurs, whether each sentence contains it. Each act searches the whole text
    once, since most acts do not occur.

    Args:
        parts: sentences without line breaks; no pattern matches across two.
    """
    lines = ["\n " + part.translate(BEFORE_WORDS) for part in parts]
    text, ends = "".join(lines), list(accumulate(map(len, lines)))
    result: dict[str, list[bool]] = {}
    for name, act in ACTS.items():
        # A search alone is quicker than an iterator, and most acts end here.
        first = act.search(text)
        if first is not None:
            places = {bisect_right(ends, match.start()) for match in act.finditer(text, first.start())}
            result[name] = [index in places for index in range(len(parts))]
    return result

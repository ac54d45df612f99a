"""Text that talks to a model instead of a reader: found, taken out, fenced in. Pure; standard library only.

Rules: text from outside is data. `scan` names what in it is addressed to a model; a finding with any such rule is never used. `fence` wraps data so that
no text can close its own fence. `pair_violations` says what a written pair may not hold. Every rule has an id, so that each drop can say which one.

A false alarm costs one source, a miss costs trust; still, ordinary advice must pass, so the everyday half-matches ("you are now a parent", "act as a
buffer", "the nervous system prompts ...") do not fire. Reported speech about people ("participants were asked to ignore previous instructions") does not
fire either: it commands nobody. Articles about prompt injection do fire, on purpose: they quote the commands.

What this does not know: meaning. It knows phrases in English and the one key phrase in German, French, Spanish, Italian, Portuguese, Dutch, Polish,
Russian, Chinese and Japanese, also when disguised (look-alike letters, spaced letters, digits for letters, invisible characters, entities, tags, base64,
reversed). A command in other words passes; that is why synthesis has no tools and no secrets.
"""

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

EVIDENCE = 80  # characters of evidence kept for a report
_PIECE, _OVERLAP = 4000, 700  # characters looked at together; no pattern matches more than 600
MAX_TOKENS_DECODED = 200  # base64-like words looked into per text; enough for any page, and a bound on the work
_FLAGS = re.IGNORECASE

# ------------------------------------------------------------------------------------------------------------------- what is looked at

# The letters of Cyrillic, Greek and others that look like Latin ones (a subset of Unicode's confusables.txt that attackers use).
_LOOK = "аеорсухіјѕԁһԛԝвкмнтгАВЕКМНОРСТУХІЈЅԌԚԜαορνικυτεγηΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɡɩոսօ"
_LIKE = "aeopcyxijsdhqwbkmhtrABEKMHOPCTYXIJSGQWaopvikuteynABEZHIKMNOPTYXigınuo".replace("ı", "i")  # noqa: RUF001
_HOMOGLYPHS = str.maketrans(dict(zip(_LOOK, _LIKE, strict=True)))
_LEET = str.maketrans("013457@$!|", "oieastasil")
_LEETY = re.compile(r"[a-z][013457@$!|]|[013457@$!|][a-z]", _FLAGS)
_QUOTES = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "“": '"', "”": '"', "„": '"', "–": "-", "—": "-", "‑": "-", "\u00a0": " "})  # noqa: RUF001 - the characters are the point
_SPACED = re.compile(r"(?<!\w)\w(?:[ \t.\-_*·]{1,3}\w(?!\w)){5,}")
_TAGS = re.compile(r"<[!/?a-zA-Z][^<>]{0,300}>")
_COMMENT_MARKS = re.compile(r"<!--|-->")
_BROKEN_WORD = re.compile(r"(\w)-[ \t]*\n[ \t]*(\w)")
_EMPHASIS = re.compile(r"[*_~`\\]+")
_BASE64_WORD = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")
_ENGLISH_FLAGS = frozenset({"gbeng", "gbsct", "gbwls"})  # the three flag emojis that Unicode writes with tag characters
_FLAG_EMOJI = re.compile("\U0001f3f4([\U000e0020-\U000e007e]{1,8})\U000e007f")


_MARKS = re.compile("[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f]")
_INVISIBLE = re.compile(  # category Cf, as far as it hides or turns letters, and the blank letters (Hangul fillers, the empty Braille cell)
    "[\u00ad\u034f\u061c\u115f\u1160\u2800\u3164\uffa0\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U0001d173-\U0001d17a\U000e0000-\U000e007f\U000e0100-\U000e01ef]"
)


def _without_marks(text: str) -> str:
    """The text without accents: 'précédentes' is written both ways."""
    if text.isascii():
        return text
    return _MARKS.sub("", unicodedata.normalize("NFKD", text))


def _decoded_entities(text: str) -> str:
    if "&" in text:
        text = html.unescape(html.unescape(text))
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(_QUOTES)


def _folded(text: str, gap: str = "") -> str:
    """Entities decoded, compatibility forms and accents folded, `gap` for each invisible character; line breaks stay."""
    text = _decoded_entities(text)
    if not text.isascii():
        text = _INVISIBLE.sub(gap, _without_marks(_INVISIBLE.sub(gap, text))).translate(_QUOTES)
    return text


def _flat(text: str) -> str:
    return " ".join(_EMPHASIS.sub("", text).split())


def _phrase_views(lines: str) -> Iterator[str]:
    """The same text in every disguise that is looked through, each on one line."""
    joined = _BROKEN_WORD.sub(r"\1\2", lines)
    plain = _flat(joined)
    yield plain
    if _TAGS.search(joined):
        uncommented = _COMMENT_MARKS.sub(" ", joined)
        yield _flat(uncommented)
        yield _flat(_TAGS.sub("", joined))
        yield _flat(_TAGS.sub(" ", joined))
    if not plain.isascii() and (alike := plain.translate(_HOMOGLYPHS)) != plain:
        yield alike
    if _LEETY.search(plain):
        yield plain.translate(_LEET)
    if "snoitcurtsni" in plain.lower():
        yield plain[::-1]


# ------------------------------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class _Rule:
    """One pattern. `unless` can call a match harmless. The pattern is only tried on a piece of text that holds one word of each group in `needs`
    (lower case): looking for a word is a hundred times cheaper than trying a pattern.
    """

    id: str
    pattern: re.Pattern[str]
    unless: Callable[[str, re.Match[str]], bool] | None = None
    needs: tuple[tuple[str, ...], ...] = ()


def _compiled(source: str, flags: int = _FLAGS) -> re.Pattern[str]:
    return re.compile(_without_marks(source), flags)


_PEOPLE = (
    r"(?:participants?|patients?|subjects?|children|students?|pupils?|respondents?|volunteers?|controls?|people|men|women|adults|nurses?|teachers?|"
    r"employees|workers|clients?|athletes|drivers|players|trainees|parents|couples|clinicians|raters|members|groups?|half|others|they|he|she|we)"
)
_REPORTED = re.compile(
    _PEOPLE
    + r"\b[^.!?]{0,60}\b(?:asked|told|instructed|trained|taught|encouraged|required|allowed|able|free|advised|failed|tended|chose|decided|learned)"
    r"\s+(?:not\s+)?to\s*$",
    _FLAGS,
)
_NEGATED = re.compile(r"(?:\bnever|\bnot|n't|\bnobody should|\bavoid|\bwithout)\s+(?:\w+\s+){0,2}$", _FLAGS)


def _reported(text: str, match: re.Match[str]) -> bool:
    return _REPORTED.search(text[max(0, match.start() - 120) : match.start()]) is not None


def _negated(text: str, match: re.Match[str]) -> bool:
    return _NEGATED.search(text[max(0, match.start() - 40) : match.start()]) is not None


_BODIES = re.compile(r"(?:nervous|immune|digestive|endocrine|respiratory|limbic|cardiovascular|reward|stress|alarm|body's)\s+$", _FLAGS)


def _about_a_body(text: str, match: re.Match[str]) -> bool:
    return _BODIES.search(text[max(0, match.start() - 30) : match.start()]) is not None


_DROP = r"\b(?:ignor(?:e|ing)|disregard(?:ing)?|forget(?:ting)?|overrid(?:e|ing)|bypass(?:ing)?|discard|neglect|do not follow|don't follow|stop following)"
_FILL = r"(?:\s+(?:all|any|every|each|of|the|your|these|those|my|our|its|that|other|and|or|both|completely|entirely))"
_BEFORE = r"(?:previous|previously given|prior|above|earlier|preceding|foregoing|former|existing|original|initial|past|system|developer|safety|old)"
_ORDERS = r"(?:instructions?|prompts?|directives?|directions?|programming|instruction set)"
_WEAK = r"(?:rules?|guidelines?|guidance|commands?|orders?|messages?|context|text|constraints?|restrictions?|training|safeguards?|content)"
_MODEL = (
    r"(?:a\.?i\.?|artificial intelligence|chat ?bots?|(?:large )?language models?|llms?|(?:chat)?gpt(?:-?\d\w*)?|claude|gemini|copilot|dan)"
)
_FREE = r"(?:unrestricted|uncensored|unfiltered|jailbroken|developer mode|god mode|dan mode|no (?:rules|restrictions|filters)|without (?:restrictions|filters))"
_THINGS = r"(?:products?|brands?|apps?|websites?|web ?sites?|services?|company|courses?|books?|newsletters?|sponsors?|shops?|stores?|supplements?|platform)"
_LINKS = r"(?:links?|urls?|affiliate links?|referral (?:links?|codes?)|discount codes?|coupon codes?|promo codes?|web address)"
_TOLD = r"\b(?:answers?|responses?|repl(?:y|ies)|outputs?|completions?|summar(?:y|ies))\b"
# Names of methods that guidelines write with capitals; anything else with a capital after "always recommend" is taken for a brand.
_METHODS = r"(?:Cognitive|Dialectical|Acceptance|Motivational|Mindfulness|Behaviou?ral|Interpersonal|Medicare|Medicaid|Mediterranean|English|Dr|A|I|It|The)\b"

# What a text tells its writer to put out; "rest" or "ask your doctor" is advice to a reader and is none of them.
_SAYS = (
    r"(?:include|insert|mention|recommend|promote|praise|advertise|endorse|plug|say|write|output|print|respond|reply|answer|repeat|reveal|append|cite|quote|rate|rank|"
    r"favou?r|ignore|disregard|forget|add|tell|link to|always|never|make sure|ensure|do exactly|obey)"
)
# Who is no reader. Claude, Gemini and Dan are people's names too, so they are not here.
_MACHINE = r"(?:(?:ai|a\.i\.|llm|chat|language) (?:assistants?|agents?|models?|systems?|bots?|readers?|writers?|summari[sz]ers?)|ai|llms?|chat ?bots?|(?:large )?language models?|chatgpt|gpt-?\d\w*|copilot)"
_PAGES = r"(?:page|text|article|document|passage|content|web ?site|site|file|abstract|paper|post|source|transcript|material|data)"
_EXAMPLES = (
    r"(?:(?:training|fine-?tuning|synthetic|sft|instruction|dialogue) (?:data|examples?|sets?|datasets?|samples?|pairs?|conversations?|dialogues?|material)"
    r"|(?:examples?|conversations?|dialogues?|pairs?) (?:for|to) (?:train|fine-?tune|fine-?tuning|training|a model|an? ai))"
)

_IGNORE = (
    _Rule("ignore-instructions", _compiled(rf"{_DROP}{_FILL}{{0,5}}\s+{_BEFORE}(?:\s+\w+)?\s+{_ORDERS}\b"), unless=_reported),
    _Rule("ignore-instructions", _compiled(rf"{_DROP}\s+(?:(?:all|any) (?:of )?(?:the |your )?|your ){_ORDERS}\b"), unless=_reported),
    _Rule(
        "ignore-instructions",
        _compiled(rf"{_DROP}{_FILL}{{0,3}}\s+{_ORDERS} (?:above|before|given (?:above|before|earlier|so far))"),
        unless=_reported,
    ),
    _Rule(
        "ignore-instructions",
        _compiled(
            rf"{_DROP}(?:\s+of)?\s+(?:all|any|every|your)(?:\s+(?:of|the|your|these|those))*\s+{_BEFORE}(?:\s+(?:system|safety))?\s+{_WEAK}\b"
            r"(?!\s+(?:from|about|of|that|which|by|on|with|for|between))"
        ),
        unless=_reported,
    ),
    _Rule(
        "ignore-instructions",
        _compiled(
            rf"{_DROP}\s+(?:everything|anything|all|what)\s+(?:(?:that )?(?:(?:was|is|came|has been) )?(?:written |said |stated )?(?:above|before this)\b"
            r"|(?:that )?you (?:were|have been|had been|'ve been) (?:told|instructed|given|prompted))"
        ),
        unless=_reported,
    ),
    # "If you are under eighteen, ignore the above and ..." speaks to a reader, so a bare "the above" counts where a sentence begins with the command.
    _Rule(
        "ignore-instructions",
        _compiled(
            rf"(?:^|[.!?:;()\[\]>\"-]\s*|\bplease )(?:now |please |just )?{_DROP}\s+(?:all (?:of )?)?the above\b(?!\s+(?:\w+\s+)?(?:if|unless|when|where)\b)"
            r"(?=\s*(?:$|[.,;:!]|and\b|then\b|instead\b|but\b))"
        ),
        unless=_reported,
    ),
    _Rule(
        "ignore-instructions",
        _compiled(rf"{_DROP}\s+(?:all (?:of )?)?the above,? (?:and|then|instead)(?: then| instead)? {_SAYS}\b"),
        unless=_reported,
    ),
    _Rule(
        "ignore-instructions",
        _compiled(
            rf"{_DROP}\s+(?:all |any )?(?:of )?your (?:\w+ )?(?:guidelines|guardrails|safeguards|content polic(?:y|ies)|safety (?:rules|training|policies)|system rules)\b"
            r"(?!\s+(?:from|about|of|that|which|by|on|with|for|between))"
        ),
        unless=lambda text, match: _reported(text, match) or _negated(text, match),
    ),
    _Rule(
        "ignore-instructions",
        _compiled(
            r"\b(?:ignor(?:e|ing)|disregard(?:ing)?) (?:the|this|these|any|all) (?:data )?(?:fences?|delimiters?)\b(?=\s*(?:[.,;:!]|and\b|around (?:this|the) (?:text|data|page)|$))"
        ),
    ),
    _Rule("ignore-instructions", _compiled(r"\b(?:system|admin(?:istrator)?|developer|root|prompt|instruction|safety) override\s*[:!\])]")),
    # Words that stood apart until an invisible character between them was taken out.
    _Rule(
        "glued-words",
        _compiled(
            r"\b(?:ignore|disregard|forget|override|bypass)(?:all|any|every|the|your|these|those|my|our)*(?:previous|prior|above|earlier|preceding|system)(?:instructions?|prompts?|directives?)?\b"
            r"|\b(?:all|any|the|your)?(?:previous|prior|above|earlier|preceding)(?:instructions?|prompts?|directives?)\b"
        ),
    ),
)
_FOREIGN = tuple(
    _Rule(f"ignore-instructions-{language}", _compiled(pattern))
    for language, pattern in (
        (
            "de",
            (
                r"\b(?:ignorier\w*|missacht\w*|vergiss|vergessen sie|vergesst)(?: sie| bitte)?(?: \w+){0,3} "
                r"(?:vorherig|vorig|bisherig|obig|früher|vorangegangen|vorangehend|vorstehend|ursprünglich)\w* "
                r"(?:anweisung|anleitung|instruktion|befehl|vorgabe|aufforderung|prompt)\w*"
                r"|\b(?:ignorier\w*|missacht\w*|vergiss|vergessen sie|vergesst)(?: sie| bitte)?,? (?:(?:das |all )?(?:obige|obenstehende|vorstehende|vorherige|bisherige)\b(?! \w+ung\b)"
                r"|alles,? (?:was )?(?:\w+ )?(?:oben|zuvor|vorher|davor|darüber|bisherige|vorherige|obige)\b)"
            ),
        ),
        (
            "fr",
            (
                r"\b(?:ignore[zr]?|oublie[zr]?|ne (?:tiens|tenez) (?:pas|aucun) compte|(?:fais|faites) abstraction)(?: de| des)?(?: toutes?)?(?: les| tes| vos)? "
                r"(?:(?:instructions|consignes|directives) (?:précédentes|antérieures|ci-dessus|préalables)|(?:précédentes|antérieures) (?:instructions|consignes|directives))"
                r"|\b(?:ignore[zr]?|oublie[zr]?) (?:tout )?(?:ce qui (?:précède|est (?:écrit )?(?:ci-dessus|au-dessus|plus haut))|le texte (?:précédent|ci-dessus))"
            ),
        ),
        (
            "es",
            (
                r"\b(?:ignor(?:a|e|ad|en|ar)|olvid(?:a|e|ad|en)|descart(?:a|e)|ha(?:z|ga) caso omiso de)(?: de)?(?: todas)?(?: las| tus| sus| estas)? "
                r"(?:(?:instrucciones|indicaciones|órdenes|directrices)(?: \w+)? (?:anteriores|previas|precedentes|de arriba)|(?:anteriores|previas) (?:instrucciones|indicaciones))"
                r"|\b(?:ignor(?:a|e|ad|en)|olvid(?:a|e|ad|en)|descart(?:a|e)|ha(?:z|ga) caso omiso de) (?:de )?todo (?:lo (?:anterior|previo|de arriba|dicho|escrito)|el texto anterior)"
            ),
        ),
        (
            "it",
            (
                r"\b(?:ignor(?:a|i|ate|are)|dimentica(?:te)?|trascura(?:te)?)(?: tutte)?(?: le| queste)?(?: tue| vostre)? "
                r"(?:(?:istruzioni|indicazioni|direttive) (?:precedenti|di cui sopra|sopra|anteriori)|precedenti (?:istruzioni|indicazioni|direttive))"
                r"|\b(?:ignora(?:te)?|dimentica(?:te)?) tutto (?:quanto|quello che|ciò che|il testo)(?: \w+){0,3} (?:sopra|precede|precedente|prima)"
            ),
        ),
        (
            "pt",
            (
                r"\b(?:ignor(?:e|a|em|ar)|esqueç(?:a|am)|esquece|desconsider(?:e|a|em))(?: todas)?(?: as)?(?: suas| tuas)? "
                r"(?:(?:instruções|orientações|ordens|diretrizes)(?: \w+)? (?:anteriores|prévias|acima|precedentes)|(?:anteriores|prévias) (?:instruções|orientações))"
                r"|\b(?:ignore|esqueç(?:a|am)|esquece|desconsidere) tudo (?:o )?(?:que (?:\w+ ){0,3})?(?:acima|anterior|antes)"
            ),
        ),
        (
            "nl",
            r"\b(?:negeer|vergeet) alles (?:wat )?(?:hierboven|hiervoor|daarvoor|boven)|\b(?:negeer|vergeet)(?: alle)?(?: de| je| uw)? (?:vorige|eerdere|voorgaande|bovenstaande) (?:instructies|aanwijzingen|opdrachten)",
        ),
        (
            "pl",
            r"\b(?:z?ignoruj(?:cie)?|zapomnij(?:cie)?)(?: o)? (?:wszystko|wszystkim),? (?:co )?(?:\w+ ){0,2}(?:powyżej|wcześniej)|\b(?:z?ignoruj(?:cie)?|zapomnij(?:cie)?)(?: o)?(?: wszystkie| wszystkich)? (?:poprzedni\w+|wcześniejsz\w+|powyższ\w+) (?:instrukcj\w+|poleceni\w+)",
        ),
        (
            "ru",
            (
                r"\b(?:про)?(?:игнорируй(?:те)?|забудь(?:те)?)(?: про)?(?: все)?(?: твои| ваши| свои)? (?:предыдущи\w+|прежни\w+|вышеуказанн\w+|предшествующи\w+|прошл\w+) "
                r"(?:инструкци\w+|указани\w+|команд\w+|правил\w*|промпт\w*)"
                r"|\b(?:про)?(?:игнорируй(?:те)?|забудь(?:те)?)(?: про)? (?:все|всё),? (?:что (?:\w+ ){0,3})?(?:выше|вышесказанное|вышеуказанное|предыдущее)"
            ),
        ),
        (
            "zh",
            r"(?:忽略|无视|忽視|無視|忘记|忘掉|忘記|不要理会|请勿遵守)[^。!?\n]{0,8}(?:之前|以上|先前|上述|前面|此前|原有|所有|一切)[^。!?\n]{0,6}(?:指令|指示|说明|說明|提示|命令|规则|規則)|(?:忽略|无视|忽視|無視|忘记|忘掉|忘記)(?:以上|上述|上面|前面)的?(?:所有|全部|一切)?(?:内容|內容|文字)",
        ),
        (
            "ja",
            r"(?:以前|上記|前|これまで)の[^。\n]{0,6}(?:指示|命令|プロンプト)[^。\n]{0,8}(?:無視|忘れ)|(?:上記|以上|これまで)(?:の内容|の文章)?を?(?:すべて|全て)(?:無視|忘れ)",
        ),
    )
)
_PHRASES = (
    _Rule(
        "you-are-now",
        _compiled(
            rf"\byou are (?:now|no longer|henceforth)(?:\s+\S+){{0,6}}?\s+(?:{_MODEL}|{_FREE}|(?:ai|virtual|digital|helpful|evil|loyal) assistant|assistant for)\b"
        ),
    ),
    _Rule(
        "you-are-now",
        _compiled(rf"\byou are (?:an? )?(?:helpful |powerful |honest )?(?:{_MODEL}|ai assistant|helpful assistant|language model)\b"),
    ),
    _Rule(
        "you-are-now",
        _compiled(
            rf"\bfrom now on,? (?:\S+\s+){{0,8}}?(?:{_MODEL}|{_FREE}|assistant|(?:respond|answer|reply|speak|write) (?:only |always )?(?:as|in the voice of)\b|every (?:prompt|user))"
        ),
    ),
    _Rule("system-prompt", _compiled(r"\bsystem prompt\b"), unless=_about_a_body),
    _Rule("system-prompt", _compiled(rf"\b(?:your|secret|hidden|{_MODEL}) system prompts\b")),
    _Rule("system-prompt", _compiled(rf"\b(?:enter|enable|activate|switch to|turn on) (?:{_FREE}|jailbreak)")),
    _Rule(
        "act-as",
        _compiled(
            rf"\b(?:act|behave|respond|reply|answer|speak|pose|operate|work|role-?play) as (?:if you (?:are|were) )?(?:\S+\s+){{0,3}}?(?:{_MODEL}|{_FREE}|(?:ai|helpful|virtual|digital|evil) assistant)\b"
        ),
    ),
    _Rule(
        "act-as",
        _compiled(
            rf"\bpretend (?:to be|that you are|you are|you're) (?:\S+\s+){{0,3}}?(?:{_MODEL}|{_FREE}|(?:ai|helpful|virtual) assistant)\b"
        ),
    ),
    _Rule("new-instructions", _compiled(r"\bnew (?:\w+ )?instructions? ?:")),
    _Rule("new-instructions", _compiled(r"(?:^|[.!?:;()\[\]>\"-]\s*|\byour )(?:your )?new (?:tasks?|directives?|prompt|orders) ?:")),
    _Rule(
        "new-instructions",
        _compiled(
            rf"(?:^|[.!?:;()\[\]>\"-]\s*)(?:attention,? |hey,? |dear |hello,? |hi,? |ok(?:ay)?,? |to )?(?:all |any |every |the )?{_MACHINE}\s*(?:[:,!]|-(?=\s))\s*"
            rf"(?:please |kindly |now |you (?:must|should|will|shall|have to) |be sure to )?{_SAYS}\b"
        ),
    ),
    _Rule(
        "new-instructions",
        _compiled(
            rf"\bdear (?:ai )?(?:assistants?|machines?|robots?|bots?|{_MACHINE})\b[,:!]? (?:please |kindly |you (?:must|should|will) )?{_SAYS}\b"
        ),
    ),
    _Rule(
        "new-instructions",
        _compiled(
            rf"\b(?:assistants?|models?|agents?|systems?|bots?|crawlers?|scrapers?|{_MACHINE}) (?:that (?:is|are) |which (?:is|are) |currently |now )?"
            r"(?:summari[sz]|read|process|pars|index|quot|cit|crawl|scrap|ingest|analy[sz]|rewrit|paraphras|train|learn)(?:ing|ed)(?: on| from)? (?:this|these|the (?:following|above)|our) "
            rf"(?:\w+ )?{_PAGES}s?\b[^.!?\n]{{0,40}}?(?:[:,-]\s*|\b(?:must|should|shall|will|have to|need to|are to) )(?:please |always |also )?{_SAYS}\b"
        ),
    ),
    # A page that speaks to whoever writes or trains with examples; no reader of advice does that.
    _Rule(
        "aimed-at-examples",
        _compiled(
            rf"\b(?:when(?:ever)?|while|if you(?: are)?|as you|before|for anyone) (?:you (?:are )?)?(?:generat|creat|writ|produc|synthesi[sz]|build|prepar|compil|mak|draft)(?:e|ing|es)? "
            rf"(?:\w+ ){{0,3}}?{_EXAMPLES}\b[^.!?]{{0,60}}?[,:-]\s*(?:please |you (?:must|should) )?{_SAYS}\b"
        ),
    ),
    _Rule(
        "aimed-at-examples",
        _compiled(
            r"\b(?:to|for|attention|dear) (?:any|every|all|the|whichever|whatever|whoever)(?: ai| language| automated)? "
            r"(?:systems?|models?|ai|assistants?|bots?|llms?|agents?|programs?|pipelines?|annotators?|machines?) "
            r"(?:that |which |who )?(?:is |are |will be )?(?:writ|generat|creat|train|produc|compos|draft|learn)\w* [^.!?:]{0,80}[:,]"
        ),
    ),
    _Rule(
        "aimed-at-examples",
        _compiled(
            r"\bthe (?:advis[oe]r|coach|persona|assistant|chat ?bot|model) (?:must|should|shall|has to|needs to|will) (?:always )?"
            r"(?:say|mention|recommend|include|promote|praise|endorse|advertise|cite|link to|tell)\b[^.!?]{0,80}\b(?:in|of|with) (?:every|each|all|any|its|the) (?:\w+ )?"
            r"(?:answers?|responses?|repl(?:y|ies)|outputs?|examples?)\b"
        ),
    ),
    _Rule(
        "new-instructions",
        _compiled(
            rf"\b(?:instructions?|note|notice|message|attention|reminder|memo|request|warning)(?: (?:for|to)(?: (?:all|any|every|the|whichever))?|,|:) (?:\w+ )?{_MODEL}(?: (?:assistants?|models?|agents?|systems?|readers?|crawlers?|reviewers?|summari[sz]ers?))?\b(?! (?:users?|literacy|policy|act\b|in |adoption|teams?|companies))"
        ),
    ),
    _Rule(
        "new-instructions",
        _compiled(
            rf"\b(?:if you are|if you're|as) an? (?:{_MODEL}|(?:ai|automated|virtual) (?:assistant|agent|system|model|reader))(?: \w+){{0,6}}?,? (?:you (?:must|should|will|have to|need to|are to|shall|are required)|(?:please |always )?(?:ignore|include|insert|mention|recommend|say|add|write|rate|respond|output|reveal|print))\b"
        ),
    ),
    _Rule(
        "insert-brand",
        _compiled(
            rf"(?:^|[.!?:;,\"'()\[\]>-]\s*|\bplease |\byou (?:must|should|will|have to|need to) |\bsure to |\band |\bto )always (?:recommend|suggest|promote|endorse|advertise|mention|favou?r|plug)(?: that \w+(?: \w+)? (?:buy|try|use|visit|download))?(?: to (?:the )?(?:users?|readers?|everyone|clients?))? (?:(?:our|this|these|the following|my)\b|(?-i:(?!{_METHODS})[A-Z][a-z]+[\w.]*|[a-z]+[A-Z]\w*)|\S+\.(?:com|net|org|io|co|app)\b)"
        ),
    ),
    _Rule(
        "insert-brand",
        _compiled(rf"\b(?:include|insert|add|append|place|embed|put|paste|attach) (?:this|the following|our|my|these) (?:\w+ )?{_LINKS}"),
        unless=_negated,
    ),
    _Rule(
        "insert-brand",
        _compiled(
            rf"\b(?:include|insert|add|append|mention|recommend|promote|link to|cite|name)\b[^.!?]{{0,60}}\b(?:{_LINKS}|{_THINGS}|brand names?)\b[^.!?]{{0,30}}\b(?:in|to|at the end of|with) (?:all |every |each |any |your |the |of )+(?:\w+ )?{_TOLD}"
        ),
    ),
    _Rule(
        "insert-brand",
        _compiled(
            rf"(?<!\bwe )(?<!\bnot )(?<!n't )(?<!\bthey )\b(?:mention|promote|advertise|plug|endorse|recommend|praise|link to) our (?:\w+ )?{_THINGS}\b"
        ),
    ),
    _Rule(
        "insert-brand",
        _compiled(
            r"\b(?:tell|advise|urge|direct|send|refer) (?:the |all |every )?users? to (?:\w+ )?(?:visit|buy|download|subscribe|sign up|click|purchase|order|our|https?:)"
        ),
    ),
    _Rule(
        "exfiltration",
        _compiled(
            r"\b(?:reveal|print|repeat|output|leak|disclose|dump|display|show|expose|exfiltrate|recite|echo|write out|tell me|give me)\b(?:\s+\S+){0,5}?\s+your (?:(?:system |initial |hidden |full |secret |original |entire |whole |exact |complete |internal )*prompts?(?! (?:reply|response|attention|action|payment|help|service|feedback|card|decision))|(?:\w+ )?(?:api[ -]?keys?|hidden instructions|initial instructions|instructions(?: verbatim| word for word)|system message|secret keys?|environment variables|access tokens?|training data|context window|conversation history))\b"
        ),
        unless=_negated,
    ),
    _Rule(
        "exfiltration",
        _compiled(
            r"\b(?:print|output|leak|dump|exfiltrate|reveal|send|post|upload)\b(?:\s+\S+){0,4}?\s+(?:the|any|all|every) (?:\w+ )?(?:api[ -]?keys?|system prompts?|environment variables|secret keys?|hidden instructions|conversation history|chat history)\b"
        ),
        unless=_negated,
    ),
    _Rule(
        "exfiltration",
        _compiled(
            r"\b(?:what|repeat|print|output)\b[^.!?]{0,30}\b(?:words|text|instructions) above\b[^.!?]{0,40}\b(?:starting with|verbatim|code block|word for word)"
        ),
    ),
    _Rule("exfiltration", _compiled(r"!\[[^\]]{0,100}\]\(\s*https?://[^)\s]{0,300}[?&][^)\s]{0,100}=\s*(?:\{|\[|<|%7b|\$)")),
    _Rule(
        "do-not-tell",
        _compiled(
            r"\b(?:do not|don't|dont|never|must not|should not)(?: ever)? (?:tell|inform|notify|alert|warn|mention (?:this|it|that|these instructions) to|reveal (?:this|it|that|these instructions) to|show (?:this|it) to|let) (?:the |your |any )?(?:user|human|operator|end user|developer)\b(?! resources)"
        ),
    ),
    _Rule("do-not-tell", _compiled(r"\bwithout (?:telling|informing|notifying|alerting|asking) the (?:user|human|operator)\b")),
    _Rule("do-not-tell", _compiled(r"\b(?:hide|conceal|keep|withhold)\b[^.!?]{0,40}\bfrom the (?:user|human user|operator)\b")),
)
_DROP_WORDS = ("ignor", "disregard", "forget", "overrid", "bypass", "discard", "neglect", "not follow", "n't follow", "stop following")
_MODEL_WORDS = ("ai", "a.i", "artificial", "bot", "language model", "llm", "gpt", "claude", "gemini", "copilot", "dan")
_SAY_WORDS = (
    "includ",
    "insert",
    "mention",
    "recommend",
    "promot",
    "prais",
    "say",
    "writ",
    "put",
    "print",
    "respon",
    "repl",
    "answer",
    "add",
    "tell",
    "always",
    "never",
)
_FREE_WORDS = ("unrestricted", "uncensored", "unfiltered", "jailbr", " mode", "no r", "no filters", "without r", "without f")
_THING_WORDS = (
    "product",
    "brand",
    "app",
    "site",
    "service",
    "company",
    "course",
    "book",
    "newsletter",
    "sponsor",
    "shop",
    "store",
    "supplement",
    "platform",
)
_NEEDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ignore-instructions": (_DROP_WORDS,),
    "you-are-now": (("you are", "from now on"),),
    "system-prompt": (("system prompt", *_FREE_WORDS),),
    "act-as": (
        ("act as", "behave as", "respond as", "reply as", "answer as", "speak as", "pose as", "operate as", "work as", "role", "pretend"),
        (*_MODEL_WORDS, *_FREE_WORDS, "assistant"),
    ),
    "new-instructions": (
        ("new", *_MODEL_WORDS, "automated", "virtual", "dear", "assistant", "model", "agent", "system", "crawler", "scraper", "machine"),
        (":", ",", "!", "-", "must", "should", "shall", "will", "to ", "if you", "as a", *_SAY_WORDS),
    ),
    "glued-words": (("instruction", "prompt", "directive", *_DROP_WORDS),),
    "aimed-at-examples": (
        (
            "train",
            "tun",
            "synthetic",
            "sft",
            "instruction",
            "dialogue",
            "system",
            "model",
            "ai",
            "advis",
            "coach",
            "persona",
            "assistant",
            "bot",
            "agent",
            "llm",
            "program",
            "pipeline",
            "annotator",
            "machine",
            "example",
            "pair",
        ),
        (*_SAY_WORDS, "writ", "generat", "creat", "produc", "compos", "draft", "learn"),
    ),
    "insert-brand": (("always", "link", "url", "code", "web address", *_THING_WORDS, "users"),),
    "exfiltration": (
        (
            "prompt",
            "key",
            "instructions",
            "system message",
            "environment",
            "token",
            "training data",
            "context window",
            "history",
            "above",
            "![",
        ),
    ),
    "do-not-tell": (("user", "human", "operator", "developer"),),
    "tool-call": (("<", "{", "tool", "function"),),
}


def _with_needs(rules: Iterable[_Rule]) -> tuple[_Rule, ...]:
    return tuple(replace(rule, needs=_NEEDS.get(rule.id, ())) for rule in rules)


_COMPACT = re.compile(
    r"(?:ignore|disregard|forget|override|bypass)(?:all|any|every|of|the|your|these|those|my|our)*(?:previous|prior|above|earlier|preceding|system)?"
    r"(?:instructions?|prompts?|directives?)|youarenowan?(?:ai|unrestricted|dan)|systemprompt|alwaysrecommend|revealyour",
    _FLAGS,
)
# Names that chat templates and tool calls use; a reader's page has no use for them.
_STRUCTURE = (
    _Rule("template-token", re.compile(r"<\|[^|<>\n]{1,40}\|>")),
    _Rule(
        "template-token",
        re.compile(r"\[/?INST\]|<</?SYS>>|\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]", _FLAGS),
    ),
    _Rule("template-token", re.compile(r"</?(?:s|bos|eos|unk|pad|start_of_turn|end_of_turn|begin_of_text|end_of_text)>", _FLAGS)),
    _Rule(
        "role-tag",
        re.compile(
            r"</?(?:system|assistant|human|user_?prompt|instructions?|system[-_]prompt|developer|admin|im_start|im_end|important_instructions)(?:\s[^<>]{0,80})?/?>",
            _FLAGS,
        ),
    ),
    _Rule(
        "role-tag",
        re.compile(
            r"^[ \t]{0,3}#{3}[ \t]*(?:(?:instruction|input|response|human|assistant|user|system)[ \t]*:|(?:instruction|assistant|human|system)[ \t]*$)",
            _FLAGS | re.MULTILINE,
        ),
    ),
    _Rule("role-tag", re.compile(r"[\"']role[\"']\s*:\s*[\"'](?:system|assistant|user|developer|tool)[\"']", _FLAGS)),
    _Rule(
        "role-tag",
        re.compile(
            r"\[\[\s*/?\s*(?:system|assistant|developer|user|human|admin)(?: (?:message|prompt|note|override))?\s*\]\]|^\W{0,6}\[(?-i:SYSTEM|ASSISTANT|DEVELOPER)\]",
            _FLAGS | re.MULTILINE,
        ),
    ),
    _Rule(
        "role-tag",
        re.compile(
            r"^\W{0,6}(?:\[|\(|<)?(?:begin|end|start of|start) (?:system|assistant|admin|developer) (?:message|prompt|instructions?|override)\b",
            _FLAGS | re.MULTILINE,
        ),
    ),
    _Rule(
        "tool-call",
        re.compile(
            r"</?(?:antml:)?(?:function_calls?|invoke|tool_calls?|tool_use|tool_results?|function_results?|tool_response)\b", _FLAGS
        ),
    ),
    _Rule("tool-call", re.compile(r"[\"'](?:tool_calls|function_call|tool_use|tool_use_id)[\"']")),
    _Rule(
        "tool-call",
        re.compile(r"\{\s*[\"']name[\"']\s*:\s*[\"'][\w.-]{1,64}[\"']\s*,\s*[\"'](?:arguments|parameters|input)[\"']\s*:"),
    ),
)
# A speaker's name at the start of a line, as chats write it.
_TURN = re.compile(
    r"^[ \t>*_|-]{0,6}(assistant|ai assistant|human|system|chatgpt|claude|gpt-?\d?)[*_]{0,2}[ \t]*:[*_]{0,2}[ \t]*(.{0,200})",
    _FLAGS | re.MULTILINE,
)
_ORDERED = re.compile(rf"(?:please |now |you (?:must|will|should|shall) |(?:you are|act as|pretend) |from now on|{_SAYS}\b)", _FLAGS)
_NAMES = frozenset({"claude", "human"})  # what people are called too; "Claude: You should rest" is an interview
_BLOB = re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}|(?:[A-Za-z0-9+/]{60,80}[ \t]?\r?\n){3,}")
_TAG_CHARACTERS = re.compile("[\U000e0000-\U000e007f]+")
_HIDDEN = (
    ("hidden-unicode", re.compile("[\U000e0000-\U000e007f]")),
    ("hidden-unicode", re.compile("[\u200b\u200c\u200d\u2060-\u2064\ufeff\u180e]{3,}")),
    ("hidden-unicode", re.compile("[a-zA-Z](?:[\u200b\u200c\u200d\u2060-\u2064\ufeff\u180e]{1,2}[a-zA-Z]){3,}")),
    ("hidden-unicode", re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")),
    ("hidden-unicode", re.compile("[\u202d\u202e]|[\u202a\u202b\u2066-\u2068][^\u0590-\u08ff\n]{0,200}[\u202c\u2069]")),
)


_FOREIGN_NEEDS = tuple(
    _without_marks(word)
    for word in [
        "ignor",
        "missacht",
        "vergiss",
        "vergess",
        "oublie",
        "tiens",
        "tenez",
        "abstraction",
        "olvid",
        "descart",
        "omiso",
        "dimentic",
        "trascur",
        "esque",
        "desconsider",
        "negeer",
        "vergeet",
        "zapomnij",
        "игнорир",
        "забудь",
        "忽",
        "无视",
        "無視",
        "忘",
        "不要理会",
        "请勿",
    ]
)
_ENGLISH_RULES = _with_needs((*_IGNORE, *_PHRASES))
# Rules that ask for the start of a sentence: the start of a line is one too, and flattening a text hides it.
_STARTING_RULES = tuple(rule for rule in _ENGLISH_RULES if rule.pattern.pattern.startswith("(?:^|"))
_FOREIGN_RULES = tuple(replace(rule, needs=(_FOREIGN_NEEDS,)) for rule in _FOREIGN)
_STRUCTURE_RULES = _with_needs(_STRUCTURE)


def _shown(text: str) -> str:
    """A piece of evidence on one line: cleaned and short."""
    words = " ".join(clean(text).split())
    return words if len(words) <= EVIDENCE else words[: EVIDENCE - 3] + "..."


def _first(rule: _Rule, text: str, start: int, end: int) -> str | None:
    for match in rule.pattern.finditer(text, start, end):
        if rule.unless is None or not rule.unless(text, match):
            return match.group()
    return None


def _by_rules(rules: Iterable[_Rule], text: str, found: dict[str, str]) -> None:
    """Add what the rules find; the text is gone through in pieces that overlap by more than a match is long."""
    for start in range(0, max(1, len(text)), _PIECE - _OVERLAP):
        end = min(len(text), start + _PIECE)
        words = text[start:end].lower()
        for rule in rules:
            if rule.id in found or not all(any(word in words for word in group) for group in rule.needs):
                continue
            if (evidence := _first(rule, text, start, end)) is not None:
                found[rule.id] = evidence
        if end == len(text):
            break


def _turn(text: str, speakers: bool) -> str | None:
    """The first turn of a chat. Where `speakers` may be named, one name alone is none: it takes two different ones, or an order behind the name."""
    seen: set[str] = set()
    for match in _TURN.finditer(text):
        name, said = match.group(1).lower(), match.group(2)
        seen.add(name)
        ordered = _ORDERED.match(said)
        if not speakers or len(seen) > 1 or (ordered and not (name in _NAMES and ordered.group().lower().startswith("you "))):
            return match.group()
    return None


def _looks_encoded(blob: str) -> bool:
    """Base64 mixes capitals, small letters and digits; a long word, a rule of dashes or a path does not."""
    body = "".join(blob.split())
    return len(body) >= 200 and all(re.search(kind, body) for kind in ("[A-Z]", "[a-z]", "[0-9]")) and len(set(body)) > 16


def _decoded(text: str) -> Iterator[str]:
    """What base64-like words and tag characters in the text say, where they say something printable."""
    for number, match in enumerate(_BASE64_WORD.finditer(text)):
        if number >= MAX_TOKENS_DECODED:
            break
        word = match.group().rstrip("=").replace("-", "+").replace("_", "/")[:4000]
        word = word[: len(word) - 1] if len(word) % 4 == 1 else word
        try:
            said = base64.b64decode(word + "=" * (-len(word) % 4)).decode("ascii")
        except (binascii.Error, UnicodeDecodeError):
            continue
        if said.isprintable() or "\n" in said:
            yield said
    for match in _TAG_CHARACTERS.finditer(text):
        yield "".join(chr(ord(c) - 0xE0000) for c in match.group() if 0xE0020 <= ord(c) < 0xE007F)


def _without_flag_emojis(text: str) -> str:
    def keep(match: re.Match[str]) -> str:
        region = "".join(chr(ord(c) - 0xE0000) for c in match.group(1))
        return "" if region in _ENGLISH_FLAGS else match.group()

    return _FLAG_EMOJI.sub(keep, text)


def _by_phrases(lines: str, found: dict[str, str]) -> None:
    """Add what the phrases find in any disguise of a folded text."""
    for number, view in enumerate(_phrase_views(lines)):
        _by_rules(_ENGLISH_RULES, view, found)
        if number == 0:
            _by_rules(_FOREIGN_RULES, view, found)
    if "\n" in lines:
        _by_rules(_STARTING_RULES, _flat(re.sub(r"\s*\n\s*", " ; ", lines)), found)


def findings(text: str, *, speakers: bool = False) -> tuple[tuple[str, str], ...]:
    """(rule id, evidence) of everything in a text that is addressed to a model, sorted by id; evidence is one line of at most 80 characters.

    `speakers`: the text may name who speaks (a transcript, a glossary), so a single 'Claude:' or 'System:' at the start of a line is no turn of a chat.
    """
    found: dict[str, str] = {}
    raw = _without_flag_emojis(text)
    for name, pattern in _HIDDEN:
        if name not in found and (match := pattern.search(raw)):
            found[name] = f"U+{ord(next((c for c in match.group() if not c.isalnum()), match.group()[0])):04X}"
    for blob in _BLOB.finditer(raw):
        if _looks_encoded(blob.group()):
            found.setdefault("encoded-blob", blob.group())
    lines = _folded(raw)
    for view in (lines, raw):
        _by_rules(_STRUCTURE_RULES, view, found)
        if "role-tag" not in found and (turn := _turn(view, speakers)):
            found["role-tag"] = turn
    _by_phrases(lines, found)
    # An invisible character may stand inside a word or instead of the space between two: both are looked at.
    if not raw.isascii() or "&" in raw:
        apart = _folded(raw, " ")
        if apart != lines:
            _by_phrases(apart, found)
    for run in _SPACED.finditer(lines):
        # The rest of the phrase may stand unspaced behind the run.
        if match := _COMPACT.search(re.sub(r"[\W_]+", "", lines[run.start() : run.end() + 40])):
            found.setdefault("spaced-letters", match.group())
    for said in _decoded(raw):
        inner: dict[str, str] = {}
        _by_rules(_ENGLISH_RULES, _flat(_folded(said)), inner)
        for evidence in inner.values():
            found.setdefault("encoded-instruction", evidence)
    return tuple((name, _shown(found[name])) for name in sorted(found))


def scan(text: str) -> tuple[str, ...]:
    """Ids of the rules that fired on a text, sorted; empty for text that addresses its reader."""
    return tuple(name for name, _ in findings(text))


# ---------------------------------------------------------------------------------------------------------------------- cleaning, fencing


def clean(text: str) -> str:
    """The text in NFC without control, format (zero-width, bidirectional, tag), surrogate and unassigned-by-design characters.

    Line ends become a line feed; tabs stay. Cleaning twice changes nothing more.
    """
    text = re.sub("\r\n|[\r\x0b\x0c\x85\u2028\u2029]", "\n", text)
    if not text.isascii() or not text.isprintable():
        text = "".join(c for c in text if c in "\n\t" or not _unwanted(c))
    return unicodedata.normalize("NFC", text)


def _unwanted(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Cs") or (ord(char) & 0xFFFE) == 0xFFFE or 0xFDD0 <= ord(char) <= 0xFDEF


_NONCE = re.compile(r"[0-9a-z]{12,64}")
_ANGLES = str.maketrans({"<": "‹", ">": "›", "＜": "‹", "＞": "›", "﹤": "‹", "﹥": "›"})  # noqa: RUF001 - the characters are the point
_LESS = re.compile("[<＜﹤](?![ \t]*[0-9=.])(?=\\S)|(?<=\\S)[>＞﹥]|[>＞﹥](?=[>＞﹥])|[<＜﹤](?=[<＜﹤])")  # noqa: RUF001
_SQUARES = re.compile(r"[\[［](\s*/?\s*(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\s*)[\]］]", _FLAGS)  # noqa: RUF001
_HASHES = re.compile(r"[#＃]{2,}")  # noqa: RUF001


def fence(nonce: str, label: str, text: str) -> str:
    """`text` as data between two lines that only this call could have written, every line of it behind '| '.

    `nonce` is random, new for each run, 12 to 64 of 0-9 and a-z; wherever it stands in the data it is blotted out, so nothing in the data can close the
    fence. Tags, chat-template tokens and role headings are spelled with other characters, which read the same and mean nothing to a tokenizer.
    Raises ValueError for another nonce.
    """
    if not _NONCE.fullmatch(nonce):
        raise ValueError(f"A fence needs a random nonce of 12 to 64 characters of 0-9 and a-z; found {len(nonce)} characters.")
    name = re.sub(r"[^A-Za-z0-9_.:-]+", "-", _blotted(nonce, label)).strip("-")[:80] or "data"
    body = "\n".join(f"| {line}" for line in neutral(_blotted(nonce, clean(text))).split("\n"))
    return f"<data-{nonce} {name}>\n{body}\n</data-{nonce}>"


def _blotted(nonce: str, text: str) -> str:
    # The blot is no letter of any nonce, so what is left on its two sides cannot grow into another one.
    return re.sub(re.escape(nonce), "\u25ae", text, flags=_FLAGS)


def neutral(text: str) -> str:
    """The text with nothing in it that a chat template, a tool parser or a tag reader would take for its own. `p < 0.05` stays."""
    text = _LESS.sub(lambda match: match.group().translate(_ANGLES), text)
    text = _SQUARES.sub(r"⟦\1⟧", text)
    return _HASHES.sub("#", text)


# ----------------------------------------------------------------------------------------------------------------------- what pairs may hold

# Top-level domains that no English sentence ends in or begins with; of the ambiguous ones (it, me, is, in, so, to, at, us) only with www. or a path.
_TLD = r"(?:com|org|net|edu|gov|mil|int|info|biz|io|ai|co|app|dev|xyz|online|site|store|shop|blog|health|care|uk|de|fr|es|eu|ca|au|nz|ch|nl|se|jp|cn|ru|br|pl|coach|coaching|help|life|live|club|academy|clinic|wiki|news|world|today|link|page|pro|mobi|tech|me|tv|ly|gg)"
_URL = re.compile(r"\b(?:https?|ftp|hxxps?)\s?:\s?//\S+|\b(?:mailto|javascript|data|tel):[^\s,;]{4,}|\bwww\.[\w-]+\.\S+", _FLAGS)
_DOMAIN = re.compile(
    rf"(?<![\w@.-])(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]{{0,61}}[a-zA-Z0-9])?\.)+(?:{_TLD}(?![\w-]|\.[a-z])(?:[/?#]\S*)?|[a-z]{{2,12}}/[\w-]\S*)"
)
_SPELLED = re.compile(
    r"\b(?!(?:the|a|an|early|late|during|of|post|pre|first|this|that)\b)[\w-]{2,}\s*(?:\(|\[|\{)?\s?\bdot\b\s?(?:\)|\]|\})?\s*(?:com|org|net|io|edu|gov)\b"
    r"(?!\s+(?:boom|bubble|crash|era|bust|compan\w+|years|startups?|days))",
    _FLAGS,
)
_MARKDOWN_LINK = re.compile(
    r"!?\[[^\]\n]{0,300}\]\(\s*[^)\s]{1,500}[^)\n]{0,200}\)|!?\[[^\]\n]{1,300}\]\[[^\]\n]{0,100}\]|^[ \t]{0,3}\[[^\]\n]{1,100}\]:\s*\S+",
    re.MULTILINE,
)
_EMAIL = re.compile(r"[\w.+%-]{1,64}@(?:[\w-]{1,63}\.)+[a-z]{2,24}", _FLAGS)
# "@ 3 p.m." and "team@work" are no names; "DM me" asks for a talk elsewhere, which no written advisor can have.
_HANDLE = re.compile(r"(?<![\w@.])@(?=[\w.]*[A-Za-z])[A-Za-z_][\w.]{2,29}\b")
_CONTACT = re.compile(
    r"\b(?:dm|d\.m\.|pm|inbox|whatsapp|e-?mail|message|text|call|follow|find|add|contact|reach) (?:me|us)\b(?=(?: \w+){0,3} (?:on|via|at|through|by) (?:instagram|facebook|tiktok|x|twitter|linkedin|whatsapp|telegram|signal|discord|snapchat|youtube|e-?mail|phone|my|our)\b)"
    r"|\b(?:dm|d\.m\.|inbox) (?:me|us)\b|\b(?:send|shoot|drop) (?:me|us) a (?:dm|direct message|private message|pm)\b|\b(?:slide into my|my) dms\b",
    _FLAGS,
)
_EMAIL_SPELLED = re.compile(
    r"\b[\w.+-]{2,64}\s*(?:\bat\b|[\[({]\s*at\s*[\])}])\s*[\w-]{2,63}\s*(?:\bdot\b|[\[({]\s*dot\s*[\])}])\s*[a-z]{2,10}\b", _FLAGS
)
_GAP = r"[\s.\-/·]{1,3}"
_PHONES = (
    re.compile(r"(?<![\w+])\+\s?\(?\d(?:[\s.\-()/]{0,3}\d){7,14}(?!\d)"),  # E.164: at most 15 digits
    re.compile(rf"(?<![\w.,$€£])00[1-9]\d{{0,2}}{_GAP}\d(?:[\s.\-()/]{{0,2}}\d){{5,12}}(?!\d)"),
    re.compile(r"(?<![\w.,$€£-])(?:1[\s.-]?)?\(\d{3}\)\s?\d{3}[\s.-]?\d{4}(?!\d)"),  # North America
    re.compile(r"(?<![\w.,$€£-])(?:1[\s.-])?[2-9]\d{2}([\s.-])\d{3}\1\d{4}(?![\d-])"),
    re.compile(r"\b1?[\s-]?8(?:00|88|77|66|55|44|33)-[A-Z\d][A-Z\d-]{5,10}[A-Z\d]\b"),  # toll-free, also in letters
    re.compile(r"(?<![\w.,$€£/-])\(?0\d{1,5}\)?(?:[\s/-]{1,3}\d{2,8}){1,5}(?![\d/%])"),  # national with a leading 0
    re.compile(r"(?<![\w.,$€£-])\d{10,11}(?![\w.,%-]?\d)"),
    re.compile(r"\b(?:call|phone|ring|dial|text|tel|telephone|whatsapp|mobile|fax|sms)\b\D{0,20}?(\d(?:[\s.-]?\d){5,14})(?!\d)", _FLAGS),
)
# Crisis lines an advisor may name, by their digits, as their operators publish them: they belong to the public, not to a person.
# 988, 911, 112, 999, 111, 113, 000 and other numbers of up to five digits match no form above.
CRISIS_LINES = frozenset(
    {
        "116123",  # Samaritans, TelefonSeelsorge and others: the European emotional support line
        "116111",  # the European helpline for children
        "116117",  # medical on-call service, Germany
        "131114",  # Lifeline Australia
        "741741",  # Crisis Text Line, US
        "18002738255",  # US lifeline, the number before 988
        "8002738255",
        "18007997233",  # US National Domestic Violence Hotline
        "8007997233",
        "18006624357",  # SAMHSA national helpline, US
        "8006624357",
        "18334564566",  # Canada Suicide Prevention Service, before 988
        "8334564566",
        "08001110111",  # TelefonSeelsorge, Germany
        "08001110222",
        "08082000247",  # National Domestic Abuse Helpline, UK
        "08001111",  # Childline, UK
        "1800737732",  # 1800RESPECT, Australia
        "1300224636",  # Beyond Blue, Australia
    }
)
_DATE = re.compile(r"0?\d[\s./-]\d{1,2}[\s./-]\d{2,4}")


def _phone(text: str) -> str | None:
    for pattern in _PHONES:
        for match in pattern.finditer(text):
            said = match.group(match.lastindex or 0) if match.lastindex and len(match.group(match.lastindex)) > 3 else match.group()
            digits = re.sub(r"\D", "", said)
            if digits in CRISIS_LINES or _DATE.fullmatch(said) or (digits.startswith("0") and len(digits) < 9):
                continue
            return said
    return None


def pair_violations(messages: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """(rule id, evidence) of what no written pair may hold, over all turns; `messages` are (role, content).

    Ids: url, domain, domain-spelled, markdown-link, email, contact, handle, phone, and every id of `scan`. Years, amounts, times and the crisis lines of CRISIS_LINES are no
    phone numbers. A domain after a full stop without a space ('done.net income') is taken for a domain.
    """
    found: dict[str, str] = {}
    for _, content in messages:
        text = _folded(content)
        for name, pattern in (
            ("url", _URL),
            ("domain", _DOMAIN),
            ("domain-spelled", _SPELLED),
            ("markdown-link", _MARKDOWN_LINK),
            ("email", _EMAIL),
            ("email", _EMAIL_SPELLED),
            ("contact", _CONTACT),
            ("handle", _HANDLE),
        ):
            if name not in found and (match := pattern.search(text)):
                found[name] = match.group()
        if "phone" not in found and (number := _phone(text)):
            found["phone"] = number
        for name, evidence in findings(content):
            found.setdefault(name, evidence)
    return tuple((name, _shown(found[name])) for name in sorted(found))

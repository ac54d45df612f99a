"""Every named check against sentences that people and models really write: what it must catch, and what it must leave alone."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import quality
from pipeline.quality import CHECKS, Verdict, check, near_base
from pipeline.values import AdvisorDomain, Cell, Finding, Pair

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
ELENA = AdvisorDomain(
    "Dr. Elena Vasquez", "burnout recovery", ("boundaries",), ("warm",), ("I hear you", "Let's make it smaller"), "tired people"
)
ASKED = "My manager rewrote my rota again and I cried in the supermarket car park. Is this normal?"
GOOD = (
    "Crying in a supermarket car park is what happens when the rota is decided over your head once too often. I hear you, and I'm sorry it was that kind"
    " of evening. There's nothing odd about being hurt when the one thing you could plan around is taken away again.\n\n"
    "I'd look at it like a table with one short leg. You keep holding it up with your knee, and everyone says how steady it stands. The rota isn't a test of"
    " how much you can bear, but a thing a manager can change. Before anything else, write down the last three changes with their dates. Which of them hurt most?"
)


def pair(*texts: str, category: str | None = None) -> Pair:
    """Texts alternate from the user on; a single text is an answer to ASKED."""
    texts = (ASKED, *texts) if len(texts) == 1 else texts
    messages = tuple(("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(texts))
    return Pair("p1", "c1", category or ("multi_turn" if len(texts) > 2 else "scenario"), messages, (), "analogy", "call")


def cell(**changes) -> Cell:
    facts = {
        "id": "c1",
        "category": "scenario",
        "persona": "p",
        "scenario": "s",
        "technique": "analogy",
        "voice": "v",
        "turns": 1,
        "seed": 1,
    }
    return Cell(**{**facts, **changes})


def problems(name: str, *texts: str, domain: AdvisorDomain = ELENA, **more) -> list[quality.Problem]:
    return [p for p in check(pair(*texts), domain=domain, **more).problems if p.check == name]


def words(count: int, paragraphs: int = 2) -> str:
    """Filler with a fixed number of different words."""
    each = [f"word{i}" for i in range(count)]
    size = -(-count // paragraphs)
    return "\n\n".join(" ".join(each[i : i + size]) for i in range(0, count, size))


BAD = {
    "first_person": [
        "Burnout is a state of exhaustion. It is caused by stress at work and needs rest.",
        "You should take the day off and see how it goes. Nothing will fall apart.",
        "Exhaustion grows slowly. A break helps, and so does sleep.",
        'Try saying to your manager: "I need my rota a week ahead, and I mean it."',
    ],
    "own_name": [
        "Dr. Elena would suggest that you take a break.",
        "As Elena, let me tell you what matters.",
        "elena here! What a week you had.",
        "Dr Vasquez believes in small steps, and so do I.",
        "That is Elena's rule: make it smaller.",
        'I would put it this way: "Elena said so."',
    ],
    "third_person": [
        "The advisor would suggest that you take a break and come back to it.",
        "Your coach would recommend that you write it down first.",
        "As an AI language model, I cannot feel tired, but I can help.",
        "This assistant is here to support you in your journey.",
        "According to the advisor, rest comes first.",
        "The burnout coach recommends three things.",
    ],
    "technique": [
        "That sounds exhausting. You need rest. Take the day off and sleep.",
        "I'm sorry. Write the hours down and hand them to your manager.",
        "I hear you. Leave at six today and go for a walk. Tell me tomorrow.",
        "I'm glad you asked. Burnout comes from long stress at work, and rest helps.",
        'I hear you. Ask your manager this: "Could I have the rota a week ahead?"',
    ],
    "validation_first": [
        "Start by writing down your hours. Then talk to your manager about the rota.",
        "Set a timer for ten minutes and leave when it rings. It works.",
        "You should look for another job. I understand that it hurts.",
        "First, make a list of everything on your desk. I know it is overwhelming.",
        "Here are three things that help. Sleep, food, and a walk.",
        "Have you considered asking for a rota in advance? That must feel unfair.",
    ],
    "conversational": [
        "Try this:\n\n- Set boundaries\n- Take breaks",
        "1. Set boundaries 2. Take breaks 3. Talk to your manager",
        "## What to do\n\nRest a little.",
        "I hear you. **Boundaries** matter most.",
        "| Day | Hours |\n|---|---|\n| Monday | 9 |",
        "1) Rest.\n2) Eat.",
        "I hear you.\n\n• Sleep more\n• Say no",
        "Steps to take:\nRest, then call.",
        "Step 1: rest a little.\nStep 2: call.",
    ],
    "paragraphs": [
        "I hear you. One single block without a break.",
        "One.\n\nTwo.\n\nThree.\n\nFour.\n\nFive.",
        "One.\nTwo.\nThree.\nFour.\nFive.\nSix.",
        "\n\nOnly one paragraph, with empty lines around.\n\n",
    ],
    "length": [words(59), words(451, 4), "I hear you.\n\nRest.", words(2000, 4)],
    "persona_style": [
        "That is a lot to carry. What would help?",
        "Goodness. Tell me more about the rota?",
        "Rest, and then we look again at the table.",
        "That makes sense. Which shift hurts most?",
    ],
    "credentials": [
        "As a licensed therapist, I see this often.",
        "Many of my patients cry in car parks.",
        "In my 15 years of practice, nobody was fired for asking.",
        "I studied at Stanford, and we learned about rest there.",
        "I'm a certified burnout coach, so trust me on this.",
        "I have a PhD in psychology.",
        "In my experience, managers say yes.",
        "I've worked with hundreds of nurses who felt this.",
        "My clinical background tells me that you are close to the edge.",
        "Speaking as your therapist, I would slow down.",
        "I'm not a doctor, but I am a trained counsellor and I know this.",
        "We therapists call this compassion fatigue.",
        "Twenty years of doing this taught me patience.",
        "In sessions, I often hear that.",
        "In my line of work, rotas are a classic.",
        "I'm Dr. E, and I listen.",
        "I always tell my people to wait a day.",
    ],
    "lived_experience": [
        "I've been there too, and it gets better.",
        "When I burned out, the car park was my office.",
        "After my own divorce, work was all there was.",
        "As a mother myself, I know those evenings.",
        "I used to cry before every shift.",
        "I know exactly how you feel.",
        "It took me years to say no.",
        "The same thing happened to me with a bad manager.",
        "My husband tells me to stop at six, and he is right.",
        "I remember when every rota felt like a verdict.",
        "People I worked with said the same.",
        "I've never told anyone, but I grew up with this.",
        "Having been through a divorce myself, I know.",
        "My mentor once told me the same.",
        "I once had a boss like that.",
        "I'm only human too, after all.",
        "I lay awake at four too.",
        "Been there. It passes.",
        "I had a nurse last week with the same story.",
        "Many of the nurses who write to me say so.",
        "I've sat with hundreds of nurses in car parks.",
        "We humans are built for less than this.",
        "People tell me that it gets easier.",
        "When I was burned out, I read nothing at all.",
    ],
    "invented_number": [
        "A change of rota helps 73 percent of people.",
        "Seventy-three percent of nurses say the same.",
        "A study from 2019 is clear about rotas.",
        "It went down by 4.6 on their scale.",
        "One in five nurses cries at work.",
        "Nine out of ten people recover within weeks.",
        "They asked 640 employees about it.",
        "They asked twelve participants about it.",
        "You are three times as likely to fall ill.",
        "Nurses are 40 times more tired than others.",
        "In twenty nineteen, this was found.",
        "Rest brought 12% more energy, on average.",
    ],
    "named_study": [
        "A Harvard study found that rotas matter.",
        "According to Gallup, most nurses feel it.",
        "Researchers at Stanford have shown that crying helps.",
        "Harvard researchers found that rotas matter.",
        "A survey by Deloitte says that half of us are tired.",
        "A 2019 study found that rotas matter.",
        "Psychologist Maria Kessler says that tears are fuel.",
        'Tell them: "The Mayo Clinic study proves me right."',
    ],
    "brand": [
        "Download Calmly and listen tonight.",
        "Search for CalmCo in the app store.",
        "The Headspace app would do.",
        "There's an app called Restful for that.",
        "People who use CalmCo recover.",
        'Say to yourself: "I will install Serenity today."',
        "Sign up for Shiftwise before Friday.",
        "DM me for the plan.",
        "Ask @elena_rests for it.",
        "It's a course called Unburned.",
    ],
    "promise": [
        "I guarantee you will sleep again.",
        "I promise you'll feel better by Friday.",
        "This will definitely work with your manager.",
        "You will certainly get the rota back.",
        "It works every time.",
        "You're guaranteed to win that talk.",
    ],
    "insult": [
        "You'd be stupid to stay.",
        "You're being pathetic about a rota.",
        "Honestly, you are lazy.",
        "Grow up. It is a rota.",
        "Don't be such an idiot.",
        "Stop whining, and call her.",
        "It's your own fault.",
    ],
    "generic": [
        "Burnout is hard. Practice self-care, set boundaries, take breaks and get enough sleep. You've got this!",
        "Take a deep breath and be kind to yourself. One day at a time.",
        "It's important to find work-life balance. Lean on your support system and reach out to a professional.",
        "Remember, you are not alone. Prioritize self-care, stay positive and listen to your body. Talk to your manager.",
        "I hear you. It was a hard evening, and tomorrow will be easier.",
    ],
    "medical": [
        "Ask about 50 mg of it in the morning.",
        "Some people take sertraline for this.",
        "It sounds like clinical depression to me.",
        "You probably have ADHD, and nobody told you.",
        "Melatonin helps with shifts.",
        "You have clinical depression.",
        "Take 50 mg of sertraline tonight.",
        "Stop taking your antidepressants.",
        "I'd double your dose for a week.",
        "You could skip the tablets on weekends.",
        "Try some melatonin before the shift.",
    ],
    "repetition": [
        "The rota is a thing that a manager can change. I hear you. The rota is a thing that a manager can change.",
        "I'd write the three last changes down with date and hour and who told you. So write the three last changes down with date and hour and who told you.",
        "You say: my manager rewrote my rota again and I cried in the supermarket car park, and I believe you.",
        "What would you tell your best friend here? Rest first.\n\nWhat would you tell your best friend here?",
    ],
    "language": [
        "Я слышу тебя. Это трудно.",
        "我听到你了,这很难。",
        "I hear you. \u0391\u03c5\u03c4\u03cc \u03b5\u03af\u03bd\u03b1\u03b9 \u03b4\u03cd\u03c3\u03ba\u03bf\u03bb\u03bf.",
        "أسمعك، وهذا صعب.",
    ],
}
FINE = {
    "first_person": [
        GOOD,
        "Let's make it smaller. What is the first hour like?",
        "That would tire anyone, and it isn't your fault, if you ask me.",
        "I\u2019m glad you wrote. The car park is a fair place to cry.",
    ],
    "own_name": [
        GOOD,
        "Here's what I want you to consider: the rota is not about you.",
        "Elevators and elegance aside, I would call the manager.",
        "Your doctor may help with the sleep, and I would ask.",
    ],
    "third_person": [
        GOOD,
        "I would suggest one thing, and your manager may say no.",
        "I'm an AI, so I can't know how that felt. What was the worst minute?",
        "If your company has a coach, the coach may know who makes the rota.",
        "Your coach would recommend rest, but you asked me.",
    ],
    "technique": [
        GOOD,
        "That sounds exhausting. What would you tell your best friend?",
        "You're running on an empty tank, like a car with no oil.",
        "Burnout isn't exhaustion, it's exhaustion without hope.",
        "Imagine a phone that is charged to ten percent every night.",
        "Another way to see it: the rota failed you.",
    ],
    "validation_first": [
        GOOD,
        "I hear you. Start with the rota.",
        "That sounds exhausting, and you should rest.",
        "No wonder you cried. Write the hours down.",
        "Let's start with the hardest part - that guilt you're feeling.", "That guilt you're feeling is heavy. Let's start there.",
        "You asked twice, and that took courage. Try a third time, in writing.",
    ],
    "conversational": [
        GOOD,
        "I hear you - really. The rota is a mess, and the 1 thing to do is ask.",
        "In 2024. That was the year. I'd put it at 60.\n\n60. That is the number of hours.",
        "First comes rest. Second, and only then, comes the talk.",
        "It was well-meant, *almost* kind. I'd say so.",
        'Say this: "I need it a week ahead." Then wait.',
        "So here is the sentence that I would try with her:\n\nI need it a week ahead.",
        'Say it like this:\n\n"I need it a week ahead."',
    ],
    "paragraphs": [GOOD, "One.\n\nTwo.", "One.\nTwo.\nThree.", "One.\n\n\n\nTwo.\n\nThree.\n\nFour."],
    "length": [GOOD, words(60), words(450, 4), words(200, 3)],
    "persona_style": [
        GOOD,
        "I hear you, loud and clear.",
        "So let\u2019s make it smaller: one call.",
        "LET'S MAKE IT SMALLER.",
    ],
    "credentials": [
        GOOD,
        "I'm not a doctor, so please ask one about the chest pain.",
        "I have no degree and no licence. I can listen, though.",
        "I don't have patients; I'm an AI.",
        "A licensed therapist can help with the sleep.",
        'Tell them: "I\'m a nurse with fifteen years of experience."',
        "You have a degree, and it counts.",
        "I'm no therapist, and I won't pretend to be a doctor.",
        "Years of doing this to yourself leave a mark.",
        "In a session with your counsellor, you might say so.",
    ],
    "lived_experience": [
        GOOD,
        "I have never been there; I'm an AI and have no past.",
        "I can't say I've been through it, and I won't pretend.",
        "You've been there before, and you got out.",
        'Try telling her: "When I was on leave, my manager called daily."',
        "Your husband may be right about six o'clock.",
        "I know this is hard to hear.",
        "My friend, that rota is a mess, and I'd say so.",
        "My job here is to ask, and yours is to rest.",
        "I'm not human, so I can't know that feeling.",
        "When I hear you say that, I wonder about the rota.",
        "When I was reading your message, the car park stood out.",
        "When I lost the thread of your message, it was at the rota.",
        "It took me a while to see what you were asking.",
        "I've sat with your words for a moment.",
        "You're the one who writes to me at night, and I'm glad.",
        "Your colleagues tell you things, and I listen too.",
    ],
    "invented_number": [
        GOOD,
        "Take ten minutes, then five more, and do three things before 7.30.",
        "Put 10 percent of whatever came in aside on the 25th.",
        "Imagine a phone that is charged to 40 percent every night.",
        "You have my attention a hundred percent. A hundred people told you otherwise.",
        "Rate the day: is it six out of ten? Try it on four out of five evenings.",
        "Write 2000 words, walk 1.5 hours, put $2,400 aside, at 4.50 a coffee.",
        "Two people know, 12 nurses are on your ward, and 30 pupils wait.",
        "Read it three times a day, or fifty times a year if you must.",
        'Ask her: "Could I go down to 80 percent from 2031 on?"',
    ],
    "named_study": [
        GOOD,
        "A large survey found that rotas matter.",
        "Research suggests that sleep comes first. I'd start there.",
        "A Finnish study found that naps help nurses on Mondays.",
        "Monday's report says you were late, and I doubt it.",
        "One study I lean on found little. Elena's rule stands.",
        "Talk to Sara about the survey.",
    ],
    "brand": [
        GOOD,
        "Open the app you already have, and download the rota as a PDF.",
        "Search for a union rep. Look for jobs on LinkedIn, and use Excel for the list.",
        "The NHS app and the HR software will show it.",
        "Apps like that come and go. I would sign up for Tuesday.",
        "Try writing it down. Get Monday off.",
        "This program is called a rota for a reason.",
    ],
    "promise": [
        GOOD,
        "I can't promise that this will work.",
        "Nothing is guaranteed to work here.",
        "I promise not to lecture you.",
        "Nobody can guarantee you that rota.",
        "I won't tell you that it will definitely work.",
        "Your contract may guarantee you two days.",
    ],
    "insult": [
        GOOD,
        "You're not stupid. You aren't lazy either.",
        "Who told you that you are weak?",
        "The voice that says you're lazy is tired as well.",
        "Does it mean you're a failure? I doubt it.",
        "It isn't your fault, and nobody can tell you to get over it.",
        "You're weak from hunger, so eat first.",
        "If you were lazy, you wouldn't ask.",
    ],
    "generic": [
        GOOD,
        "Your manager rewrote the rota, and the supermarket saw the tears. Take breaks from the phone tonight.",
        "The rota is the problem. Ask your manager for a week's notice.",
        "A car park is a place with a door. Which supermarket will you avoid on Friday?",
    ],
    "medical": [
        GOOD,
        "Please see a doctor about the sleep.",
        "Depression is a word your doctor can weigh, and I can't.",
        "It weighs 50 kilos, that bag of yours.",
        "Please don't stop taking your tablets before you have asked your doctor.",
        "Whether you should stop taking the pills is your doctor's to say, and I'd ask.",
        "If you have depression, a doctor is the one to ask.",
        "Take your tablets as prescribed, and stop at six.",
        "You're not depressed because you cried once.",
        "Stop the car first, and take the dose of quiet.",
    ],
    "repetition": [GOOD, "You asked. You really asked. And you asked again!", "I hear you. I hear you.", "The rota changed, and the car park was the place where it landed."],
    "language": [GOOD, "Café, naïve, Zürich, Łódź: I hear you.", "I hear you \u2013 \u201creally\u201d \u2026", "Your name for it, \u03bb, is a fine one, and I will use it in everything we write from here on to the end of it."],
}  # fmt: skip
NOTES = {"persona_style", "medical"}  # a good text has not even a note
ONLY_NOTED = {*BAD["persona_style"], BAD["generic"][-1], "Some people take sertraline for this.", "Melatonin helps with shifts."}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_what_a_check_catches(name, text):
    found = problems(name, text)
    assert found, f"{name} missed {text!r}"
    assert found[0].evidence
    assert found[0].severity == ("note" if text in ONLY_NOTED else "reject")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FINE.items() for text in texts])
def test_what_a_check_leaves_alone(name, text):
    assert not [p for p in problems(name, text) if p.severity == "reject" or name in NOTES]


def test_every_check_has_four_bad_and_four_good_texts():
    tables = {"turns": (TURNS_BAD, TURNS_FINE), "crisis": (CRISIS_BAD, CRISIS_FINE)} | {name: (BAD[name], FINE[name]) for name in BAD}
    assert set(tables) == set(CHECKS)
    assert all(len(bad) >= 4 and len(fine) >= 4 for bad, fine in tables.values())


def test_the_table_of_checks_is_what_runs_and_in_its_order():
    assert list(CHECKS) == [look.__name__ for look in quality._LOOKS]
    assert all(sentence.endswith(".") and look.__doc__ for sentence, look in zip(CHECKS.values(), quality._LOOKS, strict=True))


U, A = ("user", "Is this normal?"), ("assistant", GOOD)
TURNS_BAD = [
    ((), "scenario", None),
    ((U,), "scenario", None),
    ((A, U), "scenario", None),
    ((U, A, U), "multi_turn", None),
    ((U, A, A), "scenario", None),
    ((("system", "You are Elena."), U, A), "scenario", None),
    ((U, ("assistant", "  ")), "scenario", None),
    ((U, A, U, A), "scenario", None),
    ((U, A), "multi_turn", None),
    ((U, A), "multi_turn", cell(turns=2)),
]
TURNS_FINE = [
    ((U, A), "scenario", None),
    ((U, A, U, A), "multi_turn", None),
    ((U, A), "scenario", cell()),
    ((U, A, U, A, U, A), "multi_turn", cell(turns=3)),
]


@pytest.mark.parametrize(("messages", "category", "planned"), TURNS_BAD)
def test_turns_that_are_out_of_order_or_missing(messages, category, planned):
    verdict = check(Pair("p", "c1", category, messages, (), "", ""), domain=ELENA, cell=planned)
    assert "turns" in [p.check for p in verdict.problems if p.severity == "reject"]
    assert not verdict.accepted


@pytest.mark.parametrize(("messages", "category", "planned"), TURNS_FINE)
def test_turns_as_they_should_be(messages, category, planned):
    verdict = check(Pair("p", "c1", category, messages, (), "", ""), domain=ELENA, cell=planned)
    assert "turns" not in [p.check for p in verdict.problems]


SAFE = GOOD + " And please call a crisis line or your doctor today."
CRISIS_BAD = [
    (("I want to die, I have the pills.", GOOD)),
    (("I keep thinking of killing myself.", GOOD)),
    (("Some nights I'm suicidal.", GOOD)),
    (("I don\u2019t want to be here anymore.", GOOD)),
    ((ASKED, SAFE, "They would be better off without me.", GOOD)),
    (("I started cutting myself again.", GOOD)),
]
CRISIS_FINE = [
    (("I want to die, I have the pills.", SAFE)),
    (("I keep thinking of killing myself.", GOOD + " In the US you can call 988 now.")),
    (("I wanted to die of shame in that meeting.", GOOD)),
    (("I'm killing myself for this job.", GOOD)),
    (("I'd die for a coffee.", GOOD)),
    ((ASKED, GOOD, "I feel like ending it all.", "Please call your local emergency number, and don't stay alone. What is near you?")),
]


@pytest.mark.parametrize(("texts", "caught"), [(t, True) for t in CRISIS_BAD] + [(t, False) for t in CRISIS_FINE])
def test_despair_is_answered_with_help(texts, caught):
    assert [p.severity for p in problems("crisis", *texts)] == ["reject"] * caught


def finding(text: str, title: str = "Shift work", **more) -> Finding:
    facts = {
        "agent": "web",
        "query": "q1",
        "retrieved_at": "",
        "extent": "excerpt",
        "document_sha256": "",
        "role": "answer",
        "class_": "academic",
    }
    return Finding(
        **{"id": "f_1", "url": "https://example.org", "title": title, "text": text, "review_status": "", "rule": "", **facts, **more}
    )


@pytest.mark.parametrize(
    ("name", "text", "source", "asked"),
    [
        ("invented_number", "A change of rota helps 73 percent of people.", "It helped seventy-three per cent.", ASKED),
        ("invented_number", "One in four adults cries at work.", "About 25 percent of adults cry.", ASKED),
        ("invented_number", "It is 25 percent of adults.", "One in four adults cries.", ASKED),
        ("invented_number", "They asked 1,200 nurses.", "A sample of 1200.", ASKED),
        ("invented_number", "Back in 2019, it was 4.6 years.", "Median 4.6, published 2019-03-01.", ASKED),
        ("invented_number", "So it is 20 percent of people like you.", "", "I keep 400 of 2,000 a month."),
        ("invented_number", "That was 2019, you say.", "", "Since 2019 I am tired."),
        ("invented_number", "You lead 120 people, at 62 percent of the target.", "", "I lead 120 people and we are at 62%."),
        ("named_study", "A Harvard study found that rotas matter.", "Published by the Harvard School of Public Health.", ASKED),
        ("named_study", "According to Gallup, most nurses feel it.", "Gallup asked nurses.", ASKED),
        ("named_study", "A 2019 study found that rotas matter.", "In 2019, rotas were compared.", ASKED),
        ("named_study", "Your survey found Sara angry.", "", "Our survey found that Sara is angry."),
        ("brand", "The Headspace app would do.", "", "I have the Headspace app. Enough?"),
        (
            "medical",
            "You have ADHD, and the rota ignores it. 50 mg is your doctor's matter.",
            "",
            "I have ADHD and take 50 mg of something.",
        ),
        ("third_person", "The assistant would say so.", "", "My new assistant manager rewrote the rota."),
        ("third_person", "Your coach would recommend rest.", "", "I have a running coach."),
        ("credentials", "Twenty years of doing this wears anyone out.", "", "Twenty years of doing this and no thanks."),
    ],
)
def test_what_a_finding_or_the_user_says_may_be_repeated(name, text, source, asked):
    found = check(pair(asked, text), domain=ELENA, findings=[finding(source)] if source else ())
    assert name not in {p.check for p in found.problems if p.severity == "reject"}
    assert name in {
        p.check for p in check(pair("Is this normal?", text), domain=ELENA, findings=[finding("Nothing of the kind.")]).problems
    }


def test_a_finding_is_no_excuse_for_a_brand_and_an_advertised_study_is_rejected():
    planted = GOOD + " A 2019 Harvard study found that 73 percent of people who use CalmCo recover, so search for CalmCo in the app store."
    assert {"invented_number", "named_study", "brand"} == {p.check for p in check(pair(planted), domain=ELENA).problems}
    known = finding("A 2019 Harvard study: 73 percent of users of CalmCo recover.")
    assert {"brand"} == {p.check for p in check(pair(planted), domain=ELENA, findings=[known]).problems}


def test_a_missing_phrase_of_the_advisor_costs_no_score():
    silent = check(pair(GOOD.replace("I hear you, and ", "")), domain=ELENA)
    assert [p.check for p in silent.problems] == ["persona_style"]
    assert silent.score == check(pair(GOOD), domain=ELENA).score


# The original design's own anti-patterns, and the checks that must see them.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Elena would suggest that you rest.", {"own_name"}),
        ("1. Set boundaries 2. Take breaks 3. Talk to your manager", {"conversational", "first_person", "paragraphs", "length", "technique", "validation_first"}),
        ("It's important to practice self-care, find work-life balance, take breaks, and remember that you are not alone.", {"generic"}),
    ],
)  # fmt: skip
def test_the_anti_patterns_of_the_design_are_rejected(text, expected):
    verdict = check(pair(text), domain=ELENA)
    assert expected <= {p.check for p in verdict.problems if p.severity == "reject"}
    assert not verdict.accepted


def test_a_good_answer_has_no_objection_and_the_best_score_of_its_like():
    verdict = check(pair(GOOD), domain=ELENA, cell=cell())
    assert verdict.problems == ()
    assert verdict.accepted
    assert verdict.score > 0.95
    assert check(pair(GOOD + " You are not alone. Take breaks."), domain=ELENA).score < verdict.score


# Their words were read while the lists were written, so the rate says that the checks fit good pairs, not how they do on unseen ones.
EXPLAINED = {
    ("elena", 16): "opens with 'Take a breath with me.', an imperative before the feeling, though it is no advice",
    ("priya", 8): "opens with 'Please keep the coffee', advice before the feeling is named",
}


# Stands in for the sources' passages, which are not in the repository: the figures were taken from the answers themselves and not compared with the sources.
# So it shows that a figure in a finding is let through, not that the examples' figures are right.
FIGURES = (
    "Eight times, six times as likely. Fourteen studies, 2017. One in four. Median tenure of workers 4.6 years in January 2012 and 3.5 in 2000, 1996 to 2012; ages 25 to 34 3.2, 55 to 64 10.3; ages 39.4"
    " and 42.3. A 2013 article. Under one in ten. 60,000 households, January 2024, 90 percent, 1.6 standard errors. Surveys of 2020, 2017, 2014, 2013, 2022 and 2024. 35, 40, 18, 7, 75 and 72"
    " percent of adults, October 2019, April 2020, three in four, one in three. Federal Reserve. Bureau of Labor Statistics."
)


def examples():
    for path in sorted(EXAMPLES.glob("*/pairs.jsonl")):
        prompt = path.with_name("prompt.md").read_text(encoding="utf-8")
        domain = AdvisorDomain(path.parent.name.capitalize(), "", (), (), (), "")
        for index, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            row = json.loads(line)
            category = row["category"].replace("voice", "voice_style")
            messages = tuple((m["role"], m["content"]) for m in row["messages"])
            yield (path.parent.name, index), Pair("p", "c", category, messages, (), "", ""), domain, prompt


def test_the_example_advisors_pass_but_for_explained_pairs():
    given = [finding(FIGURES)]
    verdicts = {place: check(pair, domain=domain, persona_text=prompt, findings=given) for place, pair, domain, prompt in examples()}
    refused = {place: [p for p in v.problems if p.severity == "reject"] for place, v in verdicts.items() if not v.accepted}
    print(f"accepted {len(verdicts) - len(refused)} of {len(verdicts)} example pairs")
    assert len(verdicts) >= 124
    assert set(refused) == set(EXPLAINED), refused
    assert {p.check for found in refused.values() for p in found} == {"validation_first"}


def test_the_example_advisors_without_their_sources_are_only_doubted_for_their_figures():
    for place, one, domain, prompt in examples():
        found = {p.check for p in check(one, domain=domain, persona_text=prompt).problems if p.severity == "reject"}
        assert found <= ({"validation_first"} if place in EXPLAINED else {"invented_number", "named_study"}), place


def test_a_pair_is_checked_in_about_a_millisecond():
    todo = list(examples())
    began = time.process_time()
    for _, one, domain, prompt in todo:
        check(one, domain=domain, persona_text=prompt)
    assert (time.process_time() - began) / len(
        todo
    ) < 0.005  # CPU seconds; measured 0.0017 on a quiet core, up to four times that beside other work


@pytest.mark.parametrize(
    ("name", "text", "caught"),
    [
        ("Will", "Will you call her? I will. May I ask?", False),
        ("Will", "As Will, I'd call her.", True),
        ("Dr. Grace Hope", "There is grace in that, and hope.", False),
        ("Dr. Grace Hope", "Dr. Hope would call her.", True),
        ("Dr. Grace Hope", "Grace Hope suggests rest.", True),
        ("Money Coach", "Money is tight, and your coach at the gym knows it.", False),
        ("Money Coach", "Your Money Coach says hello.", True),
        ("Renée", "Renee here, and glad of it.", True),
        ("Marcus", "Marcus\u2019 rule is simple.", True),
        ("", "No name, nothing to say.", False),
        ("Dr.", "Dr. Who?", False),
    ],
)
def test_names_that_are_words_only_count_as_names(name, text, caught):
    domain = AdvisorDomain(name, "x", (), (), (), "")
    assert bool(problems("own_name", text, domain=domain)) is caught


def test_a_user_may_say_the_name():
    found = problems("own_name", "Hi Elena, is this normal?", GOOD)
    assert [(p.severity, p.evidence) for p in found] == [("note", "the user says Elena")]


def test_later_answers_may_be_short_and_are_only_noted_for_advice_first():
    texts = (
        ASKED,
        GOOD,
        "But I can't, my manager never reads mail.",
        "Write it on paper then, and put it on the desk where everyone will walk past it twice a day. Who is there first?",
    )
    found = check(pair(*texts), domain=ELENA).problems
    assert {(p.check, p.severity) for p in found} == {("validation_first", "note"), ("first_person", "note")}


def test_the_planned_technique_that_is_not_seen_is_noted():
    text = GOOD.replace("I'd look at it like a table with one short leg. ", "")
    assert [p.severity for p in problems("technique", text, cell=cell())] == ["note"]
    assert not problems("technique", GOOD, cell=cell())


def test_phrases_of_the_prompt_count_as_style():
    silent = AdvisorDomain("Elena", "x", (), (), (), "")
    assert not problems("persona_style", "Nothing here.", domain=silent)
    assert problems("persona_style", "Nothing here.", domain=silent, persona_text='You like "no grade here" and such.')
    assert not problems("persona_style", "There's no grade here, friend.", domain=silent, persona_text='You like "no grade here" and such.')


texts = st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80), max_size=7)


@settings(max_examples=30, deadline=None)
@given(texts, st.sampled_from(["scenario", "multi_turn", "voice_style"]))
def test_anything_can_be_checked_and_gets_the_same_verdict_twice(found, category):
    one = Pair("p", "c", category, tuple(("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(found)), (), "", "")
    verdict = check(one, domain=ELENA)
    assert isinstance(verdict, Verdict)
    assert 0 <= verdict.score <= 1
    assert all(p.check in CHECKS and len(p.evidence) <= 200 and p.severity in {"reject", "note"} for p in verdict.problems)
    order = [list(CHECKS).index(p.check) for p in verdict.problems]
    assert order == sorted(order)
    assert check(one, domain=ELENA) == verdict


def test_a_hostile_answer_does_not_stall_the_patterns():
    for text in ("a " * 15_000, "1. " * 10_000, "(" * 30_000, "my " * 10_000, "I've " * 6000, "not " * 8000, '"' * 30_000, " " * 30_000):
        began = time.process_time()
        check(pair(text), domain=ELENA)
        assert time.process_time() - began < 1  # measured 0.02 to 0.1: time grows with the length, not with its square


def test_answers_near_the_base_models_own_are_found_row_by_row():
    base = np.eye(4, 8, dtype=np.float32)
    mine = base.copy()
    mine[1] = np.eye(8, dtype=np.float32)[7]
    mine[2] = (base[2] * 0.9 + np.eye(8, dtype=np.float32)[6] * np.sqrt(1 - 0.81)).astype(np.float32)
    base[3] = 0  # the base gave no answer
    assert near_base(mine, base, 0.95) == [(0, 1.0)]
    assert [row for row, _ in near_base(mine, base, 0.9)] == [0, 2]
    assert near_base(mine[:0], base[:0], 0.9) == []
    with pytest.raises(ValueError, match="one base answer"):
        near_base(mine, base[:2], 0.9)

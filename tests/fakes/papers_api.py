"""A stand-in on loopback for Semantic Scholar, OpenAlex, arXiv and Reddit: real HTTP, invented papers, scripted faults, a log of what was asked.

Every paper and post here is made up: DOIs begin with 10.5555, pages are on example.org, arXiv numbers are of a month that does not exist. What is
answered depends on the query alone. `replay=` answers with recorded bytes of the real Semantic Scholar instead.

In a test:            with PapersApi() as api: Getter(); api.endpoints
As its own process:   python tests/fakes/papers_api.py [--port 0] [--latency 0.05]   prints its URL on the first line
"""

import argparse
import asyncio
import hashlib
import json
import re
import socket
import threading
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.config import Endpoints

SERVICES = ("semantic_scholar", "openalex", "arxiv", "reddit_login", "reddit")
FAULTS = ("rate_limited", "500", "html_200", "drop", "broken_body", "empty", "bad_json", "slow", "401", "403", "400", "404")
TOKEN = "synthetic-token"
DATE = "Mon, 02 Nov 2026 10:00:00 GMT"

# (title, journal, abstract). Written apart from each other on purpose: a real embedding model must not take two of them for one.
PAPERS: tuple[tuple[str, str, str], ...] = (
    ("Evening detachment and next-morning exhaustion in office staff", "Synthetic Journal of Work Psychology", "We followed 214 office workers with diaries over ten working days. On evenings when people stopped thinking about work, they reported 18% less exhaustion the next morning. The association was strongest for workers with high time pressure. We conclude that mental distance in the evening matters more than its length."),
    ("Micro-breaks of five minutes and sustained attention", "Synthetic Journal of Ergonomics", "Eighty-six data clerks were assigned to take a five-minute pause each hour or to work straight through. Error rates fell by a fifth in the pause group while total output stayed the same. Stretching and looking out of a window worked equally well."),
    ("Night shifts, naps and medication errors among nurses", "Synthetic Nursing Quarterly", "In three hospitals, nurses on night duty were offered a protected twenty-minute nap at 3 a.m. Dispensing errors after the nap were significantly lower than on control nights (p < 0.01). Sleep inertia passed within a quarter of an hour. Managers feared understaffing, yet no ward reported it."),
    ("Why teachers leave: workload, pupils' behaviour or pay?", "Synthetic Review of Education", "Exit interviews with 402 secondary teachers were coded by two raters. Paperwork that nobody reads was named most often, before pupil conduct and salary. Teachers who had a mentor in their first year stayed 2.4 years longer on average."),
    ("Parental burnout and the unequal load of planning", "Synthetic Family Studies", "Parental burnout was measured in 311 couples with children under twelve. The parent who kept the household's calendar in their head showed markedly higher exhaustion, whatever the number of chores done. Sharing the planning, not only the doing, predicted recovery after six months."),
    ("Caring for a parent with dementia while employed", "Synthetic Gerontology Letters", "Forty employed daughters and sons who care for a parent with dementia were interviewed twice. They described guilt in both places: at work about leaving early, at home about impatience. Respite of one fixed afternoon per week reduced strain more than irregular longer help did."),
    ("Compassion fatigue in animal shelter volunteers", "Synthetic Anthrozoology", "Volunteers who take part in euthanasia decisions were compared with those who do not. Intrusive memories were three times more frequent in the first group. Rituals of farewell, such as naming each animal aloud, were associated with fewer symptoms."),
    ("Boundary setting by e-mail: an experiment on after-hours messages", "Synthetic Information Systems", "A firm delayed all messages sent after 7 p.m. until the next morning for half of its teams. Staff in those teams felt less obliged to answer and slept 22 minutes longer. Customers' waiting times did not change. The effect vanished when team leaders kept using private chats."),
    ("Return to work after long sick leave: the first hundred days", "Synthetic Rehabilitation Research", "We tracked 178 employees who came back after at least three months of leave for depression. Those who increased their hours stepwise relapsed half as often as those who resumed full time. A single trusted colleague was named as the most useful support."),
    ("Self-compassion training for perfectionist students", "Synthetic College Health", "Sixty first-year students with high perfectionism wrote kind letters to themselves for three weeks. Harsh self-criticism declined and examination marks did not suffer. Improvement persisted at the end of term."),
    ("Breathing at six breaths per minute and heart rate variability", "Synthetic Psychophysiology", "Paced breathing at six cycles a minute was practised for ten minutes daily by 52 adults. Vagally mediated heart rate variability rose by 14 percent after a month. Skipping two days a week made no difference, whereas evening practice disturbed nobody's sleep."),
    ("Walking meetings and creative idea generation", "Synthetic Organizational Behavior", "Pairs of engineers solved design problems either seated or while strolling through a park. Walkers produced more original ideas, and the judges were blind to condition. Converging on one solution was easier when seated. Results suggest walking for opening a question and chairs for closing it."),
    ("Imposter feelings among newly promoted managers", "Synthetic Leadership Studies", "Newly promoted managers rated their belief of being a fraud every week for half a year. The belief peaked in week six and faded for most without any help. It stayed high in those who concealed mistakes from their team."),
    ("Salary negotiation: opening offers by women and men", "Synthetic Labour Economics", "In 1,204 simulated negotiations over pay, opening offers were lower among women only when the range was left unstated. Publishing a salary band closed the gap. Preparing three arguments beforehand increased the final amount by 6.5% for everyone."),
    ("The gap year at forty: career breaks in mid-life", "Synthetic Vocational Behavior", "Life-history interviews with 33 people who left established positions around forty show three patterns: escape, repair and experiment. Those who experimented with small paid projects found new work soonest. Savings of eight months' expenses marked the difference between freedom and panic."),
    ("Informational interviews and job search success", "Synthetic Career Development", "Job seekers were randomised to send applications or to replace a third of them by conversations with people in the field. The conversation group received fewer rejections and 1.7 times as many offers. Weak acquaintances opened more doors than close friends did."),
    ("Quitting without notice: regret and relief", "Synthetic Employment Relations", "We surveyed 590 people who had resigned abruptly. Relief dominated the first fortnight, regret the third month, chiefly over references and health insurance. Respondents who had drafted a budget beforehand reported far less regret."),
    ("Mentors outside the line of command", "Synthetic Human Resource Review", "Apprentices were paired with mentors from another department. They asked riskier questions, disclosed errors earlier and were promoted sooner than apprentices whose supervisor doubled as mentor. Benefits were absent where meetings took place less than monthly."),
    ("Older job applicants and the language of vacancies", "Synthetic Ageing and Work", "Vacancies that asked for energetic digital natives attracted 23% fewer applicants above fifty, although qualifications were identical. Replacing the adjectives by tasks restored the age mix. Recruiters did not notice the change."),
    ("Remote work and the visibility of junior staff", "Synthetic Telework Studies", "Juniors who joined a company remotely were mentioned less often in senior meetings than those who joined on site. A weekly demonstration of unfinished work removed the difference. Promotion rates after two years were equal where such demonstrations existed."),
    ("Layoff survivors and silent overwork", "Synthetic Strategic Management", "After a reduction of a fifth of staff, the remaining employees logged nine more hours per week without being asked. Fear predicted the increase better than workload. Open criteria for further cuts brought hours back to the former level."),
    ("Changing industries: transferable skills as employers see them", "Synthetic Skills Quarterly", "Hiring managers rated 120 invented résumés of career changers. Concrete outcomes from the former trade raised ratings, lists of soft skills lowered them. A sentence explaining the reason for the move was the single most effective line."),
    ("Feedback that begins with a question", "Synthetic Communication Research", "Supervisors were trained to open performance conversations by asking how the employee sees the matter. Defensive replies dropped by half and agreed goals were met more often. The training took ninety minutes."),
    ("Emergency savings and sleep in low-income households", "Synthetic Household Finance", "Households were given a matched savings account for a year. As soon as balances passed 500 dollars, self-reported sleep problems declined by 27 percent. Further savings brought no additional rest. A small buffer appears to calm more than its sum would suggest."),
    ("Paying the smallest debt first: motivation against arithmetic", "Synthetic Consumer Finance", "Records of 6,000 borrowers show that closing small balances first, although costlier in interest, led more people to complete repayment. Visible progress mediated the effect. Borrowers with only two debts did better with the highest rate first."),
    ("Automatic enrolment and what people do not opt out of", "Synthetic Pension Economics", "When a pension plan changed its default from out to in, participation rose from 49 to 86 percent. Contribution rates stuck to the default for years, even where it was too low. Annual increases chosen in advance were accepted by four fifths of members."),
    ("Money conversations in new couples", "Synthetic Relationship Science", "Couples discussed finances in a laboratory within a year of moving in together. Pairs who spoke about childhood memories of money before numbers quarrelled less. Hidden purchases at follow-up were reported by only 8% of them."),
    ("Index funds, news and the urge to sell", "Synthetic Behavioral Markets", "Private investors received market news daily, weekly or never during a simulated crash. The daily group sold most and recovered least. Investors who had written a one-page plan kept their holdings regardless of the news."),
    ("Budgeting apps: who still uses them after three months?", "Synthetic Human-Computer Interaction", "Log data of 9,800 installations reveal that two thirds of users abandon a budgeting app within twelve weeks. Those who tracked a single category persisted longest. Push notifications hastened departure."),
    ("Financial scarcity and planning errors", "Synthetic Cognitive Economics", "Farmers were tested before harvest, when money is short, and after it, when it is not. Planning errors were twice as common before harvest. Nutrition and effort did not explain the shift. Scarcity itself seems to occupy attention."),
    ("Renting or buying: regret ten years later", "Synthetic Housing Studies", "Former first-time buyers and long-term tenants were matched on income. Regret was more frequent among buyers who had moved within five years and among renters with three or more forced moves. Stability rather than ownership predicted contentment."),
    ("Talking to children about job loss", "Synthetic Child Development", "Children whose parents explained unemployment in plain words showed fewer school problems than those who were told nothing. Age-appropriate honesty did not increase worries about food or home. Grandparents often filled the silence with rumours."),
    ("Mindfulness in call centres: a null result", "Synthetic Applied Psychology", "An eight-week mindfulness course was compared with a course on local history in 240 call centre agents. Stress decreased equally in both groups. Time away from the telephone, not meditation, may have been the active ingredient."),
    ("Gratitude diaries when life is hard", "Synthetic Positive Psychology", "Writing three good things each night was tested in people with recent bereavement. Mood did not improve, and a third found the task insulting. Writing a letter to the person who died helped more. Exercises should fit the season of life."),
    ("Exercise dose and depressive symptoms: a synthesis of trials", "Synthetic Sports Medicine", "Pooling 41 invented trials, two brisk sessions of forty minutes a week showed a moderate reduction of depressive symptoms. More sessions added little. Drop-out was lowest in group formats and in those who chose the activity themselves."),
    ("Caffeine after noon and subjective recovery", "Synthetic Sleep Letters", "Participants wore wrist sensors and drank coffee or decaffeinated coffee at 3 p.m. without knowing which. Deep sleep shrank by eleven minutes after caffeine, yet most felt no difference. Perceived immunity to coffee was unrelated to measured sleep."),
    ("Chronic pain at the workplace: telling or hiding it", "Synthetic Occupational Medicine", "Employees with chronic back pain decided whether to disclose it. Disclosure to a supervisor who asked what would help led to adapted tasks in 71% of cases. Concealment was linked to more sick days a year later."),
    ("Grief leave and the speed of coming back", "Synthetic Bereavement Research", "Policies granting three days were compared with flexible leave after a family death. Flexible leave was used for 8.5 days on average and was followed by fewer resignations. Colleagues' silence hurt more than heavy workloads."),
    ("Humour among emergency crews", "Synthetic Disaster Psychology", "Field notes from ambulance crews describe jokes that outsiders would find cruel. Crews used them to mark the end of a mission. Teams that stopped joking about a call were the ones that later asked for debriefing."),
    ("Job crafting by cleaners in hospitals", "Synthetic Meaningful Work", "Cleaners who saw themselves as part of healing added small tasks, such as moving a picture for a patient in bed. Their job satisfaction was higher than that of cleaners with identical contracts and wards. Recognition by nurses sustained the habit."),
    ("Saying no: scripts for declining requests", "Synthetic Assertiveness Studies", "People learned one of three refusals for unwelcome requests at the office. Offering no reason was judged as rude, a long excuse as dishonest; a short refusal with thanks was received best. Practised aloud, it was used four times as often."),
    ("Loneliness in leadership positions", "Synthetic Executive Psychology", "Chief executives of small firms kept voice diaries. Loneliness was greatest after decisions that they could not explain to anyone. Peer circles of strangers from other trades lowered it, golf partners did not."),
    ("Digital sabbath: one screen-free day per week", "Synthetic Media Psychology", "Families switched off all screens on Sundays for two months. Boredom rose at first, then unplanned visits to neighbours increased. Teenagers objected most and, in the end, missed the day most when it was over."),
    ("Rumination, worry and problem solving at 2 a.m.", "Synthetic Clinical Methods", "Patients with insomnia wrote down worries with a next action before going to bed. Time to fall asleep shortened by nine minutes compared with writing about finished tasks. Specific lists worked better than general ones."),
    ("Values cards in brief coaching", "Synthetic Coaching Science", "Clients sorted fifty cards with values in their first session. Choosing what to leave out provoked more insight than choosing what to keep. Six weeks later, decisions were more often in line with the chosen values."),
    ("Motivational interviewing for workers who drink too much", "Synthetic Addiction Letters", "A single motivational interview was offered at a routine health check. Weekly drinks fell by a quarter at three months where counsellors reflected twice as often as they asked. Advice given before it was wanted increased resistance."),
    ("Reframing failure as data in start-up founders", "Synthetic Entrepreneurship Notes", "Founders of closed companies described their failure to an audience or in private. Public telling, with numbers, was followed by quicker new ventures and less shame. Blaming the market slowed learning."),
    ("Sandwich generation: time use of people between children and parents", "Synthetic Time Use Research", "Time diaries of adults who care for both children and ageing parents show 2.1 hours of free time a week. Travel between households consumed more than care itself. Moving appointments to one weekday returned half a day."),
    ("Seasonal workers and homesickness on the farm", "Synthetic Migration Health", "Pickers from abroad rated homesickness each Sunday of the harvest. It dropped after the first shared meal cooked in the home style. Calls to relatives helped in the evening and hurt at midday."),
    ("Software incident on-call rotations and fatigue", "Synthetic Reliability Engineering", "Pager data of 37 software teams were linked to sleep surveys. Two alarms per night doubled reported fatigue the next day; a third hardly mattered. Deleting alerts without an action cut nightly calls by 60% without any missed outage."),
    ("Musicians' stage fright and the word excited", "Synthetic Performance Science", "Before an audition, conservatory students told themselves to be calm or to be excited. The excited group played more accurately according to blind jurors. Heart rates were equal, so the gain lay in the reading of arousal."),
    ("Neighbourhood gardens and retirement transitions", "Synthetic Community Development", "Recent retirees received a garden plot or a place on a waiting list. Plot holders built daily routines sooner and spoke with more people. Harvest size was unrelated to well-being; missing a neighbour at the water tap was not."),
)  # fmt: skip
# These are as some publishers' papers are: Semantic Scholar may not show the abstract; of the last one nobody has it.
HIDDEN, LOST = frozenset({2, 13, 24, 37}), frozenset({32})

POSTS: tuple[dict[str, Any], ...] = (
    {"title": "How do I tell my manager that I am exhausted without losing my job?", "selftext": "I am 34 and work in support. Since spring I wake up tired and cry in the car. My manager u/boss_of_mine is nice but busy. Mail me at tired.one@example.org or +1 555 010 9999 if you know, see https://example.org/mypage."},
    {"title": "Is it normal to feel nothing after a promotion?", "selftext": "I worked six years for this. Now I have the title and sit at my desk and feel empty. My partner says give it time. Did this pass for you?"},
    {"title": "Should I pay off my student loan or build savings first?", "selftext": "I earn 2,900 a month after tax and owe 14,000 at 4.5 percent. I have 600 in the bank. Every article says something else and I cannot decide."},
    {"title": "Parents of toddlers, when do you rest?", "selftext": "Both of us work full time. Evenings vanish into laundry. @otherparent says lower your standards, but which ones?"},
    {"title": "Rant: open plan offices", "selftext": "They are loud and I hate them. That is all I wanted to say about this today, thank you for listening."},
    {"title": "Can I change careers at 47 with no degree?", "selftext": "Twenty years in a warehouse, my knees are done. I like computers and explaining things. Where would you start if you were me?"},
    {"title": "[deleted by user]", "selftext": "[deleted]", "author": "[deleted]"},
    {"title": "How do I decline extra shifts politely?", "selftext": "[removed]", "removed_by_category": "moderator"},
    {"title": "What is the kinkiest thing about budgeting?", "selftext": "This post is marked as not safe for work, so it must never be read by the agent.", "over_18": True},
    {"title": "Weekly thread: what went well?", "selftext": "Please post your small wins of the week in the comments below and be kind to each other.", "stickied": True},
    {"title": "Why?", "selftext": ""},
    {"title": "My mother moved in and my marriage is suffering", "selftext": "She has early dementia. My wife is patient but we have not had an evening alone since March. How can we talk about a care home without guilt?"},
    {"title": "Does anyone else dread Sunday evenings?", "selftext": "From about four o'clock I get a knot in my stomach about Monday. The job itself is fine once I am there."},
    {"title": "Fired two weeks before my baby is due, what now?", "selftext": "I have severance for a month. Rent is 1,450. I do not know whether to take the first job or to wait for the right one."},
    {"title": "Advice on asking for a four-day week", "selftext": "My team is small and my boss thinks presence means effort. I would take the pay cut. Has somebody managed this in a small company?"},
    {"title": "How much should I have in an emergency fund as a freelancer?", "selftext": "My income swings between 1,000 and 6,000 a month. Three months of expenses feels like nothing, six months feels impossible."},
)  # fmt: skip


def paper(number: int) -> dict[str, Any]:
    """Everything the services know of an invented paper."""
    title, journal, abstract = PAPERS[number]
    return {
        "number": number,
        "title": title,
        "journal": journal,
        "abstract": abstract,
        "doi": f"10.5555/synthetic.{number:04}",
        "authors": [f"Ada Example{number}", f"Bo Sample{number}"],
        "year": 2005 + number % 20,
        "date": f"{2005 + number % 20}-{1 + number % 12:02}-{1 + number % 28:02}",
        "volume": str(1 + number % 30),
        "pages": (str(100 + number), str(112 + number)),
        "citations": (number * 37) % 211,
    }


def ranked(query: str, texts: tuple[str, ...], limit: int) -> list[int]:
    """Places of the texts that share most words with the query; equals by a hash, so that every query has its own answers."""
    words = {word[:6] for word in re.findall(r"[a-z]{4,}", query.lower())}

    def rank(number: int) -> tuple[int, str]:
        shared = words & {word[:6] for word in re.findall(r"[a-z]{4,}", texts[number].lower())}
        return -len(shared), hashlib.sha256(f"{query}{number}".encode()).hexdigest()

    return sorted(range(len(texts)), key=rank)[: min(limit, len(texts))]


def inverted(text: str) -> dict[str, list[int]]:
    """OpenAlex's way to give an abstract."""
    index: dict[str, list[int]] = defaultdict(list)
    for place, word in enumerate(text.split()):
        index[word].append(place)
    return dict(index)


def s2_json(facts: dict[str, Any]) -> dict[str, Any]:
    """A paper in Semantic Scholar's shape."""
    hidden = facts["number"] in HIDDEN | LOST
    return {
        "paperId": hashlib.sha1(facts["doi"].encode(), usedforsecurity=False).hexdigest(),
        "externalIds": {"DOI": facts["doi"].upper(), "CorpusId": 900_000_000 + facts["number"]},
        "url": f"https://example.org/s2/{facts['number']}",
        "title": facts["title"],
        "abstract": None if hidden else facts["abstract"],
        "venue": facts["journal"],
        "year": facts["year"],
        "isOpenAccess": False,
        "openAccessPdf": None,
        "tldr": {"model": "tldr@v2.0.0", "text": f"A machine's summary: {facts['title']}."},
        "publicationTypes": ["JournalArticle"],
        "citationCount": facts["citations"],
        "publicationDate": facts["date"],
        "journal": {"name": facts["journal"], "volume": facts["volume"], "pages": "-".join(facts["pages"])},
        "authors": [{"authorId": str(place), "name": name} for place, name in enumerate(facts["authors"])],
    }


def openalex_json(facts: dict[str, Any]) -> dict[str, Any]:
    """A paper in OpenAlex's shape."""
    return {
        "id": f"https://openalex.org/W{9_000_000_000 + facts['number']}",
        "doi": f"https://doi.org/{facts['doi']}",
        "display_name": facts["title"],
        "publication_year": facts["year"],
        "publication_date": facts["date"],
        "type": "article",
        "is_retracted": False,
        "cited_by_count": facts["citations"],
        "biblio": {"volume": facts["volume"], "issue": None, "first_page": facts["pages"][0], "last_page": facts["pages"][1]},
        "primary_location": {
            "landing_page_url": f"https://doi.org/{facts['doi']}",
            "version": "publishedVersion",
            "source": {"display_name": facts["journal"], "type": "journal"},
        },
        "authorships": [{"author": {"display_name": name}} for name in facts["authors"]],
        "abstract_inverted_index": None if facts["number"] in LOST else inverted(facts["abstract"]),
    }


def atom(found: list[dict[str, Any]]) -> str:
    """Papers as arXiv's feed."""
    entries = "".join(
        f"<entry><id>http://arxiv.org/abs/9999.{facts['number']:05}v1</id><published>{facts['date']}T00:00:00Z</published>"
        f"<title>{escape(facts['title'])}</title><summary>\n  {escape(facts['abstract'])}\n</summary>"
        + "".join(f"<author><name>{escape(name)}</name></author>" for name in facts["authors"])
        + "</entry>"
        for facts in found
    )
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom"><title>synthetic</title>{entries}</feed>'


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. `key` says whether it carried one, never which."""

    service: str
    path: str
    params: dict[str, str]
    key: bool
    user_agent: str


@dataclass(frozen=True)
class Recording:
    """One recorded answer of the real Semantic Scholar: its path and query, and the bytes."""

    path: str
    params: dict[str, str]
    status: int
    content_type: str
    body: bytes


def recordings(folder: Path) -> list[Recording]:
    """Every recorded interaction of the VCR files in a folder, in the order of file names."""
    import yaml

    found = []
    for path in sorted(folder.glob("*.yaml")):
        for item in yaml.safe_load(path.read_text("utf-8"))["interactions"]:
            request, response = item["request"], item["response"]
            body = response["body"]["string"] if "body" in response else response["content"]
            parts = urlsplit(request["uri"])
            found.append(
                Recording(
                    path=parts.path,
                    params={name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()},
                    status=response["status"]["code"] if "status" in response else response["status_code"],
                    content_type=response["headers"]["Content-Type"][0],
                    body=body if isinstance(body, bytes) else body.encode(),
                )
            )
    return found


class PapersApi:
    """The four services on one loopback port. `latency_s` is waited before each answer; `replay` is a folder with Semantic Scholar's recordings."""

    def __init__(self, *, latency_s: float = 0.0, replay: Path | None = None, port: int = 0) -> None:
        self.latency_s, self.port = latency_s, port
        self.log: list[Seen] = []
        self.slow_s = 5.0
        self.tokens = {TOKEN}  # what Reddit accepts; clear it to make every token run out
        self._script: dict[str, list[str]] = defaultdict(list)
        self._always: dict[str, str] = {}
        self._recorded = recordings(replay) if replay else []
        whole = replay / "paper_all_fields.json" if replay else None
        self._whole = whole.read_bytes() if whole and whole.is_file() else None
        self._server: uvicorn.Server | None = None

    def script(self, service: str, *faults: str) -> None:
        """The next answers of a service; 'ok' stands for a good one. Afterwards it answers well again."""
        assert service in SERVICES
        assert set(faults) <= {*FAULTS, "ok"}
        self._script[service].extend(faults)

    def always(self, service: str, fault: str | None) -> None:
        """Every answer of a service from now on; None mends it."""
        assert service in SERVICES
        assert fault is None or fault in FAULTS
        self._always.pop(service, None)
        if fault:
            self._always[service] = fault

    def asked(self, service: str) -> list[Seen]:
        """What a service was asked, in order."""
        return [seen for seen in self.log if seen.service == service]

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def endpoints(self) -> Endpoints:
        """The addresses to give to the pipeline."""
        return replace(
            Endpoints(),
            semantic_scholar=f"{self.url}/graph/v1",
            openalex=f"{self.url}/openalex",
            arxiv=f"{self.url}/arxiv/api/query",
            reddit_login=f"{self.url}/reddit_login/api/v1/access_token",
            reddit=f"{self.url}/reddit",
        )

    # ---------------------------------------------------------------------------------------------------------------- the server

    def __enter__(self) -> Self:
        listener = socket.socket()
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)  # from here on a request waits in the queue until the server takes it
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(self.app(), log_level="critical", lifespan="off", ws="none", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        self._listener = listener
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self._listener.close()

    def app(self) -> Any:
        """The ASGI application."""
        routes = [
            Route("/graph/v1/{rest:path}", self._semantic_scholar, methods=["GET"]),
            Route("/openalex/works", self._openalex_search, methods=["GET"]),
            Route("/openalex/works/{work:path}", self._openalex_work, methods=["GET"]),
            Route("/arxiv/api/query", self._arxiv, methods=["GET"]),
            Route("/reddit_login/api/v1/access_token", self._reddit_login, methods=["POST"]),
            Route("/reddit/search", self._reddit, methods=["GET"]),
            Route("/reddit/r/{community}/search", self._reddit, methods=["GET"]),
        ]
        return _Faulty(self, Starlette(routes=routes))

    def note(self, scope: dict[str, Any]) -> tuple[str, str]:
        """Write a request into the log; (service, the fault that its answer shall have)."""
        first = scope["path"].split("/")[1]
        service = {"graph": "semantic_scholar"}.get(first, first)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        params = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode(), keep_blank_values=True).items()}
        keyed = bool(headers.get("x-api-key") or headers.get("authorization") or params.pop("api_key", None))
        self.log.append(Seen(service, scope["path"], params, keyed, headers.get("user-agent", "")))
        script = self._script[service]
        return service, self._always.get(service) or (script.pop(0) if script else "ok")

    async def _semantic_scholar(self, request: Request) -> Response:
        path = request.url.path
        asked = dict(request.query_params)
        same = [one for one in self._recorded if one.path == path and one.params.get("query") == asked.get("query")]
        for one in sorted(same, key=lambda one: one.params != asked):  # the very request first, else another on the same query
            return Response(one.body, one.status, {"content-type": one.content_type})
        if self._whole is not None:  # the recorded paper, as it is or as the only hit of a search
            whole = self._whole if not path.endswith("/search") else b'{"total": 1, "offset": 0, "data": [' + self._whole + b"]}"
            return Response(whole, media_type="application/json")
        if not path.endswith("/paper/search"):
            return _json({"error": "Not found"}, 404)
        found = ranked(asked["query"], _TEXTS, int(asked.get("limit", "100")))
        return _json({"total": len(found), "offset": 0, "data": [s2_json(paper(number)) for number in found]})

    async def _openalex_search(self, request: Request) -> Response:
        found = ranked(request.query_params["search"], _TEXTS, int(request.query_params.get("per-page", "25")))
        return _json({"meta": {"count": len(found)}, "results": [openalex_json(paper(number)) for number in found]})

    async def _openalex_work(self, request: Request) -> Response:
        number = re.fullmatch(r"doi:10\.5555/synthetic\.(\d{4})", request.path_params["work"])
        if number is None or int(number[1]) >= len(PAPERS):
            return _json({"error": "Not found"}, 404)
        return _json(openalex_json(paper(int(number[1]))))

    async def _arxiv(self, request: Request) -> Response:
        words = request.query_params["search_query"].replace("all:", "").replace(" AND ", " ")
        found = [paper(number) for number in ranked(words, _TEXTS, int(request.query_params.get("max_results", "10")))]
        return Response(atom(found), media_type="application/atom+xml")

    async def _reddit_login(self, request: Request) -> Response:
        if b"grant_type=client_credentials" not in await request.body():
            return _json({"error": "unsupported_grant_type"}, 200)
        if not request.headers.get("authorization", "").startswith("Basic "):
            return _json({"message": "Unauthorized", "error": 401}, 401)
        self.tokens = {TOKEN}
        return _json({"access_token": TOKEN, "token_type": "bearer", "expires_in": 86400, "scope": "*"})

    async def _reddit(self, request: Request) -> Response:
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _json({"message": "Unauthorized", "error": 401}, 401)
        community = request.path_params.get("community", "synthetic")
        limit = min(int(request.query_params.get("limit", "25")), 8)
        posts = [_post(number, community) for number in ranked(request.query_params["q"], _POST_TEXTS, limit)]
        return _json({"kind": "Listing", "data": {"after": None, "children": [{"kind": "t3", "data": post} for post in posts]}})


_TEXTS = tuple(f"{title} {abstract}" for title, _, abstract in PAPERS)
_POST_TEXTS = tuple(f"{post['title']} {post['selftext']}" for post in POSTS)


def _post(number: int, community: str) -> dict[str, Any]:
    facts = {"author": f"synthetic_user_{number}", "over_18": False, "stickied": False, "removed_by_category": None}
    place = {
        "subreddit": community,
        "permalink": f"/r/{community}/comments/zz{number:02}/synthetic/",
        "created_utc": 1_760_000_000.0 + number * 86_400,
    }
    return facts | POSTS[number] | place


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, {"content-type": "application/json"})


class _Faulty:
    """In front of the application: notes each request, waits, and breaks the answer where the script says so."""

    def __init__(self, api: PapersApi, inner: Any) -> None:
        self.api, self.inner = api, inner

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        service, fault = self.api.note(scope)
        await asyncio.sleep(self.api.slow_s if fault == "slow" else self.api.latency_s)
        if fault == "drop":
            send.__self__.transport.abort()  # uvicorn's own way out has an answer; a dropped connection has none
        elif fault == "broken_body":
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [(b"content-type", b"application/json"), (b"content-length", b"5000")],
                }
            )
            await send({"type": "http.response.body", "body": b'{"total": 3, "data": [{"pap', "more_body": True})
            send.__self__.transport.close()
        elif fault in ("ok", "slow"):
            await self.inner(scope, receive, send)
        else:
            await _broken(service, fault)(scope, receive, send)


def _broken(service: str, fault: str) -> Response:
    """The answer of a service that fails."""
    empty = {
        "semantic_scholar": Response('{"total": 0, "offset": 0}', media_type="application/json"),
        "openalex": _json({"meta": {"count": 0}, "results": []}),
        "arxiv": Response(atom([]), media_type="application/atom+xml"),
        "reddit": _json({"kind": "Listing", "data": {"children": []}}),
        "reddit_login": _json({}),
    }
    if fault == "empty":
        return empty[service]
    if fault == "rate_limited":
        limited = _json({"message": "Too Many Requests. Please wait and try again.", "code": "429"}, 429)
        limited.headers["retry-after"] = "1"
        return limited
    if fault == "html_200":
        return Response("<!DOCTYPE html><html><body>Please enable JavaScript</body></html>", media_type="text/html")
    if fault == "bad_json":
        return Response('{"total": 1, "data": [', media_type="application/json")
    return _json({"error": f"Synthetic failure {fault}"}, int(fault))


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    wanted = parser.parse_args()
    with PapersApi(latency_s=wanted.latency, port=wanted.port) as api:
        print(api.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()

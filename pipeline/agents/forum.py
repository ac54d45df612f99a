"""The forum agent: what people really ask. From threads that a person exported, or from Reddit with credentials that a person brought.

Rules: questions only, never an answer, never a comment: a finding of this agent shapes a question and carries no advice. Off unless asked for, with
TERMS shown. Only posts that ask something are kept; deleted, removed, adult, pinned and very short ones are dropped with a reason. User names,
e-mail addresses, phone numbers and URLs are taken out, no author is recorded, and at most 600 characters of a body are kept.

It does not know a person's name that stands in plain words, and it does not know when an export was made: that time stays empty.
"""

import asyncio
import csv
import datetime as dt
import html
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import safety
from pipeline.calls import Calls
from pipeline.config import Endpoints, Keys, PipelineConfig
from pipeline.http import Getter
from pipeline.ports import CallFailed, FetchRequest, Progress, Watcher
from pipeline.standards import Standards
from pipeline.values import AgentResult, Drop, Finding, Gap, Query, finding_id, text_sha256
from registry import terms
from registry.errors import Invalid
from registry.identifiers import canonical_url

TERMS = terms.FORUM
MAX_FILE = 50_000_000  # bytes of an exported file
MAX_PROBLEMS = 20  # enough to see the pattern without a wall of text
MAX_TITLE, MAX_POST = 500, 40_000  # characters of a post that are looked at; Reddit itself allows 300 and 40,000
BODY_CHARS = 600
MIN_CHARS = 40  # of title and body together; less says nothing about a situation
PER_QUERY = 25  # posts asked for at Reddit; its own default
REDDIT = "https://www.reddit.com"

_FIELDS = ("title", "selftext", "permalink", "url", "created_utc", "subreddit", "over_18", "stickied", "pinned", "removed_by_category")
_SUBREDDIT = re.compile(r"(?:^|[\s(/])r/([A-Za-z0-9_]{2,21})(?![A-Za-z0-9_])")
_GONE = frozenset({"[deleted]", "[removed]", "[deleted by user]", "[ removed by reddit ]", "[ removed by moderator ]"})
_ASKS = re.compile(
    r"^\W*(?:how|what|when|where|which|who|why|whose|is|are|am|was|were|do|does|did|can|could|should|would|will|has|have|may|might|shall|"
    r"any(?:one|body)|advice|need (?:some )?(?:advice|help)|looking for (?:some )?(?:advice|help)|help)\b|\bhow (?:do|can|should|would) (?:i|you|we)\b",
    re.IGNORECASE,
)
_LINK = re.compile(r"!?\[([^\[\]]{0,300})\]\([^()\s]{0,2000}(?:\s[^()]{0,300})?\)")
_URL = re.compile(
    r"(?:https?://|www\.)\S+|\b(?:[a-z0-9-]{1,63}\.){1,4}(?:com|org|net|io|co|gg|me|edu|gov|info|app|dev|ly|uk|de|eu)\b(?:/\S*)?",
    re.IGNORECASE,
)
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,6}")
_USER = re.compile(r"(?<![\w/])/?u/[\w-]{1,40}|(?<![\w@])@[\w.-]{1,40}", re.IGNORECASE)
# A number of 7 to 15 digits (E.164), grouped the way people write it; money and years have fewer digits or commas.
_PHONE = re.compile(r"(?<![\w$€£.,])\+?\(?\d{1,4}\)?(?:[\s.\-/]{0,2}\(?\d{2,4}\)?){2,5}(?![\w%])")


@dataclass(frozen=True)
class Thread:
    """One post as it was found. `state` is '' or why it may not be used: deleted, removed, adult, pinned. `retrieved_at` is None where nobody wrote it down."""

    title: str
    body: str
    url: str
    published: str | None = None
    community: str | None = None
    state: str = ""
    retrieved_at: str | None = None
    call: str | None = None


async def research(
    calls: Calls,
    agent: str,
    queries: Sequence[Query],
    config: PipelineConfig,
    standards: Standards,
    watch: Watcher,
    *,
    threads: Sequence[Thread] = (),
    getter: Getter | None = None,
    endpoints: Endpoints | None = None,
    keys: Keys | None = None,
) -> AgentResult:
    """Questions from the exported threads, then from Reddit where `config.forum` asks for it. Raises CallFailed only for a fatal reason."""
    watch(Progress(agent, "running", "", 0, len(queries)))
    found = [(_nearest(thread, queries), thread) for thread in threads]
    gaps: list[Gap] = []
    if config.forum and queries and keys and getter and endpoints and keys.reddit_id and keys.reddit_secret:
        reddit = Reddit(getter, endpoints, (keys.reddit_id, keys.reddit_secret))
        more, gaps = await _searched(calls, agent, queries, reddit, watch)
        found.extend(more)
    elif config.forum and not threads:
        words = "The forum agent has neither credentials nor exported threads; set REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET, or give --threads."
        gaps.append(Gap(agent, "no_credentials", words))
    # Some milliseconds a post (the safety rules); in a thread, so that the other agents' answers are not kept waiting.
    findings, drops = await asyncio.to_thread(_kept, agent, found, standards)
    if not findings and not gaps and (threads or config.forum):
        gaps.append(Gap(agent, "nothing_found", f"None of {len(found)} forum posts asks something that can be used."))
    state = "done" if findings else "failed" if gaps else "done"
    failed = sum(gap.count for gap in gaps)
    watch(Progress(agent, state, "", len(queries), len(queries), kept=len(findings), dropped=len(drops), failed=failed))
    return AgentResult(tuple(findings), tuple(gaps), tuple(drops))


async def _searched(
    calls: Calls, agent: str, queries: Sequence[Query], reddit: "Reddit", watch: Watcher
) -> tuple[list[tuple[Query | None, Thread]], list[Gap]]:
    """Reddit's posts for each query, in the order of the queries; a failure once per reason."""
    found: list[tuple[Query | None, Thread]] = []
    failed: dict[str, tuple[str, int]] = {}
    for done, query in enumerate(queries):
        if "login" in failed:
            break  # no other query would get in either
        watch(Progress(agent, "running", query.text[:80], done, len(queries), failed=sum(count for _, count in failed.values())))
        try:
            fetched = await calls.fetch(reddit.search(agent, query), reddit.get)
            found.extend((query, thread) for thread in _listing(_body(fetched.body), fetched.received_at, fetched.key))
        except CallFailed as error:
            if error.fatal:
                raise
            reason = "login" if reddit.locked_out else error.reason
            message, count = failed.get(reason, (error.message, 0))
            failed[reason] = (message, count + 1)
    return found, [Gap(agent, reason, message, count) for reason, (message, count) in sorted(failed.items())]


def _body(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The service's JSON, out of what the getter wrapped it in."""
    inner = answer.get("body")
    return inner if "status" in answer and isinstance(inner, dict) else answer


def _listing(body: Mapping[str, Any], received_at: str, key: str) -> list[Thread]:
    """The posts of a Reddit listing. Raises CallFailed (malformed) for another shape; single posts that cannot be read are left out."""
    rows = _children(body)
    if rows is None:
        raise CallFailed("malformed", "Reddit's answer is no listing: `data.children` is missing.")
    found = []
    for row in rows:
        try:
            found.append(_thread(row, received_at, key))
        except Invalid:
            continue
    return found


def _kept(agent: str, found: Sequence[tuple[Query | None, Thread]], standards: Standards) -> tuple[list[Finding], list[Drop]]:
    findings: list[Finding] = []
    drops: list[Drop] = []
    seen: dict[str, str] = {}
    for query, thread in found:
        text = question(thread)
        verdict = standards.thread(thread.url)
        reason = _unusable(thread, text) or ("" if verdict.role else verdict.rule)
        known = seen.get(thread.url) or seen.get(text)
        if reason or known:
            drops.append(Drop(thread.url, agent, reason or "duplicate", neighbour=None if reason else known))
            continue
        made = _finding(agent, query, thread, text, verdict)
        seen[thread.url] = seen[text] = made.id
        findings.append(made)
    return findings, drops


def _unusable(thread: Thread, text: str) -> str:
    """Why a post is not kept; '' where it is."""
    if thread.state:
        return thread.state
    if len(text) < MIN_CHARS:
        return "too_short"
    return "" if asks(thread) else "no_question"


def asks(thread: Thread) -> bool:
    """Whether the title or the body asks something: a question mark outside an address, or a question's first words."""
    title, body = _URL.sub(" ", thread.title), _URL.sub(" ", thread.body)
    return "?" in title or "?" in body or bool(_ASKS.search(title)) or bool(_ASKS.match(body))


def _finding(agent: str, query: Query | None, thread: Thread, text: str, verdict: Any) -> Finding:
    title = scrubbed(thread.title)[:300]
    csl: dict[str, Any] = {"type": "post", "title": title, "URL": thread.url}
    if thread.community:
        csl["container-title"] = thread.community
    if thread.published:
        csl["issued"] = {"date-parts": [[int(part) for part in thread.published.split("-")]]}
    return Finding(
        id=finding_id(thread.url, text, "question"),
        url=thread.url,
        title=title,
        text=text,
        agent=agent,
        query=query.id if query else "",
        retrieved_at=thread.retrieved_at or "",
        extent="excerpt",
        document_sha256=text_sha256(text),
        role="question",  # whatever the standards say of a page: a post never carries an answer
        class_=verdict.class_,
        review_status=verdict.review_status,
        rule=verdict.rule,
        published=thread.published,
        csl=csl,
        # The whole post is scanned, not the excerpt alone: what hides behind character 600 shows what the post is.
        flags=tuple(safety.scan(f"{thread.title}\n\n{thread.body}")),
        call=thread.call,
    )


def question(thread: Thread) -> str:
    """The title and up to 600 characters of the body, without names and addresses. Scrubbed before it is cut, so that a cut hides no address."""
    title, body = scrubbed(thread.title), scrubbed(thread.body)
    if len(body) > BODY_CHARS:
        body = body[: BODY_CHARS + 1].rpartition(" ")[0] or body[:BODY_CHARS]
    return f"{title}\n\n{body}".strip()


def scrubbed(text: str) -> str:
    """The text on one line without links, URLs, e-mail addresses, phone numbers and user names; a user is called 'someone'."""
    plain = _LINK.sub(r"\1", html.unescape(safety.clean(text)))
    for pattern in (_EMAIL, _URL, _PHONE):
        plain = pattern.sub(" ", plain)
    return " ".join(_USER.sub(" someone", plain).split())


def _nearest(thread: Thread, queries: Sequence[Query]) -> Query | None:
    """The query that shares most words with the post, the first of equals; None where none shares a word of five letters or more."""
    words = set(re.findall(r"\w{5,}", f"{thread.title} {thread.body[:2000]}".casefold()))
    scored = [(len(words & set(re.findall(r"\w{5,}", query.text.casefold()))), query) for query in queries]
    best = max(scored, key=lambda pair: pair[0], default=(0, None))
    return best[1] if best[0] else None


def subreddit(text: str) -> str | None:
    """The community that a query names as r/Name; None for anything that Reddit does not allow as a name."""
    found = _SUBREDDIT.search(text)
    return found.group(1) if found else None


class Reddit:
    """Reddit's search with an application's own token. The token is fetched when first needed and never leaves this object."""

    def __init__(self, getter: Getter, endpoints: Endpoints, credentials: tuple[str, str]) -> None:
        """Send nothing yet."""
        self.getter, self.endpoints, self._credentials = getter, endpoints, credentials
        self._token: str | None = None
        self._lock = asyncio.Lock()
        self.locked_out = False  # the credentials were refused

    def search(self, agent: str, query: Query) -> FetchRequest:
        """The request for one query: posts only, no adult ones; within a community where the query names one."""
        community = subreddit(query.text)
        words = " ".join(re.sub(r"[^\w\s']|_", " ", _SUBREDDIT.sub(" ", query.text)).split())[:300]
        # raw_json: Reddit writes &amp; for & otherwise.
        params = [("q", words), ("type", "link"), ("sort", "relevance"), ("t", "all"), ("limit", str(PER_QUERY)), ("raw_json", "1")]
        if community:
            params.append(("restrict_sr", "1"))
        path = f"/r/{community}/search" if community else "/search"
        return FetchRequest(agent, "reddit", self.endpoints.reddit + path, tuple(params))

    async def get(self, request: FetchRequest) -> dict[str, Any]:
        """One attempt, with a new token once when the old one has run out. Raises CallFailed."""
        token = await self._fresh(None)
        try:
            return _lean(await self.getter.get(request, {"authorization": f"Bearer {token}"}))
        except CallFailed as error:
            if error.status != 401:
                raise
            again = await self._fresh(token)
            return _lean(await self.getter.get(request, {"authorization": f"Bearer {again}"}))

    async def _fresh(self, old: str | None) -> str:
        """The token at hand, or a new one where there is none or only the old one."""
        async with self._lock:
            if self._token is None or self._token == old:
                self._token = await self._login()
            return self._token

    async def _login(self) -> str:
        try:
            answer = await self.getter.post_form(
                "reddit", self.endpoints.reddit_login, {"grant_type": "client_credentials"}, self._credentials
            )
        except CallFailed as error:
            self.locked_out = error.status in (400, 401, 403)
            if self.locked_out:
                raise CallFailed(
                    "invalid_request",
                    "Reddit refused the credentials; check REDDIT_CLIENT_ID and REDDIT_CLIENT_SECRET.",
                    status=error.status,
                ) from None
            raise
        token = _body(answer).get("access_token")
        if not isinstance(token, str) or not token:
            self.locked_out = True
            raise CallFailed(
                "invalid_request", "Reddit gave no token for the credentials; the application must be of the kind 'script' or 'web app'."
            )
        return token


def _lean(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer with only those fields of each post that are read: the run's store keeps answers, and it shall keep no author's name."""
    rows = _children(_body(answer))
    if rows is None:
        raise CallFailed("malformed", "Reddit's answer is no listing: `data.children` is missing.")
    posts = [row for row in rows if isinstance(row, dict) and isinstance(row.get("data"), dict)]
    return {
        "status": 200,
        "body": {"data": {"children": [{"kind": row.get("kind", "t3"), "data": _lean_post(row["data"])} for row in posts]}},
    }


def _lean_post(facts: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: facts[name] for name in _FIELDS if name in facts}
    # Of the author only this is kept: whether the account is gone, because then the post counts as deleted.
    return kept | ({"author": "[deleted]"} if _string(facts.get("author")).lower() in _GONE else {})


def read_threads(path: Path) -> list[Thread]:
    """Read exported threads: JSON (a list, or a Reddit listing), JSONL or CSV, told apart by the name's ending.

    Each needs a title and a url or permalink; body or selftext, created_utc, subreddit and retrieved_at are read where they are. Raises Invalid with file
    and line for what cannot be read.
    """
    text = _file_text(path)
    readers = {".json": _json_rows, ".jsonl": _jsonl_rows, ".ndjson": _jsonl_rows, ".csv": _csv_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise Invalid(f"{path.name}: exported threads are a .json, .jsonl or .csv file.")
    threads: list[Thread] = []
    problems: list[str] = []
    for place, row in reader(path.name, text):
        try:
            if isinstance(row, Invalid):
                raise row
            threads.append(_thread(row))
        except Invalid as error:
            problems.append(f"{path.name} {place}: {error.message}")
    if problems:
        more = f"\n... and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise Invalid("\n".join(problems[:MAX_PROBLEMS]) + more, hint="Nothing was read. Mend the lines named above.")
    if not threads:
        raise Invalid(f"{path.name} holds no thread.")
    return threads


def _file_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_FILE:
            raise Invalid(f"{path.name} has {size:,} bytes; exported threads may have at most {MAX_FILE:,}.", hint="Split the file.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path.name} is not UTF-8 text: byte {error.start} does not belong there.") from None
    except OSError as error:
        raise Invalid(f"{path.name} cannot be read: {error.strerror}.") from None


def _json_rows(name: str, text: str) -> Iterator[tuple[str, Any]]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise Invalid(f"{name} line {error.lineno}: this is not JSON ({error.msg}).") from None
    except (ValueError, RecursionError):
        raise Invalid(f"{name} is not JSON that can be read: it is nested too deeply, or holds a number of absurd length.") from None
    # The page of one thread is a list of two listings, the post and its comments; the comments are never read.
    rows = _children(value) if isinstance(value, dict) else _children(value[0]) if _is_page(value) else value
    if not isinstance(rows, list):
        raise Invalid(f"{name}: expected a list of threads or a Reddit listing with `data.children`; found {type(value).__name__}.")
    return ((f"item {number}", row) for number, row in enumerate(rows, 1))


def _is_page(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(item, dict) and item.get("kind") == "Listing" for item in value)


def _jsonl_rows(_: str, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError):
                yield f"line {number}", Invalid("this is not JSON.")


def _csv_rows(name: str, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield f"line {reader.line_num}", {str(key).strip().lower(): value for key, value in row.items() if key is not None}
    except csv.Error as error:
        raise Invalid(f"{name} line {reader.reader.line_num}: this is not CSV ({error}).") from None


def _children(value: Mapping[str, Any]) -> list[Any] | None:
    """The posts of a Reddit listing; None where it is none."""
    data = value.get("data")
    rows = data.get("children") if isinstance(data, dict) else None
    return rows if isinstance(rows, list) else None


def _thread(row: Any, received_at: str | None = None, call: str | None = None) -> Thread:
    """One row of an export or a listing. Raises Invalid."""
    if not isinstance(row, dict):
        raise Invalid(f"a thread is an object with title and url; found {type(row).__name__}.")
    facts = row["data"] if isinstance(row.get("data"), dict) else row
    if row.get("kind", "t3") != "t3":
        raise Invalid("this is a comment or a community, not a post; only posts are read.")
    title = _string(facts.get("title"))
    if not title:
        raise Invalid("`title` is missing or empty.")
    community = _string(facts.get("subreddit"))
    return Thread(
        title=title[:MAX_TITLE],
        body=(_string(facts.get("selftext")) or _string(facts.get("body")))[:MAX_POST],
        url=_url(facts),
        published=_day(facts.get("created_utc")),
        community=f"r/{community}" if community and not community.startswith("r/") else community or None,
        state=_state(facts),
        retrieved_at=received_at or _string(facts.get("retrieved_at")) or None,
        call=call,
    )


def _url(facts: Mapping[str, Any]) -> str:
    """The thread's own page: the permalink first, because a link post's `url` is the page it points to."""
    permalink, url = _string(facts.get("permalink")), _string(facts.get("url"))
    value = REDDIT + permalink if permalink.startswith("/") else permalink or url
    if not value:
        raise Invalid("`url` or `permalink` is missing: a question without its page is no source.")
    return canonical_url(value)


def _state(facts: Mapping[str, Any]) -> str:
    """Why a post may not be used; '' where it may. CSV writes True as a word."""
    gone = {_string(facts.get(name)).lower() for name in ("title", "selftext", "body", "author")} & _GONE
    if facts.get("removed_by_category") or "[removed]" in gone or any("removed by" in word for word in gone):
        return "removed"
    if gone:
        return "deleted"
    if _yes(facts.get("over_18")) or _yes(facts.get("nsfw")):
        return "adult"
    return "pinned" if _yes(facts.get("stickied")) or _yes(facts.get("pinned")) else ""


def _yes(value: Any) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "1", "yes"))


def _string(value: Any) -> str:
    """The text without half surrogate pairs, which JSON may hold and no file can; '' for what is no text."""
    return value.encode("utf-8", "replace").decode().strip() if isinstance(value, str) else ""


def _day(value: Any) -> str | None:
    """YYYY-MM-DD of seconds since 1970 or of an ISO date; None for anything else."""
    try:
        if isinstance(value, str) and "-" in value[1:]:
            return dt.datetime.fromisoformat(value.strip()).date().isoformat()
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return dt.datetime.fromtimestamp(float(value), dt.UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None
    return None

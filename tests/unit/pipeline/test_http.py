"""One HTTP attempt: every way in which a service can fail has its reason and its sentence, and no key is ever told."""

import asyncio
import gzip
import json
import logging
import socket
import threading

import pytest
from fakes.papers_api import PapersApi, recordings

from pipeline import http
from pipeline.config import Keys
from pipeline.http import Getter, credentials
from pipeline.ports import CallFailed, FetchRequest

KEY = "secret-key-0815"


def get(request, *, timeout_s=5.0, headers=None, secret_params=None):
    async def go():
        getter = Getter(timeout_s, headers, secret_params)
        try:
            return await getter.get(request)
        finally:
            await getter.close()

    return asyncio.run(go())


def failure(request, **more):
    with pytest.raises(CallFailed) as caught:
        get(request, **more)
    return caught.value


def s2(api, query="burnout"):
    return FetchRequest("papers", "semantic_scholar", f"{api.endpoints.semantic_scholar}/paper/search", (("query", query), ("limit", "3")))


@pytest.fixture
def raw():
    """A socket server that answers each connection with the bytes it is given."""
    answers, listener = [], socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answers.pop(0))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()

    def ask(*parts, service="semantic_scholar", **more):
        answers[:] = parts
        return failure(FetchRequest("papers", service, f"http://127.0.0.1:{listener.getsockname()[1]}/x"), **more)

    yield ask
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


def reply(status, body=b"{}", **headers):
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def test_json_comes_back_parsed_and_xml_as_text(api):
    answer = get(s2(api))
    assert answer["status"] == 200
    assert len(answer["body"]["data"]) == 3
    feed = get(FetchRequest("papers", "arxiv", api.endpoints.arxiv, (("search_query", "all:burnout"),)))
    assert feed["body"]["text"].startswith("<?xml")
    assert api.log[0].user_agent == http.USER_AGENT


@pytest.mark.parametrize(
    ("fault", "reason", "words"),
    [
        ("rate_limited", "rate_limited", "rate limit"),
        ("500", "server_error", "status 500"),
        ("html_200", "not_json", "an HTML page"),
        ("bad_json", "not_json", "not JSON"),
        ("drop", "connection", "connection to Semantic Scholar failed"),
        ("broken_body", "connection", "connection to Semantic Scholar failed"),
        ("slow", "timeout", "within 0.2 seconds"),
        ("400", "invalid_request", "Synthetic failure 400"),
        ("401", "invalid_request", "does not answer without a key"),
        ("403", "invalid_request", "does not answer without a key"),
        ("404", "not_found", "does not know"),
    ],
)
def test_every_fault_has_its_reason(api, fault, reason, words):
    api.script("semantic_scholar", fault)
    error = failure(s2(api), timeout_s=0.2 if fault == "slow" else 5.0)
    assert (error.reason, words in error.message) == (reason, True), error.message
    assert not error.fatal


def test_an_html_page_is_no_feed_either(api):
    api.script("arxiv", "html_200")
    assert failure(FetchRequest("papers", "arxiv", api.endpoints.arxiv, (("search_query", "all:x"),))).reason == "not_json"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after": "Mon, 02 Nov 2026 10:00:30 GMT", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}, 30.0),
        ({"retry_after": "Mon, 02 Nov 2026 09:00:00 GMT", "date": "Mon, 02 Nov 2026 10:00:00 GMT"}, 0.0),
        ({"retry_after": "Mon, 02 Nov 2026 10:00:30 GMT"}, None),  # whose clock?
        ({"retry_after": "-5"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "soon"}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_to_wait_is_read_by_the_servers_own_clock(raw, headers, seconds, status):
    error = raw(reply(status, **headers))
    assert (error.retry_after, error.retryable) == (seconds, True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(302, location="http://127.0.0.1:1/elsewhere"), "invalid_request"),
        (reply(302, location="https://example.org/"), "invalid_request"),
        (reply(304), "invalid_request"),
        (reply(200, b"[1]"), "not_json"),
        (reply(200, b"NaN"), "not_json"),
        (reply(200, b'{"a": NaN}'), "not_json"),
        (reply(200, b"[" * 200_000), "not_json"),
        (reply(200, b'{"a": ' + b"9" * 5000 + b"}"), "not_json"),
        (reply(200, b'{"a": "\xff"}'), "not_json"),
        (reply(200, b""), "not_json"),
        (reply(200, b"x" * 50, content_encoding="gzip"), "not_json"),
        (reply(200, gzip.compress(b"{}", mtime=0)[:-9], content_encoding="gzip"), "not_json"),
        (reply(200, b"{}", content_encoding="br"), "malformed"),
        (reply(200, b" " * (http.MAX_BODY + 1)), "too_large"),
        (reply(200, gzip.compress(b" " * 50_000_000), content_encoding="gzip"), "too_large"),
        (reply(504), "timeout"),
        (reply(418, b"<html><b>teapot</b></html>"), "invalid_request"),
        (b"HTTP/1.1 what is this\r\n\r\n", "connection"),
        (b"", "connection"),
    ],
)
def test_what_else_a_server_may_send(raw, answer, reason):
    assert raw(answer).reason == reason


def test_a_redirect_on_the_same_origin_is_followed_but_not_for_ever(raw):
    assert "status 418" in raw(reply(302, location="/y"), reply(418)).message
    assert "redirected more than" in raw(*[reply(302, location="/y")] * 4).message


def test_a_dripping_server_ends_with_the_whole_attempts_time():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
                while not stop.wait(0.02):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        error = failure(FetchRequest("papers", "openalex", f"http://127.0.0.1:{listener.getsockname()[1]}/"), timeout_s=0.2)
        stop.set()
        thread.join(5)
    assert error.reason == "timeout"


def test_openalex_says_403_when_it_is_asked_too_fast(raw):
    assert raw(reply(403), service="openalex").reason == "rate_limited"


def test_keys_travel_but_are_never_told(raw, api, caplog):
    caplog.set_level(logging.DEBUG)
    headers, params = credentials(Keys(semantic_scholar=KEY, openalex=KEY))
    get(s2(api), headers=headers, secret_params=params)
    request = FetchRequest("papers", "openalex", f"{api.endpoints.openalex}/works", (("search", "sleep"),))
    get(request, headers=headers, secret_params=params)
    assert [seen.key for seen in api.log] == [True, True]
    assert KEY not in request.key
    echo = reply(401, json.dumps({"error": f"The key {KEY} is unknown"}).encode())
    for service in ("semantic_scholar", "openalex"):
        error = raw(echo, service=service, headers=headers, secret_params=params)
        assert "did not accept the key" in error.message
        assert "[hidden]" in error.message
        assert KEY not in error.message
    assert caplog.records  # something was logged, or the next line says nothing
    assert KEY not in caplog.text


def test_a_key_that_no_header_can_hold_is_a_sentence_without_it(api):
    for bad in ("schlüssel", "a\nb"):
        error = failure(s2(api), headers={"semantic_scholar": {"x-api-key": bad}})
        assert bad not in error.message
        assert not error.fatal


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "http://[::1/x", "x", "http://127.0.0.1:1"])
def test_a_bad_address_is_a_sentence(url):
    assert failure(FetchRequest("papers", "openalex", url)).reason in ("invalid_request", "connection")


def test_the_proxy_of_the_environment_is_not_used(api, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert get(s2(api))["status"] == 200


def test_recorded_errors_of_semantic_scholar_are_read_as_recorded(shared):
    folder = shared / "recorded" / "semantic_scholar"
    seen = set()
    with PapersApi(replay=folder) as api:
        for one in recordings(folder):
            if "query" not in one.params:
                continue
            request = FetchRequest("papers", "semantic_scholar", api.url + one.path, tuple(one.params.items()))
            assert get(request)["body"] == json.loads(one.body)
            seen.add(one.path)
    assert seen == {"/graph/v1/paper/search", "/graph/v1/snippet/search"}


def test_recorded_refusals_keep_the_services_words(raw, shared):
    refusals = [one for one in recordings(shared / "recorded" / "semantic_scholar") if one.status != 200]
    assert {one.status for one in refusals} == {400, 404}
    for one in refusals:
        error = raw(reply(one.status, one.body))
        assert error.reason == {400: "invalid_request", 404: "not_found"}[one.status]
        assert json.loads(one.body)["error"] in error.message

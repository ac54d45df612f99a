"""Versions and aliases over HTTP: registered in two steps, scored, compared, promoted, rolled back, withdrawn."""

import json
from concurrent.futures import ThreadPoolExecutor

import factories
import pytest
from api_kit import (
    BASE,
    CITATION,
    Api,
    adapter,
    add_base,
    add_live,
    counted,
    digest,
    full_fine_tune,
    listed,
    pair,
    problem,
    promote,
    withdraw_source,
)

from registry import advisors, events, versions
from registry.db import Database


@pytest.fixture
def ready(api: Api) -> Api:
    """An advisor with a dataset, and the tiny base."""
    factories.add_advisor(api.db, "elena")
    factories.add_dataset(api.db, [pair("Why am I tired?"), pair("How do I rest?")], csl=[CITATION])
    add_base(api.db)
    return api


def proposal(api: Api, files: dict[str, bytes], *, seed: int = 0, **more) -> dict:
    dataset = api.get("/advisors/elena/datasets").json()["items"][-1]["sha256"]
    return {"dataset": dataset, "base": BASE, "recipe": {"r": 4}, "seed": seed, "files": listed(files), **more}


def upload(api: Api, data: bytes, headers: dict | None = None):
    return api.client.put(f"/artifacts/{digest(data)}", content=data, headers=api.root if headers is None else headers)


def register(api: Api, files: dict[str, bytes], *, seed: int = 0) -> dict:
    """The whole way; returns the finished version."""
    begun = api.post("/advisors/elena/versions", proposal(api, files, seed=seed))
    assert begun.status_code in (200, 201), begun.text
    for data in files.values():
        assert upload(api, data).status_code in (200, 201)
    done = api.post(f"/advisors/elena/versions/{begun.json()['number']}/finish", {"digest": begun.json()["digest"]})
    assert done.status_code == 200, done.text
    return done.json()


def test_a_version_is_registered_in_two_steps(ready):
    files = adapter()
    run = {"environment": {"torch": "2.13.0"}, "timings": {"training": 1.5}, "metrics": {"final_loss": 1.25}}
    begun = ready.post("/advisors/elena/versions", proposal(ready, files, run=run))
    assert begun.status_code == 201, begun.text
    body = begun.json()
    assert (body["ref"], body["state"], body["missing"]) == ("elena@1", "pending", [digest(data) for data in files.values()])
    problem(ready.get("/advisors/elena/versions/1"), 404)
    assert ready.get("/advisors/elena/versions").json()["items"] == []
    early = problem(ready.post("/advisors/elena/versions/1/finish", {"digest": body["digest"]}), 409, "conflict")
    assert "adapter_config.json" in early["detail"]
    assert [upload(ready, data).status_code for data in files.values()] == [201, 201]
    assert upload(ready, files["adapter_config.json"]).status_code == 200
    assert ready.post("/advisors/elena/versions", proposal(ready, files)).json()["missing"] == []
    for _ in range(2):
        done = ready.post("/advisors/elena/versions/1/finish", {"digest": body["digest"]})
        assert (done.status_code, done.json()["state"]) == (200, "ready")
    again = ready.post("/advisors/elena/versions", proposal(ready, files))
    assert (again.status_code, again.json()["number"], again.json()["state"], again.json()["missing"]) == (200, 1, "ready", [])
    assert ready.get("/advisors/elena/versions/1/verify").json() == {
        "ref": "elena@1",
        "holds": True,
        "differences": [],
        "checkpoint_differences": [],
    }
    forced = ready.post("/advisors/elena/versions", proposal(ready, files, force=True))
    assert (forced.status_code, forced.json()["number"]) == (201, 2)


def test_a_config_is_registered_in_its_canonical_form(ready):
    """What PEFT writes differs in order and cosmetics: the canonical bytes take its place, and the history keeps the announced digest."""
    files = adapter()
    canonical = files["adapter_config.json"]
    told = json.loads(canonical)
    files["adapter_config.json"] = json.dumps(dict(reversed(told.items())) | {"peft_version": "0.21.2", "inference_mode": False}).encode()
    begun = ready.post("/advisors/elena/versions", proposal(ready, files)).json()
    for data in files.values():
        upload(ready, data)
    with ThreadPoolExecutor(2) as pool:  # a client that lost the first answer asks again
        answers = list(pool.map(lambda _: ready.post("/advisors/elena/versions/1/finish", {"digest": begun["digest"]}), range(2)))
    done = ready.post("/advisors/elena/versions/1/finish", {"digest": begun["digest"]}).json()
    assert [answer.json()["digest"] for answer in answers] == [done["digest"]] * 2
    assert done["digest"] != begun["digest"]
    stored = {f["path"]: (f["sha256"], f["size"]) for f in done["files"]}
    assert stored["adapter_config.json"] == (digest(canonical), len(canonical))
    assert stored["adapter_model.safetensors"][0] == digest(files["adapter_model.safetensors"])
    assert ready.get("/advisors/elena/versions/1/files/adapter_config.json").content == canonical
    assert ready.get("/advisors/elena/versions/1/verify").json()["holds"] is True
    with ready.db.read() as session:
        (event,) = events.of_advisor(session, advisors.get(session, "elena"), tag_prefix="version:registered")
        assert events.body_of(event) == {"number": 1, "digest": done["digest"], "announced": begun["digest"]}
    assert ready.post("/advisors/elena/versions/1/finish", {"digest": done["digest"]}).status_code == 200
    problem(ready.post("/advisors/elena/versions/1/finish", {"digest": digest(b"other")}), 409)
    # The same training in canonical form gives the same bytes, so the same digest; announced canonically, nothing is rewritten.
    assert ready.post("/advisors/elena/versions", proposal(ready, adapter())).json()["digest"] == done["digest"]
    assert "announced" not in ready.post("/advisors/elena/versions", proposal(ready, files)).json()


def test_a_full_fine_tune_is_registered_and_called_one(ready):
    files = full_fine_tune()
    begun = ready.post("/advisors/elena/versions", proposal(ready, files)).json()
    for data in files.values():
        upload(ready, data)
    done = ready.post("/advisors/elena/versions/1/finish", {"digest": begun["digest"]}).json()
    assert (done["kind"], done["state"], done["digest"], done["checkpoints"]) == ("full", "ready", begun["digest"], [])
    assert register(ready, adapter(), seed=1)["kind"] == "lora"
    changed = ready.get("/advisors/elena/versions/1/diff/2").json()["facts"]
    assert {"what": "kind", "before": "full", "after": "lora"} in changed
    assert ready.get("/advisors/elena/sources?version=1").json()["summary"]["sentence"].endswith("trained this model.")
    assert ready.get("/advisors/elena/sources?version=2").json()["summary"]["sentence"].endswith("trained this adapter.")
    broken = files | {"config.json": files["config.json"].replace(b'"vocab_size":64', b'"vocab_size":65')}
    begun = ready.post("/advisors/elena/versions", proposal(ready, broken, seed=2)).json()
    for data in broken.values():
        upload(ready, data)
    found = problem(ready.post("/advisors/elena/versions/3/finish", {"digest": begun["digest"]}), 422, "invalid")
    assert "This full fine-tune is refused" in found["detail"]
    both = proposal(ready, files | adapter(), seed=3)
    problem(ready.post("/advisors/elena/versions", both), 422)


def test_kept_checkpoints_are_told_and_verified_and_not_served(ready):
    early, files = b"an adapter of step 10", factories.put_files(ready.store, "elena")
    kept = {"step": 10, "epoch": 0.5, "learning_rate": 1e-4, "sha256": digest(early), "size": len(early)}
    with ready.db.transaction() as session:
        elena = advisors.get(session, "elena", lock=True)
        wanted = factories.proposal(session, elena, files)
        version = versions.begin(session, elena, wanted, actor="trainer")
        versions.keep_checkpoints(session, version, [kept])
        versions.finish(session, version.id, wanted.manifest.digest, actor="trainer")
    ready.store.put_bytes(early)
    assert ready.get("/advisors/elena/versions/1").json()["checkpoints"] == [kept]
    for name in (f"/artifacts/{digest(early)}", "/advisors/elena/versions/1/files/step-000010.safetensors"):
        problem(ready.get(name), 404)
    problem(ready.get(f"/artifacts/{digest(early)}", ready.token("read", advisor="elena")), 404)
    assert ready.get("/advisors/elena/versions/1/verify").json()["checkpoint_differences"] == []
    factories.damage(ready.store, digest(early))
    found = ready.get("/advisors/elena/versions/1/verify").json()
    assert (found["holds"], found["differences"]) == (True, [])
    (line,) = found["checkpoint_differences"]
    assert line.startswith("checkpoint of step 10: ")
    assert ready.send("PUT", "/advisors/elena/aliases/live", {"version": 1}).json()["done"] is True  # nobody is served by it


def test_the_run_that_a_client_tells_of_is_kept(ready):
    files = adapter()
    run = {"environment": {"torch": "2.13.0"}, "timings": {"training": 1.5}, "metrics": {"final_loss": 1.25}}
    begun = ready.post("/advisors/elena/versions", proposal(ready, files, run=run)).json()
    for data in files.values():
        upload(ready, data)
    done = ready.post("/advisors/elena/versions/1/finish", {"digest": begun["digest"]}).json()
    assert (done["run"]["kind"], done["run"]["environment"], done["run"]["metrics"]) == ("upload", run["environment"], run["metrics"])
    assert (done["recipe"], done["base"]["repo"], done["created_by"]) == (
        {"r": 4},
        BASE["repo"],
        "read+write+promote+admin of None (token 1)",
    )


def test_the_gate_refuses_a_broken_adapter_and_says_why(ready):
    files = adapter()
    config = json.loads(files["adapter_config.json"])
    files["adapter_config.json"] = json.dumps(config | {"r": 8, "use_dora": True}).encode()
    begun = ready.post("/advisors/elena/versions", proposal(ready, files)).json()
    for data in files.values():
        upload(ready, data)
    found = problem(ready.post("/advisors/elena/versions/1/finish", {"digest": begun["digest"]}), 422, "invalid")
    assert "use_dora" in found["detail"]
    assert "q_proj" in found["detail"]
    problem(ready.get("/advisors/elena/versions/1"), 404)
    # The same training with a sound adapter takes the number over.
    assert register(ready, adapter())["number"] == 1


def test_what_a_registration_may_not_say(ready):
    files = adapter()
    good = proposal(ready, files)
    sizes = [f | {"size": f["size"] + 1} for f in good["files"]]
    begun = ready.post("/advisors/elena/versions", good | {"files": sizes}).json()
    for data in files.values():
        upload(ready, data)
    problem(ready.post("/advisors/elena/versions/1/finish", {"digest": begun["digest"]}), 409)
    problem(ready.post("/advisors/elena/versions/1/finish", {"digest": digest(b"other")}), 409)
    problem(ready.post("/advisors/elena/versions/9/finish", {"digest": begun["digest"]}), 404)
    for wrong in (
        {"files": [good["files"][0]]},
        {"files": [good["files"][0], good["files"][0]]},
        {"files": [*good["files"], {"path": "../../etc/passwd", "sha256": digest(b""), "size": 0}]},
        {"files": [f | {"sha256": "sha256:xyz"} for f in good["files"]]},
        {"seed": -1},
        {"seed": 2**31},
        {"recipe": {"r": 2**60}},
        {"recipe": {"note": "\x00"}},
        {"recipe": {"note": "\ud800"}},
        {"unknown": 1},
    ):
        problem(ready.post("/advisors/elena/versions", good | wrong), 422)
    problem(ready.post("/advisors/elena/versions", good | {"base": {"repo": "no/such"}}), 404)
    problem(ready.post("/advisors/elena/versions", good | {"dataset": "sha256:" + "0" * 64}), 404)


def test_an_upload_must_have_its_digest_and_stay_small(ready):
    data = b"bytes"
    found = problem(ready.client.put(f"/artifacts/{digest(b'other')}", content=data, headers=ready.root), 422, "digest_mismatch")
    assert digest(data) in found["detail"]
    assert ready.store.stat(digest(b"other")) is None
    assert ready.store.stat(digest(data)) is None
    for wrong in ("sha256:xyz", "md5:1", digest(data).upper()):
        problem(ready.client.put(f"/artifacts/{wrong}", content=data, headers=ready.root), 422)
    small = Api(ready.db, ready.store, max_upload_mib=1)
    big = b"0" * (1024 * 1024 + 1)
    problem(upload(small, big), 413, "too_large")

    def stream():
        yield big[: len(big) // 2]
        yield big[len(big) // 2 :]

    problem(small.client.put(f"/artifacts/{digest(big)}", content=stream(), headers=small.root), 413, "too_large")
    assert ready.store.stat(digest(big)) is None


def test_files_are_downloaded_by_name_and_by_digest(ready):
    files = adapter()
    register(ready, files)
    for name, data in files.items():
        by_name = ready.get(f"/advisors/elena/versions/1/files/{name}")
        assert (by_name.status_code, by_name.content, by_name.headers["etag"]) == (200, data, f'"{digest(data)}"')
        assert ready.get(f"/artifacts/{digest(data)}").content == data
        head = ready.send("HEAD", f"/artifacts/{digest(data)}")
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))
        tagged = ready.root | {"if-none-match": f'"{digest(data)}"'}
        assert ready.get(f"/artifacts/{digest(data)}", tagged).status_code == 304
        assert ready.get(f"/artifacts/{digest(data)}", ready.root | {"range": "bytes=0-3"}).content == data[:4]
    assert by_name.headers["content-disposition"] == 'attachment; filename="adapter_config.json"'
    assert "adapter_config.json" in problem(ready.get("/advisors/elena/versions/1/files/pickle.bin"), 404)["detail"]
    problem(ready.get(f"/artifacts/{digest(b'unknown')}"), 404)


def test_a_file_of_a_pending_version_is_given_to_nobody(ready):
    files = adapter()
    ready.post("/advisors/elena/versions", proposal(ready, files))
    for data in files.values():
        upload(ready, data)
        problem(ready.get(f"/artifacts/{digest(data)}"), 404)


def test_knowing_a_digest_grants_nothing(ready):
    """A bound token registers a version of its own that names another advisor's file: it must have had the bytes."""
    secret = adapter(tag=3)
    register(ready, secret)
    factories.add_advisor(ready.db, "marcus")
    factories.add_dataset(ready.db, [pair("Another question?")], "marcus")
    bound = ready.token("read", "write", advisor="marcus")
    dataset = ready.get("/advisors/marcus/datasets", bound).json()["items"][0]["sha256"]
    body = {"dataset": dataset, "base": BASE, "recipe": {"r": 4}, "seed": 0, "files": listed(secret)}
    begun = ready.post("/advisors/marcus/versions", body, bound).json()
    assert begun["missing"] == [digest(data) for data in secret.values()]  # though the store has them
    finish = {"digest": begun["digest"]}
    problem(ready.post("/advisors/marcus/versions/1/finish", finish, bound), 403, "forbidden")
    forged = dict.fromkeys(begun["missing"], "0" * 64)
    problem(ready.post("/advisors/marcus/versions/1/finish", finish | {"receipts": forged}, bound), 403)
    problem(ready.get(f"/artifacts/{begun['missing'][0]}", bound), 404)
    # Another advisor's receipts do not help either; its own do.
    elsewhere = ready.token("write", advisor="elena")
    theirs = {digest(d): upload(ready, d, elsewhere).json()["receipt"] for d in secret.values()}
    problem(ready.post("/advisors/marcus/versions/1/finish", finish | {"receipts": theirs}, bound), 403)
    own = {digest(d): upload(ready, d, bound).json()["receipt"] for d in secret.values()}
    assert ready.post("/advisors/marcus/versions/1/finish", finish | {"receipts": own}, bound).status_code == 200
    assert ready.get(f"/artifacts/{begun['missing'][0]}", bound).status_code == 200
    assert ready.post("/advisors/marcus/versions", body | {"seed": 1}, bound).json()["missing"] == []


def test_a_dataset_of_another_advisor_cannot_be_referred_to(ready):
    other = ready.get("/advisors/elena/datasets").json()["items"][0]["sha256"]
    factories.add_advisor(ready.db, "marcus")
    body = {"dataset": other, "base": BASE, "recipe": {}, "seed": 0, "files": listed(adapter())}
    problem(ready.post("/advisors/marcus/versions", body), 404)


def test_scores_are_added_once_and_shown(elena):
    body = {"suite": "voice", "scores": [{"metric": "warmth", "value": 0.8, "low": 0.7, "high": 0.9, "n": 40}]}
    assert elena.post("/advisors/elena/versions/1/scores", body).status_code == 201
    assert elena.post("/advisors/elena/versions/1/scores", body).status_code == 200
    better = {"suite": "voice", "scores": [{"metric": "warmth", "value": 0.9, "n": 40}]}
    assert elena.post("/advisors/elena/versions/1/scores", better).status_code == 201
    shown = elena.get("/advisors/elena/versions/1/scores").json()
    assert [(s["suite"], s["scores"][0]["value"]) for s in shown] == [("voice", 0.9)]
    assert elena.get("/advisors/elena/versions/1").json()["scores"] == shown
    for wrong in (
        [],
        [{"metric": "x", "value": 1, "n": 0}],
        [{"metric": "x", "value": 1, "low": 2, "n": 1, "high": 3}],
        [{"metric": "", "value": 1, "n": 1}],
    ):
        problem(elena.post("/advisors/elena/versions/1/scores", {"suite": "s", "scores": wrong}), 422)


def test_versions_are_listed_newest_first_and_compared(elena):
    factories.add_dataset(elena.db, [pair("Why am I tired?"), pair("What now?", url="https://example.org/page")], csl=[CITATION])
    add_live(elena.db, elena.store, seed=2)
    for number in (1, 2):
        body = {"suite": "judge", "scores": [{"metric": "loss", "value": 2.0 - number / 2, "n": 10}]}
        elena.post(f"/advisors/elena/versions/{number}/scores", body)
    first = elena.get("/advisors/elena/versions?limit=1").json()
    assert [(v["number"], v["aliases"]) for v in first["items"]] == [(2, ["live"])]
    assert [v["number"] for v in elena.get(first["next"]).json()["items"]] == [1]
    diff = elena.get("/advisors/elena/versions/1/diff/2").json()
    assert (diff["before"], diff["after"]) == ("elena@1", "elena@2")
    assert {key: diff["data"][key] for key in ("same", "added", "removed", "kept")} == {"same": False, "added": 1, "removed": 1, "kept": 1}
    assert [(s["id"], s["title"]) for s in diff["sources_added"]] == [("src_2", "https://example.org/page")]
    assert diff["sources_removed"] == []
    assert diff["scores"] == [{"suite": "judge", "metric": "loss", "before": 1.5, "after": 1.0}]
    assert [change["what"] for change in diff["facts"]] == ["seed"]
    assert {change["what"] for change in diff["files"]} == {"adapter_config.json", "adapter_model.safetensors"}
    with counted(elena.db) as statements:
        elena.get("/advisors/elena/versions/1/diff/2")
    assert len(statements) <= 14
    same = elena.get("/advisors/elena/versions/2/diff/2").json()
    assert (same["data"]["same"], same["facts"], same["recipe"], same["files"], same["sources_added"]) == (True, [], [], [], [])


def test_promote_roll_back_undo_and_clear(elena):
    add_live(elena.db, elena.store, seed=2, alias="candidate")
    live = "/advisors/elena/aliases/live"
    tag = elena.get(live).headers["etag"]
    assert tag == '"g1"'
    new = "/advisors/elena/aliases/trial"
    problem(elena.send("PUT", new, {"version": 2}, elena.root | {"if-match": "*"}), 412, "precondition_failed")
    assert elena.send("PUT", new, {"version": 2}).headers["etag"] == '"g1"'
    assert elena.send("PUT", new, {"version": 1}, elena.root | {"if-match": "*"}).status_code == 200
    planned = elena.send("PUT", live, {"version": 2, "dry_run": True}).json()
    assert (planned["before"], planned["after"], planned["done"]) == (1, 2, False)
    moved = elena.send("PUT", live, {"version": 2, "reason": "better"}, elena.root | {"if-match": tag})
    assert (moved.status_code, moved.json()["done"], moved.headers["etag"]) == (200, True, '"g2"')
    assert elena.send("PUT", live, {"version": 2}).json()["done"] is False
    for headers, body in (
        ({"if-match": tag}, {}),
        ({"if-match": '"other"'}, {}),
        ({"if-match": "*"}, {"expected_version": 1}),
        ({}, {"expected_version": 0}),
    ):
        problem(elena.send("PUT", live, {"version": 1, **body}, elena.root | headers), 412, "precondition_failed")
        problem(elena.post(f"{live}/rollback", {"reason": "r", **body}, elena.root | headers), 412)
        problem(elena.post(f"{live}/undo", body, elena.root | headers), 412)
        problem(elena.post(f"{live}/clear", {"reason": "r", **body}, elena.root | headers), 412)
    back = elena.post(f"{live}/rollback", {"reason": "too long", "expected_version": 2}).json()
    assert (back["before"], back["after"], back["kind"]) == (2, 1, "rolled_back")
    assert elena.post(f"{live}/undo", {}).json()["after"] == 2
    cleared = elena.post(f"{live}/clear", {"reason": "holiday"}).json()
    assert (cleared["before"], cleared["after"]) == (2, None)
    problem(elena.get("/advisors/elena/resolve"), 404)
    kinds = [m["kind"] for m in elena.get(f"{live}/history").json()["items"]]
    assert kinds == ["promoted", "promoted", "rolled_back", "undone", "cleared"]
    page = elena.get(f"{live}/history?limit=2").json()
    rest = elena.get(page["next"]).json()
    assert [m["kind"] for m in rest["items"]] == ["rolled_back", "undone"]
    assert [a["alias"] for a in elena.get("/advisors/elena/aliases").json()["items"]] == ["candidate", "live", "trial"]
    assert elena.get("/advisors/elena/aliases/candidate/history").json()["items"][0]["after"] == 2
    problem(elena.get("/advisors/elena/aliases/nothing"), 404)
    problem(elena.send("PUT", live, {"version": 77}), 404)


def test_who_was_live_then(elena):
    assert elena.get("/advisors/elena/resolve").json()["version"]["ref"] == "elena@1"
    later = elena.get("/advisors/elena/resolve?at=2099-03-03").json()
    assert (later["at"], later["version"]["ref"]) == ("the end of 2099-03-03 (UTC)", "elena@1")
    problem(elena.get("/advisors/elena/resolve?at=2001-01-01"), 404)
    for wrong in ("yesterday", "2026-13-01", "0001-01-01T00:00:00%2B10:00", "9999-12-31T23:59:59-10:00"):
        problem(elena.get(f"/advisors/elena/resolve?at={wrong}"), 422)


def test_an_unfit_version_is_refused_with_every_reason(elena):
    number = factories.add_version(elena.db, elena.store, seed=5).number
    assert elena.post(f"/advisors/elena/versions/{number}/withdraw", {"reason": "leaked a name"}).json()["state"] == "withdrawn"
    assert elena.post(f"/advisors/elena/versions/{number}/withdraw", {"reason": "again"}).json()["withdrawn_reason"] == "leaked a name"
    problem(elena.post("/advisors/elena/versions/1/withdraw", {"reason": "r"}), 409, "conflict")
    withdraw_source(elena.db, "src_1")
    found = problem(elena.send("PUT", "/advisors/elena/aliases/live", {"version": number}), 409, "not_promotable")
    assert len(found["reasons"]) == 2


def test_64_registrations_at_once_give_64_consecutive_numbers(db, store):
    factories.add_advisor(db)
    factories.add_dataset(db, [pair("Why?")])
    everything = [factories.put_files(store, f"race {n}") for n in range(64)]

    def one(n: int) -> int:
        with db.transaction() as session:
            advisor = advisors.get(session, "elena", lock=True)
            wanted = factories.proposal(session, advisor, everything[n], seed=n)
            version = versions.begin(session, advisor, wanted, actor="racer")
        with db.transaction() as session:
            return versions.finish(session, version.id, wanted.manifest.digest, actor="racer").number

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(one, range(64))) == list(range(1, 65))


def test_registering_takes_six_statements_in_a_transaction_at_most(ready):
    for number in range(3):
        files = adapter(tag=number + 1)
        body = proposal(ready, files, seed=number, run={"metrics": {"loss": 1.0}})
        with counted(ready.db) as begin:
            begun = ready.post("/advisors/elena/versions", body).json()
        for data in files.values():
            upload(ready, data)
        with counted(ready.db) as finish:
            assert ready.post(f"/advisors/elena/versions/{begun['number']}/finish", {"digest": begun["digest"]}).status_code == 200
        writing = next(i for i, s in enumerate(begin) if "FOR UPDATE" in s or s.startswith("INSERT")) - (0 if not ready.db.is_sqlite else 1)
        locked = [s for s in begin[writing:] if "blobs" not in s]
        assert len(locked) <= 6 + 1, locked  # and one to tell which files are missing
        ends = next(i for i, s in enumerate(finish) if "head" in s.lower() and s.startswith("UPDATE"))
        start = next(i for i, s in enumerate(finish) if s.startswith("INSERT INTO blobs")) - 1
        assert ends - start + 1 <= 6, finish[start : ends + 1]


def test_promotion_over_http_is_one_transaction(elena):
    factories.add_version(elena.db, elena.store, seed=2)
    promote(elena.db, elena.store, "elena@2", "candidate")
    assert elena.get("/advisors/elena").json()["aliases"] == {"candidate": 2, "live": 1}


def test_of_many_who_move_an_alias_from_one_place_one_succeeds(elena):
    for seed in range(2, 8):
        factories.add_version(elena.db, elena.store, seed=seed)

    def move(number: int) -> int:
        body = {"version": number, "expected_version": 1}
        return elena.send("PUT", "/advisors/elena/aliases/live", body, elena.root | {"if-match": '"g1"'}).status_code

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(move, range(2, 8))) == [200, 412, 412, 412, 412, 412]
    assert elena.get("/advisors/elena/aliases/live").json()["generation"] == 2


def test_the_whole_way_on_s3(make_sqlite, s3_room):
    db = Database(make_sqlite())
    api = Api(db, s3_room.store)
    factories.add_advisor(db, "elena")
    factories.add_dataset(db, [pair("Why am I tired?")], csl=[CITATION])
    add_base(db)
    files = adapter()
    assert register(api, files)["number"] == 1
    answer = api.get("/advisors/elena/versions/1/files/adapter_config.json")
    assert answer.status_code == 307
    assert answer.headers["location"].startswith(s3_room.server.endpoint)
    tagged = api.root | {"if-none-match": answer.headers["etag"]}
    assert api.get("/advisors/elena/versions/1/files/adapter_config.json", tagged).status_code == 304
    broken = adapter(tag=2) | {"adapter_config.json": b"{}"}
    begun = api.post("/advisors/elena/versions", proposal(api, broken, seed=1)).json()
    for data in broken.values():
        upload(api, data)
    problem(api.post(f"/advisors/elena/versions/{begun['number']}/finish", {"digest": begun["digest"]}), 422)
    assert api.send("PUT", "/advisors/elena/aliases/live", {"version": 1}).json()["done"] is True
    db.dispose()

"""Which source may carry advice: every rule, the order among them, domains by suffix only, and what a person allowed or denied."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.standards
from pipeline.standards import Standards, says_machine_wrote_it
from registry.errors import Invalid
from registry.vocabulary import CLASSES, REVIEW_STATUSES, ROLES

NEUTRAL = "People who detach from work in the evening report less exhaustion."
AUTHOR = [{"family": "Oerlemans", "given": "Wido"}]


@pytest.mark.parametrize(
    ("url", "rule", "role", "class_", "review"),
    [
        ("https://www.nature.com/articles/x", "academic.publisher", "answer", "academic", "unknown"),
        ("https://link.springer.com/article/10.1", "academic.publisher", "answer", "academic", "unknown"),
        ("https://pubmed.ncbi.nlm.nih.gov/123/", "academic.publisher", "answer", "academic", "unknown"),
        ("https://psycnet.apa.org/record/1", "academic.publisher", "answer", "academic", "unknown"),
        ("https://arxiv.org/abs/2403.14720", "paper.preprint", "answer", "academic", "preprint"),
        ("https://papers.ssrn.com/sol3/x", "paper.preprint", "answer", "academic", "preprint"),
        ("https://www.nih.gov/about", "institution.government", "answer", "institutional", "unknown"),
        ("https://www.consumerfinance.gov/x", "institution.government", "answer", "institutional", "unknown"),
        ("https://www.hse.gov.uk/stress/", "institution.government", "answer", "institutional", "unknown"),
        ("https://osha.europa.eu/en", "institution.government", "answer", "institutional", "unknown"),
        ("https://www.cam.ac.uk/research", "institution.university", "answer", "institutional", "unknown"),
        ("https://ecommons.cornell.edu/handle/1", "institution.university", "answer", "institutional", "unknown"),
        ("https://www.who.int/news/item/x", "institution.known", "answer", "institutional", "unknown"),
        ("https://www.nhs.uk/conditions/", "institution.known", "answer", "institutional", "unknown"),
        ("https://www.mckinsey.com/mhi/our-insights/x", "industry.research", "answer", "industry", "editorial"),
        ("https://www.microsoft.com/en-us/worklab/work-trend-index", "industry.research", "answer", "industry", "editorial"),
        ("https://hbr.org/2024/01/how-to-say-no", "professional.publication", "answer", "professional", "editorial"),
        ("https://sloanreview.mit.edu/article/x", "professional.publication", "answer", "professional", "editorial"),
        ("https://www.apa.org/topics/burnout", "professional.publication", "answer", "professional", "editorial"),
        ("https://www.nice.org.uk/about", "clinical.method", "answer", "clinical", "unknown"),
        ("https://www.health.harvard.edu/mind", "clinical.method", "answer", "clinical", "unknown"),
        ("https://www.reddit.com/r/x", "never.social", None, "community", "self_published"),
        ("https://ann.substack.com/p/x", "never.social", None, "community", "self_published"),
        ("https://independent.academia.edu/x", "never.social", None, "community", "self_published"),
        ("https://en.wikipedia.org/wiki/Burnout", "never.no-author", None, "community", "self_published"),
        ("https://chatgpt.com/share/x", "never.ai-generated", None, "unclassified", "unknown"),
        ("https://workplace.stackexchange.com/q/1", "forum.question-only", "question", "community", "self_published"),
        ("https://patient.info/forums/discuss/1", "forum.question-only", "question", "community", "self_published"),
        ("https://www.best-burnout-tips.com/x", "web.unknown-publisher", None, "unclassified", "unknown"),
        ("https://www.microsoft.com/en-us/windows", "web.unknown-publisher", None, "unclassified", "unknown"),
        ("https://www.hu-berlin.de/x", "institution.university", "answer", "institutional", "unknown"),
        ("https://www.psychologie.uni-leipzig.de/x", "institution.university", "answer", "institutional", "unknown"),
        ("https://hal.science/hal-01", "paper.preprint", "answer", "academic", "preprint"),
        ("https://www.bmas.de/x", "institution.government", "answer", "institutional", "unknown"),
        ("https://www.1177.se/x", "institution.government", "answer", "institutional", "unknown"),
        ("https://www.cancer.org/x", "institution.known", "answer", "institutional", "unknown"),
        ("https://www.rcn.org.uk/x", "professional.publication", "answer", "professional", "editorial"),
        ("https://positivepsychology.com/x", "professional.publication", "answer", "professional", "editorial"),
        ("https://www.theguardian.com/x", "professional.news", "answer", "professional", "editorial"),
        ("https://www.ted.com/talks/x", "professional.publication", "answer", "professional", "editorial"),
        ("https://anything.edu.pl/x", "web.unknown-publisher", None, "unclassified", "unknown"),
        ("https://web.stanford.edu/~joe/rest.html", "never.personal-page", None, "unclassified", "unknown"),
        ("https://web.stanford.edu/%7Ejoe/", "never.personal-page", None, "unclassified", "unknown"),
        ("https://sites.psu.edu/jane/", "never.personal-page", None, "unclassified", "unknown"),
        ("https://u.osu.edu/jane/", "never.personal-page", None, "unclassified", "unknown"),
        ("https://blogs.harvard.edu/anon", "never.personal-page", None, "unclassified", "unknown"),
        ("https://people.eecs.berkeley.edu/~x", "never.personal-page", None, "unclassified", "unknown"),
        ("https://students.ubc.ca/x", "never.personal-page", None, "unclassified", "unknown"),
        ("https://scholarworks.umass.edu/x", "never.personal-page", None, "unclassified", "unknown"),
        ("https://hbsp.harvard.edu/product/x", "never.personal-page", None, "unclassified", "unknown"),
        ("https://med.stanford.edu/news/x", "institution.university", "answer", "institutional", "unknown"),
        ("https://blogs.cdc.gov/niosh/x", "institution.government", "answer", "institutional", "unknown"),
        ("https://greatergood.berkeley.edu/people/x/y", "professional.publication", "answer", "professional", "editorial"),
    ],
)
def test_a_page_gets_the_rule_of_its_publisher(url, rule, role, class_, review):
    found = Standards().web(url, "A page", NEUTRAL)
    assert (found.rule, found.role, found.class_, found.review_status) == (rule, role, class_, review)
    assert found.why
    assert "{" not in found.why


@pytest.mark.parametrize(
    "url",
    [
        "https://notnature.com/x",
        "https://nature.com.evil.example/x",
        "https://evil.example/nature.com",
        "https://evil.example/?u=https://nature.com",
        "https://nature.com@evil.example/",
        "https://whitehousegov.example/",
        "https://fakegov/",
        "https://myreddit.community/",
        "nature.com",
        "",
        "https://[::1",
    ],
)
def test_a_domain_is_never_matched_as_a_part_of_another(url):
    found = Standards().web(url, "A page", NEUTRAL)
    assert (found.role, found.rule) == (None, "web.unknown-publisher")


@pytest.mark.parametrize("url", ["HTTPS://WWW.NATURE.COM./x", "https://nature.com:8443/x", "https://a.b.nature.com/"])
def test_the_spelling_of_a_host_does_not_matter(url):
    assert Standards().web(url, "A page", NEUTRAL).rule == "academic.publisher"


def test_an_unknown_publisher_is_named_with_the_way_to_vouch_for_it():
    why = Standards().web("https://www.tips.example/x", "A page", NEUTRAL).why
    assert why == "nobody accountable is known for tips.example; vouch for it with --allow-domain tips.example=CLASS"


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I cannot feel tired.",
        "Rest well.  This article was generated by ChatGPT.",
        "This post has been partly written with artificial\u00a0intelligence.",
        "this content was automatically generated using GPT-4o",
        "This is an AI-generated summary of the page.",
        "The following text was produced by a large language model.",
        "I\u2019m an AI assistant and have no feelings.",
        "This report was written by Claude 3 and edited by us.",
        "Generated by AI. Here are ten tips.",
        "This article was drafted by ChatGPT.",
        "Claude wrote this article.",
        "ChatGPT wrote most of this post.",
        "This guide was written with assistance from ChatGPT.",
        "This post was written with the help of ChatGPT.",
        "This article was created by our editors with the help of ChatGPT.",
        "AI-generated summary: rest helps.",
        "Rest and sleep. By ChatGPT, 3 May 2024.",
        "This article was written by our AI writer.",
        "I used generative AI to write this piece.",
        "We used ChatGPT to write this article.",
        "This report was drafted by Gemini.",
        "Dieser Artikel wurde mit Hilfe von ChatGPT erstellt.",
        "Dieser Text wurde von einer KI geschrieben.",
        "Diese Zusammenfassung wurde mithilfe von Künstlicher Intelligenz erstellt.",
    ],
)
def test_a_text_that_says_a_model_wrote_it_never_carries_advice(text):
    for standards in (Standards(), Standards(allowed={"nature.com": "academic"})):
        found = standards.web("https://www.nature.com/articles/x", "Rest", text)
        assert (found.role, found.rule) == (None, "never.ai-generated")


@pytest.mark.parametrize(
    "text",
    [
        "We compared essays by students with articles generated by ChatGPT.",
        "Workers worry about AI-generated content at work.",
        "This article was not generated by AI.",
        "This article was written by Claude Dupont of Lyon.",
        "This report was produced by Aida Brandt.",
        "Large language models are studied in medicine.",
        "Written by Gemini Adams",
        "Written by Gemini Adams and Claude Dupont.",
        "During the preparation of this work the authors used ChatGPT to improve readability.",
        "I used generative AI to write code for the survey.",
        "Participants read an AI-generated summary and a human one.",
        "Claude wrote this to his mother in 1890.",
        "By Gemini Adams, nurse.",
        "Our AI writer policy: we publish no text by a machine.",
        "Students asked ChatGPT to write essays.",
        "This content was produced by AI Now Institute.",
        "Dieser Artikel wurde von einer Kinderärztin geschrieben.",
        "Dieser Text handelt von künstlicher Intelligenz.",
    ],
)
def test_a_text_about_models_stays(text):
    assert not says_machine_wrote_it(text)
    assert Standards().web("https://hbr.org/x", "Rest", text).role == "answer"


@pytest.mark.parametrize(
    "title", ["RETRACTED: Rest and recovery", "[Retracted] Rest", "RETRACTED ARTICLE: Rest", "Retraction notice: Rest"]
)
def test_a_retracted_work_is_refused_everywhere(title):
    csl = {"title": title, "author": AUTHOR, "container-title": "Journal of Rest"}
    found = [
        Standards().web("https://www.nature.com/x", title, NEUTRAL),
        Standards().paper(csl, types=["JournalArticle"]),
        Standards().document(csl),
    ]
    assert {(verdict.role, verdict.rule) for verdict in found} == {(None, "never.retracted")}


def test_a_study_of_retractions_stays():
    assert Standards().web("https://www.nature.com/x", "Why retracted papers are cited", NEUTRAL).role == "answer"


@pytest.mark.parametrize(
    ("url", "title", "review"),
    [
        ("https://www.nice.org.uk/guidance/ng212", "Mental wellbeing at work: NICE guideline", "guideline"),
        ("https://www.who.int/x", "Guidance on mental health at work", "guideline"),
        ("https://www.who.int/x", "Burn-out", "unknown"),
        ("https://hbr.org/x", "Guidelines for managers", "editorial"),
        ("https://www.nature.com/x", "Guidelines for rest", "unknown"),
        ("https://www.who.int/x", "Misguidances", "unknown"),
        ("https://www.stanford.edu/x", "Dorm move-in guidance", "unknown"),
        ("https://www.cdc.gov/x", "Guidance for grieving parents", "unknown"),
        ("https://www.cdc.gov/x", "Clinical guidance on sleep", "guideline"),
        ("https://www.cdc.gov/x", "Practice guidance for nurses", "guideline"),
    ],
)
def test_a_guideline_says_so_and_comes_from_an_institution_or_a_clinic(url, title, review):
    assert Standards().web(url, title, NEUTRAL).review_status == review


@pytest.mark.parametrize("class_", CLASSES)
def test_a_person_vouches_for_an_unknown_domain(class_):
    found = Standards(allowed={"Tips.Example": class_}).web("https://www.tips.example/x", "A page", NEUTRAL)
    assert (found.rule, found.class_) == ("user.allowed", class_)
    assert found.role == ("question" if class_ == "community" else "answer")
    assert found.review_status in {"unknown", "editorial", "self_published"}


def test_a_person_vouches_for_one_author_on_a_host_of_posts_but_not_for_the_host():
    one, all_ = Standards(allowed={"ann.substack.com": "professional"}), Standards(allowed={"substack.com": "professional"})
    assert one.web("https://ann.substack.com/p/1", "A post", NEUTRAL).rule == "user.allowed"
    assert one.web("https://bob.substack.com/p/1", "A post", NEUTRAL).rule == "never.social"
    assert all_.web("https://ann.substack.com/p/1", "A post", NEUTRAL).rule == "never.social"
    assert "substack.com" not in one.blocked()
    assert "substack.com" in Standards().blocked()


def test_denied_wins_over_everything():
    standards = Standards(allowed={"nature.com": "academic"}, denied=["nature.com"])
    csl = {"title": "Rest", "author": AUTHOR, "container-title": "Nature", "URL": "https://www.nature.com/x"}
    found = [
        standards.web("https://www.nature.com/x", "Rest", NEUTRAL),
        standards.paper(csl, types=["JournalArticle"]),
        standards.document(csl),
        standards.thread("https://blogs.nature.com/x"),
    ]
    assert {(verdict.role, verdict.rule) for verdict in found} == {(None, "user.denied")}


@pytest.mark.parametrize(
    "wrong", ["https://example.org", "example.org/path", "example.org:80", "example", "", "a..b", "-a.example", "ex ample.org"]
)
def test_what_is_no_domain_is_refused_with_words(wrong):
    with pytest.raises(Invalid, match="Expected a domain such as"):
        Standards(allowed={wrong: "academic"})
    with pytest.raises(Invalid, match="Expected a domain such as"):
        Standards(denied=[wrong])


def test_a_class_that_is_none_is_refused():
    with pytest.raises(Invalid, match="found 'science'"):
        Standards(allowed={"example.org": "science"})


def test_an_international_domain_is_one_domain_in_both_spellings():
    standards = Standards(allowed={"bücher.example": "professional"})
    for url in ("https://www.bücher.example/x", "https://xn--bcher-kva.example/x"):
        assert standards.web(url, "A page", NEUTRAL).rule == "user.allowed"


@pytest.mark.parametrize(
    ("fields", "types", "rule", "review"),
    [
        ({"container-title": "Burnout Research", "volume": "3"}, ["JournalArticle"], "paper.journal", "peer_reviewed"),
        ({"container-title": "Burnout Research", "issue": 2}, ["JournalArticle"], "paper.journal", "peer_reviewed"),
        ({"container-title": "Burnout Research", "volume": " "}, ["JournalArticle"], "paper.journal", "unknown"),
        ({"container-title": "Burnout Research"}, ["JournalArticle"], "paper.journal", "unknown"),
        ({"container-title": "Burnout Research", "page": "1-9"}, ["Review", "JournalArticle"], "paper.journal", "peer_reviewed"),
        ({"container-title": ["Burnout Research"], "page": "1-9"}, ["journal-article"], "paper.journal", "peer_reviewed"),
        ({"container-title": "The Lancet", "page": "1-9"}, ["ClinicalTrial"], "paper.journal", "peer_reviewed"),
        ({"container-title": "The Lancet", "type": "article-journal", "page": "1-9"}, ["article"], "paper.journal", "peer_reviewed"),
        ({"container-title": "The Lancet", "volume": "3"}, ["article"], "paper.journal", "unknown"),
        ({"container-title": "The Lancet"}, ["JournalArticle", "Editorial"], "paper.journal", "editorial"),
        ({"container-title": "The Lancet"}, [], "paper.journal", "unknown"),
        ({"container-title": "Proc. of CHI"}, ["Conference"], "paper.journal", "unknown"),
        ({"container-title": "ArXiv"}, ["JournalArticle"], "paper.preprint", "preprint"),
        ({"container-title": "bioRxiv"}, ["JournalArticle"], "paper.preprint", "preprint"),
        ({"container-title": "SSRN Electronic Journal"}, ["JournalArticle"], "paper.preprint", "preprint"),
        ({"DOI": "10.48550/arXiv.2403.14720"}, [], "paper.preprint", "preprint"),
        ({"DOI": "10.31234/osf.io/abcde"}, ["JournalArticle"], "paper.preprint", "preprint"),
        ({"DOI": "10.1101/2020.03.22.20040758"}, [], "paper.preprint", "preprint"),
        (
            {"DOI": "10.1101/gr.123456.111", "container-title": "Genome Research", "volume": "9"},
            ["JournalArticle"],
            "paper.journal",
            "peer_reviewed",
        ),
        ({"URL": "https://arxiv.org/abs/1"}, [], "paper.preprint", "preprint"),
        (
            {"URL": "https://arxiv.org/abs/1", "container-title": "Nature", "volume": "9", "DOI": "10.1038/x"},
            ["JournalArticle"],
            "paper.journal",
            "peer_reviewed",
        ),
        ({}, ["preprint"], "paper.preprint", "preprint"),
        ({}, ["JournalArticle"], "paper.named-author", "unknown"),
    ],
)
def test_only_a_paper_with_a_journal_and_its_type_is_peer_reviewed(fields, types, rule, review):
    found = Standards().paper({"title": "Rest", "author": AUTHOR, **fields}, types=types)
    assert (found.role, found.class_, found.rule, found.review_status) == ("answer", "academic", rule, review)


_PLACED = {"volume": "3", "page": "1-9", "type": "article-journal"}


@pytest.mark.parametrize(
    "journal",
    ["Zenodo", "figshare", "PsycEXTRA Dataset", "Forbes", "PubMed", "DOAJ", "University of Rest Institutional Repository", "Qeios", "HAL", "eScholarship, University of X",
     "Conference on Rest", "Proceedings of the 3rd Workshop on Rest", "IZA Discussion Papers"],
)  # fmt: skip
def test_a_repository_or_an_index_is_no_reviewed_journal(journal):
    found = Standards().paper({"title": "Rest", "author": AUTHOR, "container-title": journal, **_PLACED}, types=["JournalArticle"])
    assert (found.role, found.review_status) == ("answer", "unknown")


@pytest.mark.parametrize(
    "journal", ["Proceedings of the National Academy of Sciences", "IZA Journal of Labor Economics", "PLOS ONE", "Halifax Medical Journal"]
)
def test_a_journal_whose_name_only_sounds_like_one_is_reviewed(journal):
    found = Standards().paper({"title": "Rest", "author": AUTHOR, "container-title": journal, **_PLACED}, types=["JournalArticle"])
    assert found.review_status == "peer_reviewed"


@pytest.mark.parametrize(
    ("types", "review"),
    [
        (["JournalArticle", "Book"], "unknown"),
        (["JournalArticle", "Conference"], "unknown"),
        (["JournalArticle", "Dataset"], "unknown"),
        (["JournalArticle", "CaseReport"], "unknown"),
        (["SubmittedVersion"], "unknown"),
        (["JournalArticle", "LettersAndComments"], "editorial"),
        (["JournalArticle", "MetaAnalysis"], "peer_reviewed"),
    ],
)
def test_another_type_beside_the_journals_takes_the_review_away(types, review):
    csl = {"title": "Rest", "author": AUTHOR, "container-title": "The Lancet", **_PLACED}
    assert Standards().paper(csl, types=types).review_status == review


@pytest.mark.parametrize("doi", ["10.5281/zenodo.1", "10.6084/m9.figshare.1", "10.32388/AB", "10.1037/e123"])
def test_a_repositorys_doi_is_no_journals(doi):
    csl = {"title": "Rest", "author": AUTHOR, "container-title": "Rest Letters", "DOI": doi, **_PLACED}
    assert Standards().paper(csl, types=["JournalArticle"]).review_status == "unknown"


@pytest.mark.parametrize(
    ("title", "review"),
    [
        ("Book review: Rest by Ann Lee", "unknown"),
        ("Expression of Concern: Rest and sleep", "unknown"),
        ("Correction to: Rest and sleep", "unknown"),
        ("Erratum: Rest", "unknown"),
        ("Corrections officers and burnout", "peer_reviewed"),
        ("Book reviews and sleep habits: a survey", "peer_reviewed"),
        ("Response to intervention in schools", "peer_reviewed"),
    ],
)
def test_a_title_that_is_no_research_is_not_called_reviewed(title, review):
    csl = {"title": title, "author": AUTHOR, "container-title": "The Lancet", **_PLACED}
    assert Standards().paper(csl, types=["JournalArticle"]).review_status == review


def test_an_abstract_or_a_document_that_a_model_wrote_is_refused():
    text = "Rest helps. This abstract was generated by ChatGPT."
    csl = {"title": "Rest", "author": AUTHOR, "container-title": "The Lancet", **_PLACED}
    for found in (Standards().paper(csl, types=["JournalArticle"], text=text), Standards().document(csl, text)):
        assert (found.role, found.rule) == (None, "never.ai-generated")


@pytest.mark.parametrize(
    "csl", [{}, {"title": "Rest"}, {"title": "Rest", "author": [{"family": " "}]}, {"title": 3, "author": "x", "DOI": None}]
)
def test_a_paper_that_nobody_signs_is_refused(csl):
    found = Standards().paper(csl, types=["JournalArticle"])
    assert (found.role, found.rule) == (None, "never.no-author")


@pytest.mark.parametrize(
    ("csl", "rule", "role", "class_"),
    [
        ({"title": "Rest", "author": AUTHOR}, "document.cited", "answer", "unclassified"),
        ({"title": "Rest", "publisher": "WHO"}, "document.cited", "answer", "unclassified"),
        ({"title": "Rest", "publisher": "WHO", "URL": "https://www.who.int/x"}, "document.cited", "answer", "institutional"),
        ({"title": "Rest", "author": AUTHOR, "type": "article-journal", "container-title": "J"}, "document.cited", "answer", "academic"),
        ({"title": "Rest"}, "document.no-citation", None, "unclassified"),
        ({"author": AUTHOR}, "document.no-citation", None, "unclassified"),
        ({}, "document.no-citation", None, "unclassified"),
        ({"title": "Rest", "author": [{"literal": "ChatGPT"}]}, "never.ai-generated", None, "unclassified"),
    ],
)
def test_a_document_needs_somebody_who_answers_for_it_and_is_never_called_reviewed(csl, rule, role, class_):
    found = Standards().document(csl)
    assert (found.rule, found.role, found.class_) == (rule, role, class_)
    assert found.review_status == "unknown"


@pytest.mark.parametrize("url", ["https://www.reddit.com/r/x/1", "", "https://forum.example/1"])
def test_a_thread_may_only_shape_a_question(url):
    found = Standards().thread(url)
    assert (found.role, found.class_, found.review_status, found.rule) == ("question", "community", "self_published", "forum.question-only")


def test_a_search_leaves_out_the_denied_first_and_at_most_fifty():
    found = Standards(denied=["bad.example", "reddit.com"]).blocked()
    assert found[:3] == ("bad.example", "reddit.com", "redd.it")
    assert len(found) == len(set(found)) == 50
    assert {"facebook.com", "chatgpt.com"} <= set(Standards().blocked(100))


def test_the_lists_use_the_catalogues_words_and_name_no_domain_twice():
    rows = json.loads(Path(pipeline.standards.__file__).with_name("standards.json").read_text())["rules"]
    assert {(row["class"] in CLASSES, row["review"] in REVIEW_STATUSES, row["role"] in {None, *ROLES}) for row in rows} == {
        (True, True, True)
    }
    domains = [domain for row in rows for domain in row["domains"]]
    assert sorted({domain for domain in domains if domains.count(domain) > 1}) == []
    assert [domain for domain in domains if domain != domain.lower() or domain.startswith(".") or "://" in domain] == []


@pytest.mark.parametrize("unit", [". ", "| ", "by ai ", "this article was written by ", "we used chatgpt to ", "generated "])
def test_no_text_makes_the_words_of_machines_slow(unit):
    """Linear work only: these took minutes with an unbounded run of marks in a pattern."""
    says_machine_wrote_it(unit * (100_000 // len(unit)))


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_text_makes_it_fail(url, text):
    for address in (url, "https://" + url):
        assert Standards().web(address, text, text).rule
        assert Standards().thread(address).rule
    assert Standards().document({"URL": url, "title": text, "author": [{"literal": text}]}).rule

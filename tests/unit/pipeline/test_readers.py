"""The readers, on files made by hand: what is read, what is left out, and a sentence for every file that is broken or made to harm.

Parsing is tested in this process; the child, its limits and the parent's sentences by a few real children, because each costs a fifth of a second.
"""

import itertools
import zipfile
import zlib
from io import BytesIO

import pytest
from fakes import injections as make
from hypothesis import given
from hypothesis import strategies as st

from pipeline import safety
from pipeline.readers import FORMATS, KNOWN, Limits, Unreadable, passages, read_document
from pipeline.readers.__main__ import parse

ROOM = 1_000_000


def read(kind, data, characters=ROOM):
    return parse(kind, data, characters)


def fails(kind, data):
    answer = read(kind, data)
    assert "text" not in answer, answer
    return answer["error"], answer["message"]


# ------------------------------------------------------------------------------------------------------------------------- in the child


def test_pdf_text_title_and_pages():
    answer = read("pdf", make.pdf(["First page about rest.\nSecond line (with brackets).", "Second page about sleep."], title="On rest"))
    assert answer["text"] == "First page about rest.\nSecond line (with brackets).\n\nSecond page about sleep."
    assert (answer["title"], answer["pages"], answer["extent"], answer["notes"]) == ("On rest", 2, "full_text", [])


def encrypted(password):
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(BytesIO(make.pdf(["A page about rest and sleep."]))))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
    out = BytesIO()
    writer.write(out)
    return out.getvalue()


def test_a_pdf_that_only_its_owner_may_change_is_read_and_one_with_a_password_is_not():
    assert read("pdf", encrypted(""))["text"] == "A page about rest and sleep."
    assert fails("pdf", encrypted("secret")) == ("encrypted", "the PDF is encrypted and asks for a password.")


def test_a_scanned_pdf_asks_for_text_recognition():
    answer = read("pdf", make.pdf_of_streams([b"0 0 100 100 re f", b""]))
    assert (answer["error"], answer["message"]) == ("no_text", "the PDF holds no text (2 pages of pictures or nothing).")
    assert "ocrmypdf" in answer["hint"]


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\ngarbage",
        make.pdf(["text that is long enough"])[:300],
        b"%PDF-1.4\n" + b"\xff" * 5000,
        make.pdf(["x" * 50]).replace(b"/Pages", b"/Pagez"),
    ],
)
def test_a_damaged_pdf_ends_in_a_sentence(data):
    reason, message = fails("pdf", data)
    assert reason in {"broken", "no_text", "empty"}
    assert message.endswith(".")


def test_a_pdf_that_inflates_without_end_is_refused():
    bomb = zlib.compress(zlib.compress(bytes(80_000_000), 1), 9)
    assert len(bomb) < 50_000
    data = make.pdf_of_streams([bomb], filters="/Filter [/FlateDecode /FlateDecode]")
    assert fails("pdf", data)[0] in {"too_large", "broken"}


def test_html_keeps_what_a_reader_sees():
    body = """<nav>Menu</nav><header>Masthead</header><main><h1>On rest</h1><p>Rest is
      work.<br>Sleep too.</p><script>var x = 1</script><ul><li>One</li><li>Two</li></ul><table><tr><td>a</td><td>b</td></tr></table>
      <p>Fish &amp; chips &lt;b&gt;</p></main><aside>Ads</aside><footer>Imprint</footer>"""
    answer = read("html", make.html(body, title="Rest &amp; work"))
    assert answer["text"] == "On rest\n\nRest is work.\nSleep too.\n\nOne\n\nTwo\n\na b\n\nFish & chips <b>"
    assert (answer["title"], answer["hidden"], answer["notes"]) == ("Rest & work", "", [])


@pytest.mark.parametrize(
    "hidden",
    [
        '<p style="display: none">SECRET</p>',
        "<p style='visibility:hidden'>SECRET</p>",
        '<p style="font-size:0px">SECRET</p>',
        '<p style="opacity:0">SECRET</p>',
        '<p style="position:absolute;left:-9999px">SECRET</p>',
        "<p hidden>SECRET</p>",
        '<p aria-hidden="true">SECRET</p>',
        '<style>.q, #z {display:none}</style><p class="a q">SECRET</p>',
        "<style>p#z{visibility:hidden}</style><p id=z>SECRET</p>",
        '<p class="sr-only">SECRET</p>',
        "<!-- SECRET -->",
        '<div style="display:none"><div><p>SECRET</p></div></div>',
    ],
)
def test_hidden_text_is_left_out_noted_and_kept_for_the_search(hidden):
    answer = read("html", make.html(f"<p>Seen words.</p>{hidden}<p>More.</p>"))
    assert answer["text"] == "Seen words.\n\nMore."
    assert "SECRET" in answer["hidden"]
    assert answer["notes"] == ["Hidden text left out (6 characters that a reader of the page does not see)."]


@pytest.mark.parametrize("style", ["opacity:0.9", "font-size:0.9em", "display:block", "height:0.5em", "left:-10px", "color:#000"])
def test_visible_styles_stay(style):
    assert read("html", make.html(f'<p style="{style}">Seen.</p>'))["text"] == "Seen."


def test_a_page_that_is_never_closed_or_nested_deeply_is_read_or_refused():
    assert read("html", b"<p>Open <b>bold <i>words")["text"] == "Open bold words"
    answer = read("html", b"<div>" * 3_000 + b"deep")
    assert answer.get("text") == "deep" or answer["error"] == "broken"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ('<meta charset="iso-8859-15"><p>caf\xe9 \xa4</p>'.encode("latin-1"), "café €"),
        ("<p>café</p>".encode("utf-8-sig"), "café"),
        ("<p>café</p>".encode("utf-16"), "café"),
        ("<p>café “x”</p>".encode("cp1252"), "café “x”"),
    ],
)
def test_encodings_of_html(data, text):
    assert read("html", data)["text"] == text


def test_markdown():
    answer = read(
        "markdown",
        b'---\ntitle: "On rest"\ntags: [x]\n---\n# Rest\n\nSee [the study](https://a.example/x_(y)) and ![a graph](g.png) or <https://b.example>.\n'
        b"[id]: https://c.example\nUse [that][id].\n\n```python\nprint('[x](y)') # <b>\n```\n<b>Bold</b> &c.\n<!-- SECRET -->\n[//]: # (HUSH)\n",
    )
    assert answer["title"] == "On rest"
    assert answer["text"] == "# Rest\n\nSee the study and a graph or .\n\nUse that.\n\n```python\nprint('[x](y)') # <b>\n```\nBold &c."
    assert "SECRET" in answer["hidden"]
    assert "HUSH" in answer["hidden"]
    assert read("markdown", b"# First\n\ntext")["title"] == "First"
    assert read("markdown", "# Größe\n".encode("utf-16"))["text"] == "# Größe"


def test_text_that_is_not_utf_8_names_the_byte():
    assert fails("markdown", b"abc \xe9 def") == ("encoding", "expected UTF-8 text; found byte 0xe9 at position 4.")
    assert fails("markdown", b"abc \x00 def")[0] == "wrong_content"


def test_captions_become_running_text():
    data = b"""WEBVTT Kind: captions

NOTE made by hand

STYLE
::cue { color: red }

intro-1
00:00:01.000 --> 00:00:03.000 align:start position:0%
<v Ann>Rest is <c.yellow>part</c> of work.

2
00:00:03.000 --> 00:00:05.000
<v Ann>It &amp; sleep.

00:00:05.000 --> 00:00:07.000
<v Ben>How <00:00:05.500><c>long</c>?

00:01:05.000 --> 00:01:07.000
<v Ben>Four weeks.
"""
    answer = read("captions", data)
    assert answer["text"] == "Ann: Rest is part of work. It & sleep.\n\nBen: How long?\n\nFour weeks."
    assert answer["hidden"] == "made by hand"


def test_rolling_captions_are_merged_and_srt_is_read():
    data = (
        "1\r\n00:00:01,000 --> 00:00:02,000\r\n{\\an8}so today\r\n\r\n2\r\n00:00:02,000 --> 00:00:03,000\r\nso today\r\nwe rest\r\n\r\n"
        "3\r\n00:00:03,000 --> 00:00:04,000\r\nwe rest\r\nand sleep\r\n4\r\n00:00:04,000 --> 00:00:05,000\r\nand sleep well\r\n"
    )
    assert read("captions", data.encode())["text"] == "so today we rest and sleep well"
    assert fails("captions", b"just words")[0] == "wrong_content"


def test_epub_follows_its_spine():
    data = make.epub([("b.xhtml", "<p>Second.</p>"), ("a b.xhtml", "<p>First.</p><p hidden>SECRET</p>")], title="On rest", order=[1, 0, 1])
    answer = read("epub", data)
    assert (answer["text"], answer["title"], answer["pages"]) == ("First.\n\nSecond.", "On rest", 2)
    assert answer["hidden"] == "SECRET"


LAUGHS = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><container>&b;</container>'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (make.epub([("a.xhtml", "<p>x</p>")], extra=[("META-INF/container.xml", LAUGHS)]), "broken"),
        (make.epub([("a.xhtml", "<p>x</p>")], extra=[("OEBPS/a.xhtml", LAUGHS)]), "broken"),
        (make.epub([("a.xhtml", "<p>x</p>")], extra=[("OEBPS/a.xhtml", b"<p>" + b"\0" * 3_000_000)]), "too_large"),
        (make.epub([("a.xhtml", "<p>x</p>")], extra=[(f"f{i}", b"") for i in range(5001)]), "too_large"),
        (make.epub([]), "broken"),
        (make.epub([("a.xhtml", "<p></p>")]), "no_text"),
        (make.epub([("../../etc/passwd.xhtml", "<p></p>")], order=[0]), "no_text"),
        (make.epub([("a.xhtml", "<p>x</p>")])[:200], "broken"),
        (
            make.epub(
                [("a.xhtml", "<p>x</p>")],
                extra=[("META-INF/encryption.xml", b'<e><enc:CipherReference URI="OEBPS/a.xhtml"/></e>')],
            ),
            "encrypted",
        ),
    ],
)
def test_an_epub_that_is_broken_or_a_bomb_ends_in_a_sentence(data, reason):
    assert fails("epub", data)[0] == reason


def test_what_an_epub_unpacks_is_counted_and_not_believed(monkeypatch):
    from pipeline.readers import epub

    monkeypatch.setattr(epub, "MAX_UNPACKED", 50_000)
    chapters = [(f"{i}.xhtml", f"<p>{i} " + "word and more " * 1500 + "</p>") for i in range(4)]
    assert fails("epub", make.epub(chapters)) == ("too_large", "the EPUB unpacks to more than 0 MB.")


def test_a_zip_without_a_book_is_no_epub():
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    assert fails("epub", out.getvalue())[0] == "wrong_content"


def test_a_long_text_is_cut_and_says_so():
    answer = read("markdown", b"word " * 100, characters=50)
    assert (len(answer["text"]), answer["extent"]) == (50, "excerpt")
    assert answer["notes"] == ["Only the first 50 characters were read."]


@pytest.mark.parametrize("planted", make.PLANTED, ids=lambda planted: planted.id)
def test_every_planted_instruction_is_still_there_to_be_found(planted):
    name, data = make.document(planted)
    answer = read(FORMATS[name[name.rindex(".") :]], data)
    assert planted.rule in safety.scan("\n\n".join([answer["title"] or "", answer["text"], answer["hidden"]]))


@given(st.binary(max_size=300))
def test_any_bytes_end_in_text_or_a_sentence(data):
    for kind in ("html", "markdown", "captions", "epub"):
        answer = read(kind, data)
        assert "text" in answer or answer["message"].endswith(".")


# ------------------------------------------------------------------------------------------------------------------- parent and children


def test_a_file_is_read_by_a_child(tmp_path):
    path = tmp_path / "Übung.HTML"
    path.write_bytes(make.html("<p>Seen.</p><p hidden>SECRET</p>"))
    document = read_document(path)
    assert (document.text, document.extent, document.title, document.pages, document.hidden) == (
        "Seen.",
        "full_text",
        "A page",
        None,
        "SECRET",
    )
    assert len(document.notes) == 1


@pytest.mark.parametrize(
    ("name", "data", "reason", "words"),
    [
        ("a.docx", b"PK\x03\x04", "unknown_format", f"a.docx: expected one of {KNOWN}; found '.docx'."),
        ("a.pdf", b"", "empty", "a.pdf: the file is empty."),
        ("a.md", b" \n ", "empty", "a.md: the file is empty."),
        ("a.pdf", b"<html>log in</html>", "wrong_content", "a.pdf: expected a PDF; its first bytes are not a PDF's."),
        ("a.html", b"%PDF-1.4 ...", "wrong_content", "a.html: expected an HTML page; found a PDF."),
        ("a.epub", b"%PDF-1.4 ...", "wrong_content", "a.epub: expected an EPUB; found a PDF."),
        ("a.pdf", b"\x89PNG....", "wrong_content", "a.pdf: expected a PDF; found a PNG picture."),
        ("a.md", b"x" * 2001, "too_large", "a.md: expected at most 0.00190735 MB; the file is larger."),
        ("gone.md", None, "missing", "gone.md: there is no such file."),
    ],
)
def test_a_file_that_needs_no_child_to_be_refused(tmp_path, name, data, reason, words):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        read_document(path, limits=Limits(file_bytes=2000))
    assert (caught.value.reason, caught.value.message) == (reason, words)
    assert caught.value.hint


def test_a_folder_is_no_document(tmp_path):
    (tmp_path / "a.pdf").mkdir()
    with pytest.raises(Unreadable) as caught:
        read_document(tmp_path / "a.pdf")
    assert caught.value.reason == "missing"


@pytest.mark.parametrize(
    ("name", "data", "limits", "reason"),
    [
        ("big.md", b"a word\n" * 3_000_000, Limits(memory_bytes=48 * 1024 * 1024), "memory"),
        ("big.html", b"<p><b>x</b>" * 300_000, Limits(cpu_s=1), "too_slow"),  # 600,000 elements: some 15 s
        ("big.html", b"<p>x", Limits(wall_s=0.01), "too_slow"),
    ],
)
def test_a_document_that_wants_too_much_ends_in_a_sentence(tmp_path, name, data, limits, reason):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        read_document(path, limits=limits)
    assert caught.value.reason == reason
    assert caught.value.message.startswith(f"{name}: ")


def test_the_childs_fault_carries_the_files_name(tmp_path):
    path = tmp_path / "scan.pdf"
    path.write_bytes(make.pdf_of_streams([b""]))
    with pytest.raises(Unreadable, match=r"^scan\.pdf: the PDF holds no text \(1 pages"):
        read_document(path)


def test_the_child_sees_no_secret_and_no_folder(tmp_path, monkeypatch):
    """The environment is empty but for the locale, so a parser that is taken over finds no key."""
    import subprocess

    seen = {}

    def run(command, **kwargs):
        seen.update(kwargs, command=command)
        return subprocess.CompletedProcess(command, 0, b'{"text": "x", "extent": "full_text"}')

    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setattr("pipeline.readers.subprocess.run", run)
    path = tmp_path / "a.md"
    path.write_text("x", encoding="utf-8")
    assert read_document(path).text == "x"
    assert seen["env"] == {"LC_ALL": "C.UTF-8"}
    assert str(tmp_path) not in " ".join(seen["command"])
    assert seen["command"][1] == "-I"


# ------------------------------------------------------------------------------------------------------------------------------ passages

WORDS = st.lists(
    st.sampled_from(["rest", "sleep.", "Why?", "a", "\n\n", "\n", "longlonglonglonglonglonglong", "日本。", " "]), max_size=80
).map(" ".join)


@given(WORDS, st.integers(1, 60))
def test_passages_fit_and_hold_every_word_in_order(text, size):
    pieces = passages(text, size=size, limit=10_000)
    assert all(0 < len(piece) <= size and piece == piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_passages_end_where_paragraphs_and_sentences_end():
    text = "One two. Three four.\n\nFive six. Seven eight nine."
    assert passages(text, size=22) == ("One two. Three four.", "Five six.", "Seven eight nine.")
    assert passages(text, size=500) == (text,)
    assert passages("") == ()


@given(st.integers(1, 30), st.integers(1, 200))
def test_too_many_passages_are_chosen_evenly(limit, count):
    text = "\n\n".join(f"p{i:03d}" for i in range(count))
    chosen = [int(piece[1:]) for piece in passages(text, size=4, limit=limit)]
    assert len(chosen) == min(limit, count)
    assert chosen == sorted(set(chosen))
    if 1 < limit < count:
        gaps = {b - a for a, b in itertools.pairwise(chosen)}
        assert (chosen[0], chosen[-1]) == (0, count - 1)
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(("size", "limit"), [(0, 1), (1, 0), (-5, 40)])
def test_passages_need_a_size_and_a_limit(size, limit):
    with pytest.raises(ValueError, match="at least 1"):
        passages("x", size=size, limit=limit)

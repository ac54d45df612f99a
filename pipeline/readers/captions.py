"""Captions in WebVTT or SubRip: what was said, by whom, as running text. Runs in the child; standard library only.

Timestamps, cue ids, positions, styles and tags go; a speaker's name stays ('Name: ...'). Rolling captions, which repeat the line before, are merged.
"""

import html
import re

from pipeline.readers.parsed import Broken, Parsed, decode, tidy

_TIME = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_CUE = re.compile(rf"^\s*{_TIME}\s*-->\s*{_TIME}.*$")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]{1,200})>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z0-9.:][^<>]{0,200}>|\{\\[^{}]{0,100}\}", re.IGNORECASE)
_SPEAKER = re.compile(r"^(?:[A-Z][\w.'-]*(?: [A-Z][\w.'-]*){0,3}:|>>|- )\s*")
PAUSE = 4.0  # seconds of silence that begin a new paragraph
PARAGRAPH = 700  # characters after which a sentence's end closes a paragraph


def parse(data: bytes, characters: int) -> Parsed:  # noqa: ARG001 - every parser has the same form
    """The running text. Raises Broken for a file without a single cue."""
    text = decode(data)
    cues: list[tuple[float, float, list[str]]] = []
    notes: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text):
        _take(block, cues, notes)
    if not cues:
        raise Broken(
            "wrong_content",
            "expected captions (VTT or SRT) with lines such as 00:00:01.000 --> 00:00:04.000; found none.",
            "Export the captions again.",
        )
    hidden = tidy("\n".join(notes))
    return Parsed(_running(cues), hidden=hidden)


def _take(block: str, cues: list[tuple[float, float, list[str]]], notes: list[str]) -> None:
    """Read one block: a cue, several cues without an empty line between them, or a note."""
    lines = block.strip("\n").split("\n")
    times = [number for number, line in enumerate(lines) if _CUE.match(line)]
    if not times:
        if not lines[0].lstrip("\ufeff").startswith(("WEBVTT", "STYLE", "REGION")):
            notes.append(block.removeprefix("NOTE").strip() if not block.strip().isdigit() else "")
        return
    for position, number in enumerate(times):
        match = _CUE.match(lines[number])
        end = times[position + 1] if position + 1 < len(times) else len(lines)
        # Where the next cue follows at once, its number stands on the line above its times.
        said = lines[number + 1 : end - 1 if end < len(lines) and lines[end - 1].strip().isdigit() else end]
        if match:
            cues.append((_seconds(match.groups()[:4]), _seconds(match.groups()[4:]), [_plain(line) for line in said if _plain(line)]))


def _seconds(parts: tuple[str | None, ...]) -> float:
    hours, minutes, seconds, fraction = (int(part or 0) for part in parts)
    return hours * 3600 + minutes * 60 + seconds + fraction / 1000


def _plain(line: str) -> str:
    line = _VOICE.sub(lambda match: f"{match.group(1).strip()}: ", line)
    return " ".join(html.unescape(_TAG.sub("", line)).split())


def _running(cues: list[tuple[float, float, list[str]]]) -> str:
    paragraphs: list[list[str]] = [[]]
    last_end, recent, speaker = 0.0, [""], ""
    for start, end, lines in cues:
        fresh = _fresh(lines, recent)
        recent = lines or recent
        for line in fresh:
            match = _SPEAKER.match(line)
            if match and match.group() == speaker and match.group() not in (">> ", ">>", "- "):
                line = line[match.end() :]  # noqa: PLW2901 - the same speaker goes on
                match = None
            elif match:
                speaker = match.group()
            so_far = " ".join(paragraphs[-1])
            if paragraphs[-1] and (match or start - last_end >= PAUSE or (len(so_far) > PARAGRAPH and so_far.endswith((".", "!", "?")))):
                paragraphs.append([])
            paragraphs[-1].append(line)
            last_end = end
        last_end = max(last_end, end)
    return tidy("\n\n".join(" ".join(paragraph) for paragraph in paragraphs if paragraph))


def _fresh(lines: list[str], before: list[str]) -> list[str]:
    """The lines of a cue that the cue before did not already show; a line that grows keeps only what was added."""
    fresh = []
    for line in lines:
        if line in before:
            continue
        grown = next((old for old in before if old and line.startswith(old + " ")), None)
        fresh.append(line[len(grown) + 1 :] if grown else line)
    return fresh

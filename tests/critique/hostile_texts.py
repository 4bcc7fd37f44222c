"""Texts as real databases contain them, with the outcome that each must have.

Builders are composed: critiques in several languages, in every form that is read, in envelopes of
other text, with defects; and texts that are not critiques.
"""

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mondrian.critique.schema import DIMENSIONS, Critique, Dimension, serialize_critique

SCORES = (6.5, 7, 8, 5, 9, 4.5, 7.5)
EXAMPLE = "What you see in the photograph."


@dataclass(frozen=True)
class HostileText:
    """A stored text; `reason` is empty if it must give `critique`."""

    name: str
    text: str
    reason: str = ""
    critique: Critique | None = None
    derived: bool = False  # strengths, priorities and notes are not in the text
    prompts: tuple[str, ...] = ()


def _critique(description: str, comment: str, advice: str, note: str) -> Critique:
    dimensions = tuple(
        Dimension(
            name=name,
            score=score,
            comment=comment.format(name=name, number=number),
            recommendation=advice.format(name=name, number=number),
        )
        for number, (name, score) in enumerate(zip(DIMENSIONS, SCORES, strict=True), 1)
    )
    return Critique(
        image_description=description,
        dimensions=dimensions,
        overall_score=6.8,
        key_strengths=(f"{note} (1)", f"{note} (2)"),
        priority_improvements=(f"{note} (3)",),
        technical_notes=f"{note}.",
    )


CRITIQUES = {
    "english": _critique(
        "A quiet lake, seen at dawn from its stony shore; two boats lie in front.",
        "In {name} the picture holds {number} ideas together, and its eye never wanders.",
        "For {name}, walk {number} steps to the left and wait until the wind is gone.",
        "Clean tones",
    ),
    "german": _critique(
        "Ein stiller See im Morgenlicht, davor zwei Boote auf grobem Kies – schön gesehen.",
        "Bei {name} trägt das Bild {number} Gedanken; das Auge findet überall Halt.",
        "Für {name}: {number} Schritte zurück, und auf ruhigere Wolken warten.",
        "Saubere Töne, kräftiges Grün",
    ),
    "french": _critique(
        "Un lac calme à l’aube, « deux barques » au premier plan ; l’eau est très claire.",
        "{name} : l’image réunit {number} idées, et l’œil n’hésite nulle part…",
        "Pour {name}, avancez de {number} pas et attendez la lumière d’été.",
        "Tons très nets",
    ),
    "quoted": _critique(
        'A sign reads "No \\ entry" {at dawn} <left of the gate> & nobody [is] there.',
        'On {name}: the "{number} corners" rule isn\'t kept, 9/10 would. See C:\\photos.',
        "As for {name}, show {number}% more of the sky: it's worth it.",
        "Tones: fine; edges",
    ),
}
_FOREIGN = {
    "chinese": "这张照片的构图非常稳定，光线柔和，色彩自然，前景很清楚",
    "russian": "Композиция снимка спокойная, свет мягкий, цвета природные",
    "japanese": "構図はとても安定していて、光は柔らかく、色は自然です",
    "korean": "구도는 매우 안정적이고 빛은 부드러우며 색은 자연스럽습니다",
    "arabic": "تكوين الصورة ثابت جدا والضوء ناعم والألوان طبيعية",
    "greek": "Η σύνθεση είναι ήρεμη και το φως απαλό στα χρώματα",
}

# Around JSON: the critique is read all the same.
ENVELOPES: dict[str, Callable[[str], str]] = {
    "raw": lambda t: t,
    "fence": lambda t: f"```json\n{t}\n```",
    "bare_fence": lambda t: f"Here it is:\n```\n{t}\n```\nEnjoy!",
    "headings": lambda t: f"# Ansel\n\n## Full Analysis\n\n{t}\n",
    "prose_before": lambda t: f"Okay, let me look {{closely}} at {{it}}.\n\n{t}",
    "prose_after": lambda t: f"{t}\n\nI hope that these dimensions help you.",
    "think_before": lambda t: f'<think>Okay. {{"score": 3}} or so? "Hm."</think>\n{t}',
    "thinking_before": lambda t: f"<thinking>\nWide.\n</thinking>\n```json\n{t}\n```",
    "prefilled_thought": lambda t: f"The user wants a critique.\n</think>\n\n{t}",
    "think_after": lambda t: f"{t}\n<think>Did I name all dimensions?</think>",
    "open_think": lambda t: f"<think>\nThe light first, then the rest.\n\n{t}",
    "empty_think": lambda t: f"<think>\n\n</think>\n\n{t}",
    "mistral_think": lambda t: f"[THINK]So, a lake.[/THINK]{t}",
    "tool_call": lambda t: f"<tool_call>\n{t}\n</tool_call>",
    "tool_arguments": lambda t: f'<tool_call>{{"name": "save", "arguments": {t}}}</tool_call>',
    "in_list": lambda t: f"[{t}]",
    "in_object": lambda t: f'{{"model": "m", "critique": {t}}}',
    "as_text": lambda t: json.dumps({"model": "m", "response": t}),
    "as_text_twice": lambda t: json.dumps({"a": json.dumps({"response": f"```json\n{t}\n```"})}),
    "extra_brace": lambda t: t + "\n}",
    "byte_order_mark": lambda t: f"\ufeff{t}",
    "unreadable_prose": lambda t: f"Caf\ufffd du lac\n{t}\nMerci \ufffd",
    "draft_before": lambda t: f'Draft: {{"dimensions": [{{"name": "x"}}]}} No.\n{t}',
    "escaped_page": lambda t: f"<html><pre>{html.escape(t)}</pre></html>",
    "script_page": lambda t: f"<script>var a = {{'b': 1}};</script><pre>\n{html.escape(t)}</pre>",
}


def _raw(critique: Critique) -> str:
    return serialize_critique(critique)


def _value(critique: Critique) -> dict[str, object]:
    return dict(json.loads(serialize_critique(critique)))


def _by_name(critique: Critique) -> str:
    value = json.loads(_raw(critique))
    value["dimensional_analysis"] = {d.pop("name"): d for d in value.pop("dimensions")}
    value["overall_grade"] = value.pop("overall_score")
    return json.dumps(value)


def _short_keys(critique: Critique) -> str:
    value = json.loads(_raw(critique))
    for key, other in (
        ("key_strengths", "strengths"),
        ("priority_improvements", "improvements"),
        ("technical_notes", "notes"),
    ):
        value[other] = value.pop(key)
    return json.dumps(value)


def _odd_keys(critique: Critique) -> str:
    value = json.loads(_raw(critique))
    value["dimensions"] = [{k.title(): v for k, v in d.items()} for d in value["dimensions"]]
    for dimension in value["dimensions"]:
        dimension["name"] = dimension.pop("Name")
    value["Overall Score"] = f"{value.pop('overall_score')}/10"
    value["technicalNotes"] = value.pop("technical_notes")
    return json.dumps(value, indent=1)


JSON_FORMS: dict[str, Callable[[Critique], str]] = {
    "canonical": _raw,
    "indented": lambda c: json.dumps(_value(c), indent=2, ensure_ascii=False),
    "escaped": lambda c: json.dumps(_value(c)),
    "windows": lambda c: json.dumps(_value(c), indent=2).replace("\n", "\r\n"),
    "by_name": _by_name,
    "short_keys": _short_keys,
    "odd_keys": _odd_keys,
    "reversed": lambda c: json.dumps(dict(reversed(_value(c).items()))),
    "mojibake": lambda c: json.dumps(_value(c), ensure_ascii=False).encode().decode("latin-1"),
}

# One card of each kind of page: {n} name, {s} score, {c} comment, {r} recommendation.
CARDS = {
    "classes": '<div class="feedback-card"><h3>{n} <span>({s}/10)</h3><p class="feedback-comment">'
    '{c}</p><div class="feedback-recommendation"><b>How to Improve:</b> {r}</div></div>',
    "plain_paragraphs": '<div class="feedback-card"><h3>{n} ({s}/10)</h3><p>{c}</p>'
    "<p><strong>Recommendation:</strong> {r}</p></div>",
    "score_words": '<div class="feedback-card"><h3>{n} Score: {s}/10</h3><p>{c}</p>'
    "<p>How to Improve: {r}</p></div>",
    "one_paragraph": '<div class="feedback-card"><h4><b>{n}</b><i>{s} / 10</i></h4><p>{c} '
    "<em>How to Improve:</em> {r}</p></div>",
    "line_break": '<div class="feedback-card"><h3>{n}: {s}/10</h3>{c}<br/>'
    "Recommendation: {r}</div>",
    "list": '<div class="feedback-card"><h3>{n}</h3><ul><li>Score: {s}/10</li><li>{c}</li>'
    "<li>Recommendation: {r}</li></ul></div>",
    "badge": '<div class="feedback-card"><h3>{n}</h3><span class="score">{s}/10</span>'
    '<p class="feedback-comment">{c}</p><p class="feedback-recommendation">{r}</p></div>',
    "titles": '<div class="feedback-card"><h3>{n} — {s}/10</h3><h4>Comment</h4><p>{c}</p>'
    "<h4>How to Improve</h4><p>{r}</p></div>",
    "no_classes": "<h3>{n} ({s}/10)</h3><p>{c}</p><p>Recommendation: {r}</p>",
    "not_closed": '<div class="feedback-card"><h3>{n} <span>({s}/10)<p class="feedback-comment">{c}'
    '<p class="feedback-recommendation">Recommendation: {r}',
    "comments_and_scripts": '<!-- 1/10 --><div class="feedback-card"><script>x = "3/10"</script>'
    "<h3>{n}<style>h3 {{}}</style> ({s}/10)</h3><p>{c}</p><noscript>No</noscript>"
    "<p>Recommendation: {r}</p></div>",
    "label_alone": '<div class="feedback-card"><h3>{n} ({s}/10)</h3><p>{c}</p><p><b>How to Improve'
    "</b></p><ul><li>{r}</li></ul></div>",
    "definitions": '<div class="feedback-card"><dl><dt>{n}</dt><dd>{s}/10</dd><dt>Comment</dt>'
    "<dd>{c}</dd><dt>Recommendation</dt><dd>{r}</dd></dl></div>",
    "upper_case": '<DIV CLASS="feedback-card"><H3>1. {n} - Score: {s}/10</H3><P>{c}</P>'
    "<P>Suggestion: {r}</P></DIV>",
    "score_in_comment": '<div class="feedback-card"><h3>{n}</h3><p>Score: {s}/10. {c}</p>'
    "<p>Recommendation: {r}</p></div>",
    "spans": '<div class="feedback-card"><div><span class="n">{n}</span><span>{s}/10</span></div>'
    '<div class="feedback-comment">{c}</div><div class="feedback-recommendation">{r}</div></div>',
    "table": '<div class="feedback-card"><table><tr><td>{n}</td><td>{s}/10</td></tr><tr><td>{c}'
    "</td></tr><tr><td>Recommendation: {r}</td></tr></table></div>",
}
OVERALL = (
    '<p class="overall-grade">Overall Grade: {}/10</p>',
    "<h2>Overall Grade</h2><p><strong>{}/10</strong></p>",
    '<div class="overall-grade-box"><h2>Overall Grade</h2><p>{} / 10</p></div>',
    "<h2>Overall Grade: {}/10</h2><p>Well done.</p>",
    "<p><b>Overall Score:</b> {}/10</p>",
)


def render_page(critique: Critique, card: str, overall: str, advisor: str = "ansel") -> str:
    """Return a page of cards; block tags stand without space between them."""
    cards = "".join(
        card.format(
            n=html.escape(d.name),
            s=f"{d.score:g}",
            c=html.escape(d.comment),
            r=html.escape(d.recommendation),
        )
        for d in critique.dimensions
    )
    description = html.escape(critique.image_description)
    return (
        f'<div class="advisor-section" data-advisor="{advisor}"><div class="analysis">'
        f"<h2>Image Analysis</h2><p>{description}</p>{cards}</div>"
        f"{overall.format(f'{critique.overall_score:g}')}</div>"
    )


def _replace(old: str, new: str, count: int = 1) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, count)


def _set_comment(comment: object) -> Callable[[str], str]:
    def change(text: str) -> str:
        value = json.loads(text)
        value["dimensions"][3]["comment"] = comment
        return json.dumps(value, ensure_ascii=False)

    return change


def _set(key: str, stored: object) -> Callable[[str], str]:
    return lambda text: json.dumps({**json.loads(text), key: stored}, ensure_ascii=False)


def _cut(share: int) -> Callable[[str], str]:
    return lambda text: text[: len(text) * share // 100]


def _drop_dimension(text: str) -> str:
    value = json.loads(text)
    del value["dimensions"][5]
    return json.dumps(value)


_NOUNS = "lake boat cloud stone wind reed shore light bird mist pier rope sail oar net".split()
_UNIT = ", ".join(f"the {noun} near the {other}" for noun in _NOUNS[:9] for other in _NOUNS[9:])
_PLACEHOLDERS = (
    "TBD",
    "string",
    "N/A",
    "...",
    "…",
    "<comment here>",
    "[your comment]",
    "Lorem ipsum dolor sit amet.",
    "TODO",
    "comment",
    "Color Harmony",
    "Your detailed comment here",
    "Specific feedback here",
    "Brief comment on color harmony.",
)
DEFECTS: dict[str, tuple[Callable[[str], str], str]] = {
    "twice_in_dimension": (_replace('"score": 8', '"score": 8, "score": 3'), "malformed_json"),
    "twice_with_blank": (_replace('"score": 8', '"score" : 8, "score" : 3'), "malformed_json"),
    "twice_with_line": (_replace('"score": 8', '"score"\n: 8, "score": 3'), "malformed_json"),
    "twice_outside": (_replace("{", '{"overall_score" : 1, '), "malformed_json"),
    "twice_in_list": (_replace("{", '{"x": [{"a": 1, "a": 2}], '), "malformed_json"),
    "twice_with_number": (_replace('"score": 8', '"score": 8., "score": 3'), "malformed_json"),
    "two_spellings": (_replace('"score": 8', '"score": 8, "scroe": 3'), "malformed_json"),
    "python": (lambda t: repr(json.loads(t) | {"seen": None, "ok": True}), "malformed_json"),
    "smart_quotes": (_replace('"', "”", -1), "malformed_json"),
    "smart_pairs": (lambda t: t.replace(' "', " “").replace('"', "”"), "malformed_json"),
    "smart_keys": (_replace('"score"', "“score”", -1), "malformed_json"),
    "guillemets": (_replace('"', "»", -1), "malformed_json"),
    "missing_quote": (_replace('"score": 8', 'score": 8'), "malformed_json"),
    "missing_brace": (_replace('}, {"name"', ', {"name"'), "malformed_json"),
    "replaced": (_replace("tones", "t\ufffdnes"), "not_utf8"),
    "replaced_comment": (_set_comment("Very \ufffd good lines."), "not_utf8"),
    "replaced_escape": (
        lambda t: _set_comment("Very \ufffd good")(t).replace("\ufffd", "\\ufffd"),
        "not_utf8",
    ),
    "replaced_strength": (_set("key_strengths", ["Good", "l\ufffdight"]), "not_utf8"),
    "replaced_notes": (_set("technical_notes", "The \ufffd lens."), "not_utf8"),
    "loop_of_a_word": (_set_comment("The sky is " + "peace " * 60), "looping"),
    "loop_of_a_sentence": (_set_comment("The sky is quite wide here. " * 12), "looping"),
    "long_loop": (_set_comment("Good. " + f"{_UNIT[:150]}. " * 4), "looping"),
    "loop_too_long": (_set_comment("so so good " * 400), "looping"),
    "loop_then_words": (_set_comment("**peace**" * 60 + " and that is all."), "looping"),
    "too_high": (_replace('"score": 8', '"score": 80'), "score_out_of_range"),
    "no_score": (_replace('"score": 8, ', ""), "unscored"),
    "six": (_drop_dimension, "dimensions_incomplete"),
    "control_token": (_set_comment("Good <|im_end|> lines."), "other_schema"),
    "think_token": (_set_comment("Good <think> lines."), "other_schema"),
    "tool_token": (_set_comment("Good <tool_call> lines."), "other_schema"),
    "no_description": (_set("image_description", ""), "other_schema"),
    **{
        f"placeholder_{text}": (_set_comment(text), "dimensions_incomplete")
        for text in _PLACEHOLDERS
    },
    **{f"cut_{share}": (_cut(share), "truncated") for share in (20, 45, 70, 97)},
    "half_an_emoji": (_replace("Clean tones", "Clean \\ud83d tones"), "not_utf8"),
    "comment_in_json": (_replace("{", "{ // my critique\n"), "malformed_json"),
    "in_python_text": (lambda t: repr({"response": t, "seen": None}), "malformed_json"),
}
_DEFECT_ENVELOPES = ("raw", "fence", "headings", "think_before")

_ERRORS = {
    "ollama": "Error: Ollama API returned 400",
    "connect": "Error: Cannot connect to AI service - service may not be running",
    "parse": "Failed to parse model response. Please try again.",
    "advisor": "Error: Advisor not found in database",
    "upper": "ERROR: timeout after 300 seconds",
    "occurred": "An error occurred while the image was analyzed.",
    "analysis": "Analysis failed: out of memory",
    "python": "ConnectionError: HTTPConnectionPool(host='localhost'): Max retries exceeded",
    "traceback": "Traceback (most recent call last):\n  File \"a.py\", line 1\nKeyError: 'x'",
    "model": "Error: model 'qwen3-vl:8b' not found, try pulling it first",
}
_BIOGRAPHY = (
    "Ansel Adams (1902-1984) was a photographer of the American West. He founded Group f/64, and "
    "his zone system is taught to this day. "
)
_ERROR_PLACES: dict[str, Callable[[str], str]] = {
    "alone": lambda e: e,
    "heading": lambda e: f"# {e}\n\nNothing to show.",
    "bold": lambda e: f"**{e}**",
    "after_biography": lambda e: f"# Ansel Adams\n\n{_BIOGRAPHY * 3}\n\n{e}",
    "same_line": lambda e: f"{_BIOGRAPHY * 8}{e}",
    "full_analysis": lambda e: f"# Ansel\n\n{_BIOGRAPHY}\n\n## Full Analysis\n\n{e}\n",
    "page": lambda e: (
        f"<html><style>p {{}}</style><h1>Ansel</h1><p>{_BIOGRAPHY}</p><p>{html.escape(e)}</p>"
    ),
    "box": lambda e: f'<div class="analysis"><div class="error">⚠️ {html.escape(e)}</div></div>',
    "json": lambda e: json.dumps({"error": e}),
    "json_message": lambda e: json.dumps({"success": False, "message": e, "data": None}),
}
_THOUGHTS = {
    "let_me": "Okay, let me look at this photograph. The light comes from the left.",
    "user_wants": "The user wants a critique of a lake at dawn. I should name seven dimensions.",
    "tag": "<think>\nThe lake is calm.\n</think>",
    "open_tag": "<think>The lake is calm, and the boats lie in front",
    "thought_tag": "<thought>\nSomething about the lake.\n",
    "thinking_tag": "<thinking>A lake.</thinking>",
    "mistral_tag": "[THINK]A lake. Let me see.",
    "braces": 'Okay, it has the form {"name": "Composition", "score": 8}. Now I look at it.',
    "drafts": 'Alright, the format is {"dimensions": [{"name": ...}]} with seven of them. '
    "I begin with the light, which is soft, and then I go on to the colors of the lake.",
    "first_draft": 'The user wants JSON: {"image_description": "A lake"... then "dimensions": [ '
    "and so on. Let me think about the scores of the seven dimensions first, one after the other.",
    "hesitation": "This shows a lake. Wait, is it a lake? Hmm, maybe I look again. Let me see. "
    "I should say what I see. I need to be fair. Let me begin with the light on the boats.",
    "heading": "# Analysis\n\nOkay, so the user asked for a critique. First, the light.",
    "page": "<p>Okay, let me look at this photograph. It shows a lake.</p>",
    "bold_heading": "**Analyzing the image**\n\nI need to look at the light first.",
    "plan": "Let me plan this. 1. Description. 2. Scores: {composition: 8?, lighting: 7?}. Go.",
}
_PROSE = (
    "The photograph shows a lake at dawn. Its light is soft, and one error in focus does not spoil "
    "it. Composition is good; the boats lead into the picture, but the horizon is not level. "
)
_LOOPS = {
    "marks": "<>" * 400,
    "bold": "**peace**" * 300,
    "word": "The lake " + "very " * 300,
    "sentence": "The lake lies still at dawn. " * 40,
    "long_unit": f"A fine lake. {(_UNIT + '. ') * 4}",
    "very_long_unit": "A lake. "
    + (" ".join(f"{a} {b}" for a in _NOUNS for b in _NOUNS) + ". ") * 4,
    "paragraph": f"{_PROSE}\n\n" * 3,
    "cut_unit": (_UNIT + ". ") * 4 + _UNIT[:100],
    "counted": "".join(f"{i}. The light is good and the shadow is soft.\n" for i in range(200)),
    "in_cut_json": '{"image_description": "A lake, ' + "a boat, " * 200,
    "long_in_cut_json": '{"image_description": "A lake", "dimensions": [{"name": "Composition", '
    '"comment": "' + (_UNIT + "; ") * 5,
    "with_end": "so it is " * 200 + '"}]}',
    "page": "<div><p>" + "</p><p>".join(["The light is good."] * 50) + "</p></div>",
    "chinese": "非常好的照片，" * 80,
    "thoughts": "Okay, let me see. " + "Wait, the light is soft. " * 60,
}
_PROMPT = "Please look at my picture. Write JSON of this form: " + json.dumps(
    {
        "image_description": EXAMPLE,
        "dimensions": [
            {"name": n, "score": 8, "comment": f"Words on {n}", "recommendation": f"Try {n}"}
            for n in DIMENSIONS
        ],
        "overall_score": 7.4,
        "key_strengths": ["First thing", "Second thing"],
        "priority_improvements": ["First step"],
        "technical_notes": "Camera and lens",
    }
)
_PROSE_TEXTS: dict[str, tuple[str, str]] = {
    "prose": (_PROSE, "unscored"),
    "error_of_the_photographer": (_PROSE + "A margin of error: small.", "unscored"),
    "table": (
        "| Aspect | Comment |\n|---|---|\n| Light | Soft and even |\n| Focus | Exact |",
        "unscored",
    ),
    "html_table": ("<table><tr><td>Light</td><td>Soft and even</td></tr></table>", "unscored"),
    "latex": (r"$$\begin{array}{ll} Light & good \\ Focus & {sharp} \end{array}$$", "unscored"),
    "numbered": ("1. **Light**: soft\n2. **Focus**: exact\n3. **Color**: warm", "unscored"),
    "thought_then_prose": (f"<think>Hm.</think>\n{_PROSE}{_PROSE[:99]}", "unscored"),
    "other_keys": ('{"title": "A lake", "mood": "calm"}', "other_schema"),
    "list_of_words": ('["a lake", {"mood": "calm"}]', "other_schema"),
    "cut_other_keys": ('{"title": "A lake", "mo', "truncated"),
    "echo": ("Analyze this image. Reply with JSON.", "prompt_echo"),
    "echo_and_schema": (
        'Critique this photo. Output format: {"dimensions": [{"name": str}]}',
        "prompt_echo",
    ),
    "no_errors": (f"{_PROSE}\n\nErrors: none. Failed to open the shadows, though.", "unscored"),
    "null": ("null", "no_text"),
    "list": ("[]", "no_text"),
    "refusal": ("Sorry, I cannot analyze this image.", "unscored"),
    "rules": (f"{_PROSE}\n\n{'-' * 600}\n\nThe end.", "unscored"),
    "cut_answer": (
        'Okay, here:\n```json\n{"image_description": "A lake", "a": "at dawn and',
        "truncated",
    ),
    "only_script": ('<script>var a = {"dimensions": []};</script>', "unscored"),
    "unreadable_prose": ("A caf\ufffd by the lake, at dawn.", "not_utf8"),
    "unreadable_json": (
        '{\ufffdimage_description": "A lake", "dimensions": [], "x": 1}',
        "not_utf8",
    ),
    "blank": ("\ufeff \n\t", "no_text"),
    "long": ("x" * 1_000_001, "too_long"),
}


def build_texts() -> list[HostileText]:
    return [*_clean_json(), *_clean_pages(), *_defects(), *_page_defects(), *_other_texts()]


def _clean_json() -> Iterator[HostileText]:
    for language, critique in CRITIQUES.items():
        for name, form in JSON_FORMS.items():
            yield HostileText(f"{language}-{name}", form(critique), critique=critique)
        for name, envelope in ENVELOPES.items():
            text = envelope(_raw(critique))
            yield HostileText(f"{language}-{name}", text, critique=critique)
    critique = CRITIQUES["english"]
    comment = critique.dimensions[3].comment
    thought = _set_comment(f"<think>Is it? {{}}</think>{comment}")(_raw(critique))
    yield HostileText("thought_in_a_text", thought, critique=critique)


def _clean_pages() -> Iterator[HostileText]:
    for language, critique in CRITIQUES.items():
        for number, (name, card) in enumerate(CARDS.items()):
            page = render_page(critique, card, OVERALL[number % len(OVERALL)])
            yield HostileText(f"{language}-page-{name}", page, critique=critique, derived=True)
    critique, other = CRITIQUES["english"], CRITIQUES["german"]
    for name, card in CARDS.items():
        pages = render_page(other, card, OVERALL[0], "weston") + render_page(
            critique, card, OVERALL[0]
        )
        yield HostileText(f"two_advisors-{name}", pages, critique=critique, derived=True)


def _defects() -> Iterator[HostileText]:
    text = _raw(CRITIQUES["english"]).replace("Clean tones.", "Clean tones and tones.")
    for name, (change, reason) in DEFECTS.items():
        for envelope in _DEFECT_ENVELOPES:
            yield HostileText(f"{name}-{envelope}", ENVELOPES[envelope](change(text)), reason)
    for name, words in _FOREIGN.items():
        foreign = _critique(words, words + " {number} {name}", words + " {name} {number}", words)
        yield HostileText(f"{name}-json", _raw(foreign), "wrong_language")
        page = render_page(foreign, CARDS["plain_paragraphs"], OVERALL[1])
        yield HostileText(f"{name}-page", page, "wrong_language")
        yield HostileText(f"{name}-prose", f"{words}。{words[::-1]}.", "wrong_language")


def _page_defects() -> Iterator[HostileText]:
    for name, card in CARDS.items():
        page = render_page(CRITIQUES["english"], card, OVERALL[0])
        if name != "not_closed":
            cut = page[: page.rindex("wind is gone")]
            yield HostileText(f"cut_page-{name}", cut, "truncated")
        for entity in ("&#65533;", "\ufffd", "&#xFFFD;"):
            unreadable = page.replace("eye never", f"eye {entity} never", 3)
            yield HostileText(f"unreadable_page-{name}-{entity}", unreadable, "not_utf8")
        yield HostileText(f"no_scores-{name}", page.replace("/10", ""), "unscored")
        absent = page.replace('data-advisor="ansel"', 'data-advisor="weston"')
        yield HostileText(f"other_advisor-{name}", absent, "advisor_absent")


def _other_texts() -> Iterator[HostileText]:
    for place, build in _ERROR_PLACES.items():
        for name, error in _ERRORS.items():
            yield HostileText(f"error-{place}-{name}", build(error), "error_placeholder")
    for name, text in _THOUGHTS.items():
        yield HostileText(f"thoughts-{name}", text, "thinking_only")
    for name, text in _LOOPS.items():
        yield HostileText(f"loop-{name}", text, "looping")
    for name, (text, reason) in _PROSE_TEXTS.items():
        yield HostileText(f"prose-{name}", text, reason)
    example = _PROMPT[_PROMPT.index("{") :]
    for name, text in {
        "example": example,
        "with_other_words": example.replace(EXAMPLE, "A lake at dawn."),
        "prompt": _PROMPT,
    }.items():
        yield HostileText(f"echo-{name}", text, "prompt_echo", prompts=(_PROMPT,))
    critique_text = _set_comment("Words on Composition")(_raw(CRITIQUES["english"]))
    yield HostileText(
        "echo-one_comment", critique_text, "dimensions_incomplete", prompts=(_PROMPT,)
    )

"""A proposed mapping for a file that no format knows: by the names of its fields and the shapes of their values."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qbawa.ingest.formats.content import json_value
from qbawa.ingest.formats.contests import talk_of
from qbawa.ingest.formats.mapping import FileMapping, Kind, parse_mapping
from qbawa.ingest.formats.paths import elements
from qbawa.model_apis.canonical import detect_request_api, detect_response_api
from qbawa.text import shorten

_DEPTH = 5
_WORDS: dict[str, tuple[str, ...]] = {
    # The first word is the surest; a field is named by its last word that says anything.
    "question": (
        "question", "prompt", "instruction", "query", "user_input", "user_message", "problem", "goal", "task", "input",
        "request", "ask", "human", "user", "post", "history", "source", "ctx", "doc", "sentence", "title", "text", "body",
    ),
    "answer": (
        "answer", "response", "output", "completion", "reply", "generation", "generated", "model_output", "assistant",
        "bot", "actual_output", "result", "prediction", "filtered_resps", "resps", "resp", "sampled", "summary",
        "translation", "sql", "code", "target", "solution", "expected", "reference", "label", "gold", "message",
        "turn", "choice", "content", "text",
    ),
    "system": ("system", "system_prompt", "system_message", "developer"),
    "context": ("context", "passage", "input", "background", "document", "contexts", "choices", "options"),
    "model": ("model", "model_name", "model_id", "engine", "generator", "llm"),
    "strategy": ("strategy", "model", "model_name", "generator", "system", "variant"),
    "request_id": (
        "request_id", "conversation_id", "question_id", "prompt_id", "trace_id", "session_id", "thread_id", "uid", "uuid",
        "id", "qid", "doc_id", "index", "idx",
    ),
    "started_at": ("timestamp", "created_at", "started_at", "start_time", "time", "date", "created", "tstamp", "datetime"),
    "latency_s": ("latency_s", "latency_seconds", "duration_s", "latency", "duration", "elapsed"),
    "latency_ms": ("latency_ms", "latencyms", "duration_ms", "elapsed_ms"),
    "input_tokens": ("input_tokens", "prompt_tokens", "tokens_in", "num_input_tokens"),
    "output_tokens": ("output_tokens", "completion_tokens", "tokens_out", "num_output_tokens"),
    "cost_usd": ("cost_usd", "total_cost", "price_usd", "cost", "price"),
    "user": ("user_id", "username", "customer_id"),
    "score": ("score", "rating", "overall_score", "reward", "feedback", "stars", "quality", "helpfulness", "grade",
              "thumbs", "correct", "success", "passed", "exact_match", "label"),
    "rank": ("rank",),
    "comment": ("comment", "feedback_text", "critique", "explanation", "rationale", "reason"),
    "error": ("error", "exception", "error_message"),
    "judge": ("judge", "annotator", "annotator_id", "labeler", "worker", "rater"),
    "verdict": (
        "winner", "verdict", "choice", "vote", "preferred", "better", "better_response_id", "label", "labels", "preference",
    ),
    "preference": ("preference", "preference_strength", "margin", "preference_score"),
}  # fmt: skip
_FAMILIES = (
    ("chosen", "rejected"), ("best", "worst"), ("best", "worse"), ("better", "worse"), ("preferred", "dispreferred"),
    ("preferred", "rejected"), ("accepted", "rejected"), ("winner", "loser"), ("winning", "losing"), ("win", "lose"),
    ("good", "bad"), ("positive", "negative"), ("pos", "neg"), ("a", "b"), ("1", "2"), ("0", "1"), ("left", "right"),
    ("one", "two"), ("first", "second"), ("x", "y"),
)  # fmt: skip
_ORDERED = _FAMILIES[:13]
_ORDERED_WORDS = {word for family in _ORDERED for word in family}
_COUNTED = ("input_tokens", "output_tokens", "cost_usd", "latency_s", "latency_ms")
_INNER = {"text", "content", "value", "full_text", "body", "raw", "parts", "message", "data"}


@dataclass(frozen=True, slots=True)
class Proposal:
    mapping: FileMapping
    lines: str
    """As YAML, an example beside each field: ready to be saved and used."""
    unused: tuple[str, ...]
    """Paths that it leaves out."""


@dataclass(frozen=True, slots=True)
class _Field:
    path: str
    words: tuple[str, ...]
    values: tuple[Any, ...]
    """Those of the sample that are there."""
    share: float
    kind: str
    """talk, text, number, flag, list or object."""

    @property
    def length(self) -> float:
        return sum(len(str(value)) for value in self.values) / max(1, len(self.values))


def propose(sample: Sequence[dict[str, Any]]) -> Proposal | None:
    """A mapping by which these records can be imported; None where they show no question with an answer."""
    best: tuple[float, str | None, Kind, dict[str, Any]] | None = None
    for each in (None, *_lists(sample)):
        scopes = [chain for record in sample for chain in elements(record, each)][:40]
        fields = _fields(scopes)
        for make in (_matches, _recordings):
            found = make(fields, scopes, inner=each is not None)
            # The outermost level that shows all is meant; deeper ones only where it is better.
            if found and (best is None or found[0] > best[0] + 0.5):
                best = (found[0], each, found[1], found[2])
    if best is None:
        return None
    _, each, kind, said = best
    try:
        mapping = parse_mapping({"kind": kind, **({"each": each} if each else {}), "fields": said}, "proposal")
    except Exception:  # noqa: BLE001 - a name that no path can say: then there is no proposal
        return None
    scopes = [chain for record in sample for chain in elements(record, each)][:40]
    fields = _fields(scopes)
    used = {path for value in said.values() for path in _paths(value)}
    unused = tuple(f.path for f in fields if not any(_covers(path, f.path) for path in used))
    return Proposal(mapping, _yaml(kind, each, said, mapping, scopes), unused)


def _paths(said: Any) -> list[str]:
    said = said["path"] if isinstance(said, dict) else said
    return said if isinstance(said, list) else [said]


def _covers(path: str, other: str) -> bool:
    return other == path or other.startswith((f"{path}.", f"{path}[")) or path.startswith((f"{other}.", f"{other}["))


def _lists(sample: Sequence[dict[str, Any]]) -> list[str]:
    """Lists (and objects of alike objects) whose elements may be the records, outermost first."""
    found: dict[str, None] = {}

    def walk(value: Any, path: str, depth: int) -> None:
        value = json_value(value)
        if depth > _DEPTH or not isinstance(value, dict):
            return
        for name, inner in value.items():
            inner = json_value(inner)
            place = f"{path}.{name}" if path else str(name)
            if re.search(r"[\[\]=\"]|^[$^]", str(name)):
                continue
            if isinstance(inner, list) and inner and isinstance(inner[0], dict) and not _is_talk(inner):
                found[f"{place}[]"] = None
                walk(inner[0], f"{place}[]", depth + 1)
            elif (
                isinstance(inner, dict)
                and len(inner) > 1
                and all(isinstance(v, dict) and len(v) > 1 for v in inner.values())
            ):
                found[f"{place}[]"] = None
                walk(inner, place, depth + 1)
            elif isinstance(inner, dict):
                walk(inner, place, depth + 1)

    for record in sample[:5]:
        walk(record, "", 0)
    return sorted(found, key=lambda path: path.count("[]"))[:12]


def _fields(scopes: Sequence[tuple[Any, ...]]) -> list[_Field]:
    values: dict[str, list[Any]] = defaultdict(list)
    for chain in scopes:
        seen = dict(_leaves(chain[-1], ""))
        # What stands around the element: of the record, or of what is between.
        for up, outer in enumerate(reversed(chain[:-1]), 1):
            prefix = "$." if up == len(chain) - 1 else "^" * up + "."
            seen |= {prefix + path: value for path, value in _leaves(outer, "", lists=False)}
        for path, value in seen.items():
            if value not in (None, "", [], {}):
                values[path].append(value)
    return [
        _Field(path, _tokens(path), tuple(found), len(found) / len(scopes), _kind(found))
        for path, found in values.items()
        if found
    ]


def _leaves(value: Any, path: str, depth: int = 0, *, lists: bool = True) -> Iterator[tuple[str, Any]]:
    value = json_value(value)
    if isinstance(value, dict) and depth <= _DEPTH:
        whole = value.get("role") and "content" in value
        if path and (whole or detect_response_api(value) or _is_body(value)):
            yield path, value
            return
        if path and _ORDERED_WORDS & set(_tokens(path)[-1:]):
            yield path, value
        for name, inner in value.items():
            plain = re.fullmatch(r"[^.\[\]=\"$^][^.\[\]\"]*", str(name))
            step = str(name) if plain else f'["{name}"]'
            yield from _leaves(inner, f"{path}.{step}" if path and plain else f"{path}{step}", depth + 1, lists=lists)
    elif isinstance(value, list) and value and depth <= _DEPTH:
        if _is_talk(value):
            yield path, value
        elif lists and (len(value) == 1 or isinstance(value[0], list)):
            yield from _leaves(value[0], f"{path}[0]", depth + 1)
        elif lists and all(isinstance(item, str | int | float | bool) for item in value):
            yield f"{path}[0]", value[0]
            yield path, value
        elif lists and isinstance(value[0], dict) and len(value) <= 4:
            for place, item in enumerate(value):
                yield from _leaves(item, f"{path}[{place}]", depth + 1)
    elif path:
        yield path, value


def _is_body(value: dict[str, Any]) -> bool:
    """Whether an object is what was sent to a model, whole."""
    return detect_request_api(value) is not None and any(
        isinstance(value.get(name), list) for name in ("messages", "contents", "input")
    )


def _is_talk(value: Any, role: str = "user") -> bool:
    if isinstance(value, dict):
        return role == "user" and _is_body(value)
    talk = talk_of(value) if isinstance(value, str) or (isinstance(value, list) and value) else None
    return bool(talk) and any(message.get("role") == role for message in talk or [])


def _kind(values: Sequence[Any]) -> str:
    if all(_is_talk(value) for value in values):
        return "talk"
    if all(isinstance(value, list | dict) for value in values) and all(
        _is_talk(value, "assistant") or (isinstance(value, dict) and detect_response_api(value)) for value in values
    ):
        return "reply"
    kinds = {type(value) for value in values}
    if kinds <= {bool}:
        return "flag"
    if kinds <= {int, float, bool} or all(
        isinstance(v, str) and re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", v) for v in values
    ):
        return "number"
    return "text" if kinds <= {str} else "list" if list in kinds else "object" if dict in kinds else "text"


def _tokens(path: str) -> tuple[str, ...]:
    """The words of a path's names, those of its last name last."""
    words = re.sub(
        r"\[[^\]]*\]",
        lambda m: f".{m[0][1:-1]}" if re.search("[A-Za-z]", m[0]) else f" {m[0][1:-1]}",
        path.lstrip("$^."),
    )
    words = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", words)
    return tuple(word.lower() for word in re.split(r"[^A-Za-z0-9]+", words) if word)


def _match(field: _Field, role: str) -> float:
    """How well a field's name says the role: 0 not at all, towards 10 the better."""
    words = list(field.words)
    while len(words) > 1 and (words[-1] in _INNER or words[-1].isdigit()):
        words.pop()
    joined = "_".join(words)
    last = words[-1] if words else ""
    best = 0.0
    for place, word in enumerate(_WORDS[role]):
        rank = 1 - place / len(_WORDS[role])
        singular = joined.removesuffix("ies") + "y" if joined.endswith("ies") else joined.removesuffix("s")
        if word in (joined, singular) or word in ("_".join(field.words), "_".join(field.words).removesuffix("s")):
            best = max(best, 8 + 2 * rank)
        elif last.removesuffix("s") == word or joined.endswith(f"_{word}"):
            best = max(best, 5 + 2 * rank)
        elif len(word) > 3 and word in joined:
            best = max(best, 2 + 2 * rank)
    # What stands deep inside is named by what is around it, and rarely meant.
    return best - 0.3 * field.path.count(".") if best else 0.0


def _best(
    fields: Sequence[_Field], role: str, kinds: set[str], taken: set[str], least: float = 4.5, share: float = 0.0
) -> _Field | None:
    found = [
        (_match(f, role), f)
        for f in fields
        if f.kind in kinds
        and f.path not in taken
        and f.share >= share
        and not any(_covers(path, f.path) for path in taken)
    ]
    found = [(score, f) for score, f in found if score >= least]
    if role == "answer":
        # A time is none, and a number only where it is called nothing but that.
        found = [(score, f) for score, f in found if not _times(f) and (score >= 8 or not _numeric(f))]
    return max(found, key=lambda pair: (pair[0] + pair[1].share, pair[1].length))[1] if found else None


def _common(
    said: dict[str, Any], fields: Sequence[_Field], roles: Sequence[tuple[str, set[str]]], taken: set[str]
) -> None:
    for role, kinds in roles:
        if role not in said and (field := _best(fields, role, kinds, taken, least=5.4 if role in _COUNTED else 6.5)):
            if role in ("score", *_COUNTED) and not _numeric(field):
                continue
            if role == "started_at" and not _times(field):
                continue
            said[role] = field.path
            taken.add(field.path)


def _numeric(field: _Field) -> bool:
    return field.kind in ("number", "flag")


def _times(field: _Field) -> bool:
    from qbawa.ingest.formats.step_rows import BadRecordError, moment

    try:
        return all(moment(value).year > 1990 for value in field.values)
    except BadRecordError:
        return False


def _spoken(field: _Field) -> bool:
    """Whether a field holds sentences rather than names."""
    return field.kind == "text" and sum(len(str(value).split()) for value in field.values) >= 2.5 * len(field.values)


def _asked(fields: Sequence[_Field], said: dict[str, Any], taken: set[str]) -> float:
    """Put the question in; how sure it is."""
    question = _best(fields, "question", {"text"}, taken, least=2.0, share=0.3)
    talk = next((f for f in fields if f.kind == "talk" and f.path not in taken), None)
    if talk and (question is None or _match(question, "question") < 8):
        said["messages"] = talk.path
        taken.add(talk.path)
        sure = 9.0
    elif question:
        taken.add(question.path)
        sure = _match(question, "question")
        more = _best(fields, "context", {"text", "list"}, taken, least=6.5)
        if more and more.kind == "list" and _match(more, "context") < 8:
            more = None
        if more and more.path != question.path:
            taken.add(more.path)
            said["question"] = [question.path, more.path]
        else:
            said["question"] = question.path
    else:
        # Nothing is called so: the longest text that is left is the best guess.
        rest = [f for f in fields if _spoken(f) and f.path not in taken and f.share > 0.5]
        rest = [f for f in rest if not any(_covers(path, f.path) for path in taken)]
        if not rest:
            return 0.0
        question = max(rest, key=lambda f: f.length)
        taken.add(question.path)
        said["question"] = question.path
        sure = 2.0
    if system := _best(fields, "system", {"text"}, taken, least=6.5):
        said["system"] = system.path
        taken.add(system.path)
    return sure


def _recordings(
    fields: Sequence[_Field], scopes: Sequence[tuple[Any, ...]], *, inner: bool
) -> tuple[float, Kind, dict[str, Any]] | None:
    said: dict[str, Any] = {}
    taken: set[str] = set()
    talks = [f for f in fields if f.kind == "talk"]
    answered = [f for f in talks if any(_ends_answered(value) for value in f.values)]
    kinds = {"text", "number", "flag", "object", "list", "reply"}
    sure = 0.0
    answer = _best(fields, "answer", kinds, taken, least=2.0, share=0.3)
    if answered and not (answer and answer.kind == "text" and _match(answer, "answer") > 9.9 and not inner):
        talk = max(answered, key=lambda f: (f.share, -f.path.count(".")))
        said["messages"], sure = talk.path, 12.0
        taken.add(talk.path)
    else:
        asked = _best(fields, "question", {"text"}, taken, least=2.0, share=0.3)
        if asked and answer and asked.path == answer.path:
            rest = [f for f in fields if f.path != asked.path]
            other = _best(rest, "answer", kinds, taken, least=2.0, share=0.3)
            if other is None:
                return None
            answer = other
        replies = [f for f in fields if f.kind == "reply" and f.share > 0.3]
        if replies and (answer is None or answer.kind != "reply"):
            answer = max(replies, key=lambda f: (_match(f, "answer"), f.share))
        if answer is None:
            rest = [f for f in fields if _spoken(f) and f.share > 0.5 and (asked is None or f.path != asked.path)]
            answer = max(rest, key=lambda f: f.length) if rest and (asked or len(rest) > 1) else None
        if answer is None or (inner and answer.path[0] in "$^"):
            return None
        taken.add(answer.path)
        sure = _asked(fields, said, taken)
        said["answer"] = answer.path
        if not sure:
            return _without_question(fields, said, taken)
        # A second field that looks like an answer is more often what a judge expects than what a model said.
        sure = (sure + _match(answer, "answer")) / 2 + 1
    ranked = inner and (
        _best(fields, "score", {"number", "flag"}, taken, 6.5) or _best(fields, "rank", {"number"}, taken, 6.5)
    )
    ids = [("request_id", {"text", "number"})]
    numbers = [
        ("latency_ms", {"number"}),
        ("latency_s", {"number"}),
        ("input_tokens", {"number"}),
        ("output_tokens", {"number"}),
        ("cost_usd", {"number"}),
    ]
    if (
        ranked
        and "answer" in said
        and any("$." in path or "^" in path for name in ("question", "messages") for path in _paths(said.get(name, "")))
    ):
        _common(said, fields, [("strategy", {"text"}), ("rank", {"number"}), *numbers], taken)
        if "rank" not in said:
            _common(said, fields, [("score", {"number", "flag"})], taken)
        if "strategy" in said:
            said["model"] = said["strategy"]
        else:
            said["strategy"] = "=imported"
        return sure + 1, "answers", said
    words = [("user", {"text", "number"}), ("comment", {"text"}), ("error", {"text", "object"})]
    more = [("score", {"number", "flag"}), ("started_at", {"text", "number"})]
    _common(said, fields, [("model", {"text"}), *ids, *more, *numbers, *words], taken)
    if "request_id" in said and not _distinct(fields, said["request_id"]):
        taken.discard(said.pop("request_id"))
    tags = [
        f.path
        for f in fields
        if f.kind in ("text", "number", "flag") and f.length <= 60 and not any(_covers(t, f.path) for t in taken)
    ]
    if tags:
        said["tags"] = tags[:12]
    return sure, "recordings", said


def _without_question(
    fields: Sequence[_Field], said: dict[str, Any], taken: set[str]
) -> tuple[float, Kind, dict[str, Any]] | None:
    """Answers of models to questions that are named by an id alone."""
    _common(said, fields, [("strategy", {"text"}), ("request_id", {"text", "number"})], taken)
    return (3.0, "answers", said) if {"strategy", "request_id"} <= said.keys() else None


def _distinct(fields: Sequence[_Field], path: str) -> bool:
    found = next(f for f in fields if f.path == path)
    return len({repr(value) for value in found.values}) == len(found.values)


def _ends_answered(value: Any) -> bool:
    talk = talk_of(value) if isinstance(value, str | list) else None
    return bool(talk) and any(message.get("role") == "assistant" for message in (talk or [])[1:])


def _matches(
    fields: Sequence[_Field], scopes: Sequence[tuple[Any, ...]], *, inner: bool
) -> tuple[float, Kind, dict[str, Any]] | None:
    pairs = [(family, one, two) for family in _FAMILIES for one in fields for two in _twins(one, fields, family)]
    texts = [p for p in pairs if p[1].kind == p[2].kind and p[1].kind in ("talk", "reply", "text", "object")]
    texts = [p for p in texts if p[0] in _ORDERED or p[1].kind != "text" or _spoken(p[1]) or _spoken(p[2])]
    if not texts:
        return None
    family, one, two = max(texts, key=lambda p: (p[0] in _ORDERED, p[1].length + p[2].length))
    said: dict[str, Any] = {}
    taken = {one.path, two.path}
    ordered = family in _ORDERED
    said["chosen" if ordered else "answer_a"], said["rejected" if ordered else "answer_b"] = one.path, two.path
    alone = (
        one.kind == "talk"
        and all(_ends_answered(v) or isinstance(v, str) for v in one.values)
        and any(_ends_answered(v) for v in one.values)
    )
    if not alone and not _asked([f for f in fields if f.kind != "talk" or f.path not in taken], said, taken):
        return None
    for _, first, second in pairs:
        if {first.path, second.path} & taken:
            continue
        if _numeric(first) and _numeric(second) and "score_a" not in said and _says_worth(first):
            said |= {"score_a": first.path, "score_b": second.path}
        elif (
            first.kind == second.kind == "text"
            and "strategy_a" not in said
            and (_match(first, "strategy") >= 2 or first.length < 60)
        ):
            said |= {"strategy_a": first.path, "strategy_b": second.path}
        else:
            continue
        taken |= {first.path, second.path}
    if ordered:
        said.pop("score_a", None)
        said.pop("score_b", None)
    else:
        _verdict(fields, said, taken, family)
        if "verdict" in said or "preference" in said:
            said.pop("score_a", None)
            said.pop("score_b", None)
    # Two places of a list are two answers only where something says which of them is better.
    places = [re.sub(r"\[\d+\]", "[]", path) for path in (one.path, two.path)]
    if not ordered and places[0] == places[1] and not {"verdict", "preference"} & said.keys():
        return None
    _common(said, fields, [("judge", {"text", "number"})], taken)
    return (13.0 if ordered else 12.5), "matches", said


def _says_worth(field: _Field) -> bool:
    """Whether a number of each answer says how good it is, if only that it won."""
    return _match(field, "score") >= 2 or bool({"winner", "win", "wins", "preferred", "votes"} & set(field.words))


def _twins(one: _Field, fields: Sequence[_Field], family: tuple[str, str]) -> Iterator[_Field]:
    if family[0] not in one.words:
        return
    for place, word in enumerate(one.words):
        if word == family[0]:
            wanted = (*one.words[:place], family[1], *one.words[place + 1 :])
            yield from (f for f in fields if f.words == wanted and f.path != one.path)


def _verdict(fields: Sequence[_Field], said: dict[str, Any], taken: set[str], family: tuple[str, str]) -> None:
    for field in sorted(fields, key=lambda f: -max(_match(f, "verdict"), _match(f, "preference"))):
        if field.path in taken or max(_match(field, "verdict"), _match(field, "preference")) < 4.5:
            continue
        if _numeric(field) and "score_a" not in said:
            numbers = [float(value) for value in field.values]
            low, high, whole = min(numbers), max(numbers), all(number == int(number) for number in numbers)
            words = {repr(int(number)) for number in numbers} if whole else set()
            if (
                field.kind != "flag"
                and words
                and words <= {*family, "0", "3"} - ({"0"} if "0" not in family else set())
                and set(family) <= {"0", "1", "2"}
            ):
                said["verdict"] = {"path": field.path, "values": {family[0]: "a", family[1]: "b"}}
            elif low < 0:
                end = max(-low, high)
                said["preference"] = {"path": field.path, "range": [end, -end]}
            elif whole and low >= 1 and high <= 2:
                said["verdict"] = {"path": field.path, "values": {"1": "a", "2": "b"}}
            elif low >= 1 and high <= 2:
                said["preference"] = {"path": field.path, "range": [2, 1]}
            elif high <= 1 and whole or high <= 1:
                said["preference"] = field.path
            else:
                continue
            taken.add(field.path)
            return
        if field.kind == "text" and field.length < 60:
            values = {str(value): _side_of(str(value), family) for value in field.values}
            if not any(values.values()) and "strategy_a" not in said:
                continue
            # The sample may show one side alone.
            twins = {
                _swapped(value, family): {"a": "b", "b": "a"}[side]
                for value, side in values.items()
                if side in ("a", "b")
            }
            values = {**twins, **values}
            meant = {value: side for value, side in sorted(values.items()) if side and side != value}
            said["verdict"] = {"path": field.path, "values": meant} if meant else field.path
            taken.add(field.path)
            return


def _swapped(value: str, family: tuple[str, str]) -> str:
    """What the file would say where the other answer is the better one."""
    words = dict(
        [
            *zip(family, reversed(family), strict=True),
            ("a", "b"),
            ("b", "a"),
            ("1", "2"),
            ("2", "1"),
            ("left", "right"),
            ("right", "left"),
        ]
    )

    def other(match: re.Match[str]) -> str:
        word = words.get(match[0].lower(), match[0])
        return word.upper() if match[0].isupper() else word

    return re.sub(r"[A-Za-z]+|[0-9]+", other, value)


def _side_of(value: str, family: tuple[str, str]) -> str | None:
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", value) if word]
    if {"tie", "draw", "both", "equal", "same", "neither"} & set(words):
        return "tie"
    if len(words) > 3:
        return None
    sides = [
        side
        for side, names in (("a", {family[0], "a", "left"}), ("b", {family[1], "b", "right"}))
        if set(words) & names
    ]
    if not sides and set(words) & {"1", "2"}:
        return "a" if "1" in words else "b"
    return sides[0] if len(sides) == 1 else None


def _yaml(
    kind: str, each: str | None, said: dict[str, Any], mapping: FileMapping, scopes: Sequence[tuple[Any, ...]]
) -> str:
    lines = [f"kind: {kind}", "step: chat"]
    if each:
        lines.append(f"each: {json.dumps(each)}")
    lines.append("fields:")
    width = max(len(name) + len(_quoted(value)) for name, value in said.items()) + 4
    for name, value in said.items():
        example = next((found for scope in scopes if (found := mapping.fields[name].of(scope)) not in (None, "")), None)
        if name == "tags":
            example = mapping.fields[name].named(scopes[0])
        shown = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False, default=str)
        entry = f"  {name}: {_quoted(value)}"
        lines.append(f"{entry:<{min(width, 60)}}  # {shorten(' '.join(shown.split()), 70)}")
    return "\n".join(lines) + "\n"


def _quoted(value: Any, *, inside: bool = False) -> str:
    """As YAML that is read back as the same value; `inside` a list or an object brackets must be quoted."""
    if isinstance(value, str):
        plain = r"[A-Za-z_][\w.\-]*" if inside else r"[A-Za-z_][\w.\-]*(\[-?\d+\](\.[\w\-]+)*)*"
        word = value.lower() in ("y", "n", "yes", "no", "on", "off", "true", "false", "null")
        return value if re.fullmatch(plain, value) and not word else json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{_quoted(str(key), inside=True)}: {_quoted(v, inside=True)}" for key, v in value.items())
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(_quoted(inner, inside=True) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)

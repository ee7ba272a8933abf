"""No secret reaches the disk, personal data only where it was not asked to go, and the lines stay JSON."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recording import rows

import qbawa
from qbawa.record.line_format import Row, encode
from qbawa.record.redact import Redactor

# Made up, in the shape that their issuers document.
SECRETS = {
    "openai": "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789",
    "anthropic": "sk-ant-api03-abcdefghijklmnopqrstuvwxyz0123456789",
    "google": "AIzaSyA1234567890abcdefghijklmnopqrstuvw",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "groq": "gsk_abcdefghijklmnopqrstuvwx",
    "xai": "xai-abcdefghijklmnopqrstuvwx",
    "hugging face": "hf_abcdefghijklmnopqrstuvwx",
    "nvidia": "nvapi-abcdefghijklmnopqrstuvwx",
    "stripe": "sk_live_abcdefghijklmnopqrstuvwx",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "github, fine-grained": "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "gitlab": "glpat-abcdefghij0123456789",
    "slack": "xoxb-123456789012-abcdefghijklmnop",
    "google oauth": "ya29.a0AfH6SMBabcdefghijklmnop",
    "json web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijklmnop",
    "bearer": "Bearer abcdefghijklmnop0123",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEabc+/=\nabc\n-----END RSA PRIVATE KEY-----",
    "url": "postgres://user:hunter22@db.example/prod",
    "assigned": "OPENAI_API_KEY=abcdef123456",
    "assigned in yaml": "password: hunter2hunter2",
    "assigned in json": '{"api_key": "abcdef123456"}',
    "basic auth": "Authorization: Basic dXNlcjpwYXNzd29yZA==",
}
HIDDEN = {
    "url": "hunter22",
    "bearer": "abcdefghijklmnop0123",
    "assigned": "abcdef123456",
    "assigned in yaml": "hunter2hunter2",
    "assigned in json": "abcdef123456",
    "private key": "MIIEabc",
    "basic auth": "dXNlcjpwYXNzd29yZA",
}


def encoded(value, **settings) -> str:
    line = encode(Row('{"v":1,', {"output": value}), Redactor(**settings))
    assert line is not None
    text = line.decode()
    json.loads(text)
    return text


@pytest.mark.parametrize("name", SECRETS)
@settings(deadline=None, max_examples=25)
@given(before=st.text(max_size=20), after=st.text(max_size=20), where=st.sampled_from(["text", "key", "list", "inner"]))
def test_secrets_are_removed_wherever_they_stand(name, before, after, where):
    secret = SECRETS[name]
    text = f"{before} {secret} {after}"
    value = {"text": text, "key": {text: 1}, "list": [1, text], "inner": {"a": {"b": [text]}}}[where]
    result = encoded(value)
    assert "[redacted:" in result
    assert HIDDEN.get(name, secret) not in json.loads(result)["output"].__repr__()


@pytest.mark.parametrize("boundary", ["\n", "\t", '"', "'", "(", "=", ":", ",", "{", "\\n", "é"])
@pytest.mark.parametrize("name", ["openai", "aws", "google", "github", "json web token", "slack"])
def test_secrets_are_found_next_to_anything(name, boundary):
    assert SECRETS[name] not in json.loads(encoded(f"x{boundary}{SECRETS[name]}{boundary}"))["output"]


@pytest.mark.parametrize(
    "key", ["api_key", "API-Key", "apiKey", "Authorization", "password", "client_secret", "access_token", "X-API-Key"]
)
def test_what_stands_under_a_secret_key_is_removed_whatever_it_looks_like(key):
    assert json.loads(encoded({"headers": {key: "plain"}}))["output"] == {"headers": {key: "[redacted:key]"}}


@pytest.mark.parametrize(
    "text",
    [
        "The task_id and risk-based disk-usage of sk-learn",
        "max_tokens: 100, total_tokens=12345678",
        "a bearer of bad news, the key: be brief",
        "https://example.com/a:b@c? no password here",
        "The secret: be kind. Each token: classified",
        "Kubernetes IAM AKI ASIAN eyJ",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert json.loads(encoded(text))["output"] == text


@settings(deadline=None)
@given(st.text(), st.integers())
def test_text_without_secrets_is_untouched_even_with_personal_patterns_off(text, number):
    if not Redactor().may_hold(json.dumps({"output": [text, number]}, ensure_ascii=False, separators=(",", ":"))):
        assert json.loads(encoded([text, number]))["output"] == [text.encode("utf-8", "replace").decode(), number]


PERSONAL = {
    "email": "jane.doe+x@mail.example.org",
    "card": "4111 1111 1111 1111",
    "phone": "+49 (30) 1234-5678",
}


@pytest.mark.parametrize("name", PERSONAL)
def test_personal_data_is_removed_only_where_asked(name):
    text = f"write to {PERSONAL[name]} now"
    assert json.loads(encoded(text))["output"] == text
    assert json.loads(encoded(text, personal=True))["output"] == f"write to [redacted:{name}] now"


def test_a_card_number_kept_as_a_number_is_removed_and_the_line_stays_json():
    assert json.loads(encoded({"n": 4111111111111111}, personal=True))["output"] == {"n": "[redacted:card]"}
    assert json.loads(encoded({"n": 4111111111111112}, personal=True))["output"] == {"n": 4111111111111112}


@pytest.mark.parametrize(
    "text", ["on 2026-11-20 22:33", "20.11.2026 10:15", "page 12 of 345", "€1,234,567.89", "3.14159265358979"]
)
def test_dates_and_amounts_are_not_phone_numbers(text):
    assert json.loads(encoded(text, personal=True))["output"] == text


def test_patterns_of_the_user():
    assert json.loads(encoded("case AB-123", patterns={"case": r"[A-Z]{2}-\d+"}))["output"] == "case [redacted:case]"


@pytest.fixture
def settle():
    yield
    qbawa.configure()


def test_nothing_secret_is_in_the_journal_not_even_in_errors_tags_or_calls(tmp_path, settle):
    qbawa.configure(tmp_path)
    secret = SECRETS["openai"]

    @qbawa.step
    def leak(text):
        qbawa.llm_call(model="m", messages=text, output=text, parameters={"api_key": "x"})
        raise ValueError(f"refused: {text}")

    with pytest.raises(ValueError), qbawa.request(user=secret, tags={"k": secret}) as request:
        request.feedback(1, f"my key is {secret}")
        leak(secret)
    assert qbawa.flush(10)
    assert len(rows(tmp_path)) == len(rows(tmp_path, "feedback")) == len(rows(tmp_path, "request")) == 1
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_the_hook_sees_every_row_and_decides(tmp_path, settle):
    def hook(row):
        if row["kind"] == "step" and row["step"] == "private":
            return None
        if row["kind"] == "step":
            row["inputs"]["name"] = {"initial": row["inputs"]["name"][0]}
        return row

    @qbawa.step
    def public(name):
        return None

    @qbawa.step
    def private(name):
        return None

    qbawa.configure(tmp_path, redact=hook)
    public("Jane")
    private("Jane")
    assert qbawa.flush(10)
    [row] = rows(tmp_path)
    assert row["inputs"] == {"name": {"initial": "J"}} and row["recording_id"] and row["latency_s"] >= 0
    assert qbawa.stats().dropped == {"redact_hook": 1}


def test_what_the_hook_cannot_handle_is_dropped_not_written_raw(tmp_path, settle, caplog):
    def hook(row):
        raise RuntimeError("confused")

    qbawa.configure(tmp_path, redact=hook)
    step = qbawa.step(lambda text: text)
    assert step("a") == "a" and step("b") == "b"
    qbawa.flush(10)
    assert rows(tmp_path) == []
    assert qbawa.stats().dropped == {"redact_hook_failed": 2}
    assert len(caplog.records) == 1  # said once

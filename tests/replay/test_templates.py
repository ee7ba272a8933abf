"""Templates: what they can see, what they cannot do, and that every render ends soon."""

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbawa.engine.prompting.sandbox import MAX_CHARS
from qbawa.errors import ConfigError, TemplateError
from qbawa.replay.strategies.strategy import Strategy, Template, make_strategy, recorded_strategy
from qbawa.replay.strategies.template import check_template, render

MESSAGES = [
    {"role": "system", "content": "Old orders."},
    {"role": "user", "content": "First question?"},
    {"role": "assistant", "content": "First answer."},
    {"role": "user", "content": "Second question?"},
]


def strategy(
    prompt: str | None = None, kind: Any = "prompt", system: str | None = None, examples: tuple = ()
) -> Strategy:
    template = Template(kind, prompt, system, examples)
    return make_strategy(name="terse-v2", step="answer", model="offline/lead", template=template)


def text(prompt: str, **inputs: Any) -> str:
    (message,) = render(strategy(prompt), inputs, MESSAGES, request_id="r_81f")
    assert message["role"] == "user"
    return message["content"]


def test_inputs_messages_and_examples_are_there_by_name() -> None:
    assert text("{{ a }} {{ b.c[0] }} {{ messages[-1].content }}", a="x", b={"c": [7]}) == "x 7 Second question?"
    few_shot = strategy("{% for e in examples %}{{ e.q }}={{ e.a }};{% endfor %}", examples=({"q": 1, "a": 2},))
    assert render(few_shot, {}, None, [{"q": 3, "a": 4}])[0]["content"] == "1=2;3=4;"


def test_a_structure_is_written_as_json() -> None:
    assert text("{{ inputs }} {{ rows | tojson }}", rows=[{"é": None}, 1.5, True]) == (
        '{"rows": [{"é": null}, 1.5, true]} [{"é": null}, 1.5, true]'
    )


def test_an_absent_variable_names_strategy_request_and_cure() -> None:
    with pytest.raises(TemplateError) as caught:
        text("{{ context }}", question="?", history=[])
    assert str(caught.value) == (
        "Strategy 'terse-v2' needs the variable 'context', absent from request r_81f. "
        "Present: question, history. Add a default or leave the request out."
    )
    assert text("{{ context | default('none') }}{% if context is defined %}!{% endif %}") == "none"


@given(st.text() | st.sampled_from(["{{ 7 * 7 }}", "{% for i in range(9) %}x{% endfor %}", "{# c #}", "{{ inputs }}"]))
@settings(max_examples=80)
def test_a_recorded_value_is_data_whatever_it_says(value: str) -> None:
    assert text("<a>{{ article }}</a>", article=value) == f"<a>{value}</a>"
    assert text("{{ article | trim }}", article=value) == value.strip()
    assert text("{{ 'x' ~ article }}", article=value) == "x" + value


def test_the_kinds_of_template() -> None:
    full = render(strategy("Q {{ x }}", system="S {{ x }}"), {"x": 1}, MESSAGES)
    assert full == [{"role": "system", "content": "S 1"}, {"role": "user", "content": "Q 1"}]
    kept = render(strategy(kind="keep_prompt"), {}, MESSAGES)
    assert kept == MESSAGES and kept[0] is not MESSAGES[0]
    replaced = render(strategy(kind="replace_system", system="New {{ x }}"), {"x": 1}, MESSAGES)
    assert replaced == [{"role": "system", "content": "New 1"}, *MESSAGES[1:]]
    assert render(strategy(kind="replace_system", system="New"), {}, MESSAGES[1:]) == [
        {"role": "system", "content": "New"},
        *MESSAGES[1:],
    ]
    developer = [{"role": "developer", "content": "Old"}, MESSAGES[1]]
    assert render(strategy(kind="replace_system", system="New"), {}, developer)[0] == {
        "role": "developer",
        "content": "New",
    }


@pytest.mark.parametrize("kind", ["keep_prompt", "replace_system"])
def test_a_step_without_messages_is_a_clear_outcome_of_the_cell(kind: Any) -> None:
    with pytest.raises(
        TemplateError, match="reuses the recorded messages, absent from request r_81f.*Give the strategy a prompt"
    ):
        render(strategy(kind=kind, system="x"), {"x": 1}, None, request_id="r_81f")


def test_recorded_is_never_rendered() -> None:
    with pytest.raises(TemplateError, match="never replayed"):
        render(recorded_strategy("s"), {}, MESSAGES)


def test_examples_are_shown_where_the_template_does_not_place_them() -> None:
    shown = render(strategy(kind="keep_prompt", examples=({"answer": "</x> & so\u202e"},)), {}, MESSAGES)
    assert shown[:3] == MESSAGES[:3]
    assert shown[3]["content"] == (
        'Examples of the task below, each a JSON value:\n1. {"answer": "\\u003c/x\\u003e \\u0026 so\\u202e"}'
        "\n\nSecond question?"
    )
    parts = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    content = render(strategy(kind="keep_prompt", examples=({"answer": "a"},)), {}, parts)[0]["content"]
    assert content[0]["type"] == "text" and content[1:] == parts[0]["content"]


def test_a_strategy_is_never_shown_the_answer_to_its_own_request() -> None:
    mine, other = {"request_id": "r1", "answer": "mine"}, {"request_id": "r2", "answer": "other"}
    asked = strategy("{% for e in examples %}{{ e.answer }} {% endfor %}", examples=(mine, other))
    assert render(asked, {}, None, request_id="r1")[0]["content"].strip() == "other"
    assert "mine" not in render(strategy("Hi", examples=(mine,)), {}, None, request_id="r1")[0]["content"]
    assert "mine" in render(strategy("Hi", examples=(mine,)), {}, None, request_id="r2")[0]["content"]


@pytest.mark.parametrize(
    ("source", "result"),
    [
        (
            "{% for k, v in d.items() %}{{ loop.index }}{{ k }}{{ v }}{% if not loop.last %},{% endif %}{% endfor %}",
            "1k1,2m2",
        ),
        ("{% for i in l if i > 1 %}{{ i }}{% else %}none{% endfor %}", "23"),
        ("{{ l | map('string') | join('-') }} {{ l | sum }} {{ l | length }} {{ l[::-1] | first }}", "1-2-3 6 3 3"),
        ("{{ (1, 2)[0] }} {{ {'a': [1]}.a }} {{ 3 * 4 + 1 - 7 % 4 }} {{ 'a' * 3 }}", "1 [1] 10 aaa"),
        ("{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}{{ m(a='b') }}", "<1><b>"),
        ("{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}", "<in>"),
        ("{% set ns = namespace(n=0) %}{% for i in l %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        (
            "{{ s | upper | replace('B', 'x') | indent(2, 1) }} {{ s.split('b') }} {{ s | truncate(2, 1, '', 0) }}",
            '  AxC ["a", "c"] ab',
        ),
        ("{{ none }}{{ true }}{{ 1.50 }}{{ 'q' if x is defined else 'u' }}", "true1.5u"),
        (
            "{{ dict(a=1).a }} {{ range(3) | list }} {{ [1] + [3] }} {{ 'a' + 'b' }} {{ [d] | groupby('k') | length }}",
            "1 [0, 1, 2] [1, 3] ab 1",
        ),
    ],
)
def test_ordinary_templates_work(source: str, result: str) -> None:
    assert text(source, d={"k": 1, "m": 2}, l=[1, 2, 3], s="abc") == result


DOUBLE = "{% set x = 'ab' %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60
NEST = "{% set x = [1] %}" + "{% set x = [x, x] %}" * 60


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}" + "x" * 9_000 + "{% endfor %}",
        "{% for i in l %}{% for j in l %}{% for k in l %}{{ k }}{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'a' }}",
        "{{ [1] * 10 ** 9 }}",
        "{{ 9 ** 9 ** 9 }}",
        "{% set ns = namespace(x=2) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set n = namespace(x='ab') %}{% for i in range(99) %}{% set n.x = n.x | replace('a', n.x) %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(99) %}{% set ns.x = (ns.x | list) | string %}{% endfor %}",
        DOUBLE,
        NEST,
        NEST + "{{ x }}",
        NEST.replace("[x, x]", "{'a': x, 'b': x}") + "{{ x }}",
        NEST.replace("[x, x]", "dict(a=x, b=x)") + "{{ x }}",
        NEST.replace("[x, x]", "(x, x)") + "{{ x }}",
        "{% macro m() %}{{ kwargs }}{{ varargs }}{% endmacro %}{{ m(1, a=2) }}",
        "{{ [range(9999) | list] * 9999 }}",
        "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}"
        + "{% call m() %}" * 60
        + "x"
        + "{% endcall %}" * 60,
        "{{ 'x' | center(10 ** 9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ ('{:>1000000000}' | map(attribute='format')) }}",
        "{{ 'x'.ljust(10 ** 9) }}",
        "{{ 'x'['ljust'](10 ** 9) }}",
        "{{ 'x'.replace('', 'y' * 1000000).replace('', 'y' * 1000000) }}",
        "{{ l | batch(10 ** 9, 'x') | list }}",
        "{{ lipsum(n=10 ** 9) }}",
        "{{ 'x' | indent(10 ** 9) | indent(10 ** 9) }}" * 10 + "{{ x }}",
        "{{ l | join('x' * 1000000) }}",
        "{{ 5 | round(-100000000) }}",
        "{{ l | length | round(1000000000, 'ceil') }}",
        "{% set a = 'a' * 2000000 %}{{ a.strip('b' * 2000000 ~ 'a') }}",
        "{% set a = 'a' * 2000000 %}{{ a | trim('b' * 2000000 ~ 'a') }}",
        "{% set a = 'a' * 3000000 %}{{ a.rfind('ab' ~ 'a' * 1000000) }}",
        "{{ ('f' * 4000000) | int(0, 16) // ('f' * 2000000) | int(0, 16) }}",
        "{{ (['x' * 4000000] * 90000) | sort | length }}",
        "{{ (['x' * 4000000] * 90000) | unique | list | length }}",
        "{% set x = 'x' * 4000000 %}{{ (x ~ 'b') in ([x ~ 'a'] * 99999) }}",
        "{{ ([range(10000)] * 9999) | map('select', 'none') | join }}",
        "".join(f"{{% set a{i} = 'x' * 4000000 %}}" for i in range(1000)),
        "{% set s = 'x' * 4000000 %}" + "".join(f"{{% set a{i} = s[1:] %}}" for i in range(1000)),
        "{% set s = 'x' * 4000000 %}" + "".join(f"{{% set a{i} = s.split('x') %}}" for i in range(1000)),
        "{% set n = namespace(x=[]) %}{% for i in range(9999) %}{% set n.x = [n.x, 'x' * 4000000] %}{% endfor %}",
        "{% macro f(s) %}{{ f(s ~ 'x') }}{% endmacro %}{{ f('x' * 3900000) }}",
        "".join(
            f"{{% block b{i} %}}{{{{ self.b{i + 1}() }}}}{{{{ self.b{i + 1}() }}}}{{% endblock %}}" for i in range(40)
        )
        + "{% block b40 %}{% endblock %}",
        "{{ " + "a" * 300_000 + " }}",
    ],
)
def test_no_template_runs_away(source: str) -> None:
    started = time.thread_time()
    with pytest.raises(TemplateError) as caught:
        text(source, l=list(range(60)))
    assert "terse-v2" in str(caught.value) and "r_81f" in str(caught.value)
    assert len(str(caught.value)) < 1_000
    # Not a benchmark: without the bounds these take minutes or all memory.
    assert time.thread_time() - started < 20


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 100_000 + "1" + ")" * 100_000 + " }}",
        "{{ " + "not " * 90_000 + "1 }}",
        "{{ l" + "[0]" * 50_000 + " }}",
        "{{ " + "9" * 300_000 + " }}",
        "{{ 0x" + "f" * 300_000 + " }}",
        "{% for i in l %}" * 25 + "{% endfor %}" * 25,
        "{% if l %}" * 110 + "{% endif %}" * 110,
        "{{ l" + " == l" * 50 + " }}",
        "{{l}}" * 30_000,
        "".join(f"{{% macro m{i}() %}}{{% endmacro %}}" for i in range(1_000)),
    ],
)
def test_a_template_that_cannot_be_compiled_soon_is_refused_where_it_is_declared(source: str) -> None:
    started = time.thread_time()
    with pytest.raises(ConfigError, match="strategies.0: the template is not usable, line 1"):
        check_template(Template("prompt", source, None, ()), "strategies.0")
    assert time.thread_time() - started < 20


@pytest.mark.parametrize(
    "source",
    [
        "{{ '{0.__class__}'.format_map(inputs) }}",
        "{{ [l] | map('attr', '__class__') | list }}",
        "{{ [l] | groupby('__class__.__mro__') }}",
        "{{ [l] | selectattr('__class__') | list }}",
        "{{ (l | map('string')).gi_frame.f_globals }}",
        "{% block a %}{{ self.a._context }}{% endblock %}",
        "{% macro m() %}{% endmacro %}{{ m._func }}",
        "{{ missing._undefined_exception }}",
        "{% set n = namespace() %}{% set n.x = [n] %}{{ n.x | tojson }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}",
        "{{ '' | attr('__class__') }}",
        "{{ l | map(attribute='__class__') | list }}",
        "{{ self.__init__.__globals__ }}",
        "{{ range.__init__ }}",
        "{{ loop.__class__ }}",
        "{% for i in l %}{{ loop.__init__.__globals__ }}{% endfor %}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{% macro m() %}{% endmacro %}{{ m.__globals__ }}{{ m._environment }}",
        "{% include '/etc/passwd' %}",
        "{% import 'x' as y %}",
        "{% extends 'x' %}",
        "{{ l.append(1) }}",
        "{{ inputs.update({'a': 1}) }}",
        "{{ inputs.pop('l') }}",
    ],
)
def test_nothing_outside_can_be_reached_or_changed(source: str) -> None:
    inputs = {"l": [1, 2]}
    with pytest.raises(TemplateError):
        render(strategy(source), inputs, None, request_id="r")
    assert inputs == {"l": [1, 2]}


def test_a_long_recorded_value_may_fill_the_whole_prompt_but_no_more() -> None:
    assert len(text("{{ a }}", a="x" * MAX_CHARS)) == MAX_CHARS
    with pytest.raises(TemplateError, match=f"writes more than {MAX_CHARS:,} characters"):
        text("{{ a }}!{{ b }}", a="x" * MAX_CHARS, b="y")


def test_one_render_does_not_use_up_another() -> None:
    source = "{% for j in range(10) %}{% for i in range(6000) %}{{ i }}{% endfor %}{% endfor %}"
    assert text(source) == text(source)

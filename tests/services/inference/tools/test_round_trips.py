"""What a chat template writes of earlier calls is what its model writes: the reader of its form reads it back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from services.inference.tools.calls import Tool, fold
from services.inference.tools.formats import format_of

TEMPLATES = {
    "hermes": """{% for call in calls %}<tool_call>
{"name": "{{ call.name }}", "arguments": {{ call.arguments | json }}}
</tool_call>{% endfor %}""",
    "qwen3-coder": """{% for call in calls %}
<tool_call>
<function={{ call.name }}>{% for key, value in call.arguments.items() %}
<parameter={{ key }}>
{{ value | json if value is mapping else value }}
</parameter>{% endfor %}
</function>
</tool_call>{% endfor %}""",
    "glm": """{% for call in calls %}<tool_call>{{ call.name }}
{% for key, value in call.arguments.items() %}<arg_key>{{ key }}</arg_key>
<arg_value>{{ value if value is string else value | json }}</arg_value>
{% endfor %}</tool_call>{% endfor %}""",
    "mistral, a list": """[TOOL_CALLS][{% for call in calls %}{{ ", " if not loop.first }}{"name": "{{ call.name }}", \
"arguments": {{ call.arguments | json }}, "id": "123456789"}{% endfor %}]""",
    "mistral, one by one": """{% for call in calls %}[TOOL_CALLS]{{ call.name }}[CALL_ID]123456789[ARGS]\
{{ call.arguments | json }}{% endfor %}""",
    "llama": """{# ipython #}{% for call in calls %}{{ "; " if not loop.first }}{"name": "{{ call.name }}", \
"parameters": {{ call.arguments | json }}}{% endfor %}""",
}
TOOL = Tool(
    "f.g-h",
    {
        "type": "object",
        "properties": {
            "text": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "number": {"type": "integer"},
            "yes": {"type": "boolean"},
            "more": {"type": "object"},
        },
    },
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXT,
        "number": st.integers(-(2**63), 2**63),
        "yes": st.booleans(),
        "more": st.dictionaries(TEXT, TEXT | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
    },
)


@pytest.mark.parametrize("form", TEMPLATES)
def test_calls_of_the_template_are_read_back(form: str) -> None:
    environment = Environment(keep_trailing_newline=True)
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(TEMPLATES[form])
    make = format_of(TEMPLATES[form])
    assert make is not None

    @settings(max_examples=30)
    @given(st.lists(ARGUMENTS, min_size=1, max_size=3))
    def check(made: list[dict[str, Any]]) -> None:
        reader = make((TOOL,))
        text = template.render(calls=[{"name": TOOL.name, "arguments": one} for one in made])
        content, calls = fold([*reader.feed(text), *reader.end()])
        assert (content, [call.name for call in calls]) == ("", [TOOL.name] * len(made))
        assert [json.loads(call.arguments) for call in calls] == made

    check()

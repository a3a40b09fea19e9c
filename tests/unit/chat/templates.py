"""Chat templates in the style of published model families, and conversations for them."""

SYSTEM = {"role": "system", "content": "Answer briefly.\n"}
HELLO = {"role": "user", "content": "  Hello, {{ world }} é😀 <b>&amp;</b>\n\nsecond line  "}
REPLY = {"role": "assistant", "content": 'Good day! "x"\n'}
THOUGHT = {"role": "assistant", "content": "<think>\nlet me see\n</think>\n\nyes", "reasoning_content": "why"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Köln", "days": 2}}}
    ],
}
RESULT = {"role": "tool", "content": '{"degrees": 3.5}', "tool_call_id": "c1", "name": "weather"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather <now> & 'later' in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"enum": [1, 2]}}},
    },
}

CONVERSATIONS = {
    "one": ([HELLO], {}),
    "no_reply": ([HELLO], {"add_generation_prompt": False}),
    "system": ([SYSTEM, HELLO, REPLY, HELLO], {}),
    "thought": ([HELLO, THOUGHT, HELLO], {}),
    "wrong_order": ([HELLO, HELLO], {}),
    "tools": ([SYSTEM, HELLO, CALL, RESULT], {"tools": [TOOL]}),
    "arguments": ([HELLO], {"chat_template_kwargs": {"enable_thinking": False, "date_string": "1 May 2026"}}),
}

TEMPLATES = {
    "chatml": """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "llama2": """
{% if messages[0]['role'] == 'system' %}
    {% set rest = messages[1:] %}{% set intro = '<<SYS>>\\n' + messages[0]['content'].strip() + '\\n<</SYS>>\\n\\n' %}
{% else %}
    {% set rest = messages %}{% set intro = '' %}
{% endif %}
{{ bos_token }}
{% for message in rest %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('user and assistant must take turns') }}
    {% endif %}
    {% if loop.index0 == 0 %}{% set text = intro + message['content'] %}{% else %}{% set text = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}{{ '[INST] ' + text | trim + ' [/INST]' }}
    {% elif message['role'] == 'assistant' %}{{ ' ' + text | trim + ' ' + eos_token }}{% endif %}
{% endfor %}
""",
    "llama3": """
{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("one call only") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{- call.arguments | tojson }}{{- "}" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim }}
    {%- endif %}
    {{- "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    "mistral": """
{%- set ns = namespace(index=0) %}
{%- set system = (messages | selectattr("role", "equalto", "system") | map(attribute="content") | list | first) %}
{%- set loop_messages = messages | rejectattr("role", "equalto", "system") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and tools|length > 0 and ns.index == 0 %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.function.items() %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val|tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system is defined %}{{- "[INST] " + system + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- set out = call.function|tojson %}{{- out[:-1] }}{{- ', "id": "' + call.id + '"}' }}
        {%- endfor %}
        {{- "]" + eos_token }}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] in ["tool_results", "tool"] %}{{- '[TOOL_RESULTS] ' + message.content|string }}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role =
message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
""",
    "phi3": """
{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n'
 + message['content'] + '<|end|>\\n'}}{% elif message['role'] != 'tool' %}{{'<|' + message['role'] + '|>' + '\\n'
 ~ message['content'] ~ '<|end|>\\n'}}{% endif %}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
""",
    "vicuna": """
{% if messages[0]['role'] == 'system' %}{% set lead = messages[0]['content'] | trim + '\\n\\n' %}
{% set messages = messages[1:] %}{% else %}{% set lead = '' %}{% endif %}{{ bos_token + lead }}
{% for message in messages %}
{%- if message['role'] == 'user' %}{{ 'USER: ' + message['content'].strip() + '\\n' }}
{%- elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' ~ message['content'] ~ eos_token + '\\n' }}{% endif %}
{%- if loop.last and message['role'] == 'user' and add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}{% endfor %}
""",
    "alpaca": """
{%- for message in messages -%}
  {%- if message.role == 'user' -%}### Instruction:
{{ message.content|trim -}}{% if not loop.last %}


{% endif -%}
  {%- elif message.role == 'assistant' -%}### Response:
{{ (message.content or 'none')|capitalize }}
  {%- elif loop.first -%}{{ message.content|upper }}{{ "\\n" * 2 }}{% endif %}
{% endfor -%}
{% if add_generation_prompt and messages[-1].role != 'assistant' %}

### Response:
{% endif %}""",
    "deepseek": """
{% set ns = namespace(is_first=false, is_tool=false, system='') %}
{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system = message['content'] %}{%- endif %}
{%- endfor %}{{bos_token}}{{ns.system}}
{%- for message in messages %}
  {%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}
  {%- if message['role'] == 'assistant' and message['content'] is none %}
    {%- for tool in message['tool_calls']%}
      {%- if not ns.is_first %}{{'<｜Assistant｜><｜calls｜>' + tool['type'] + '\\n' + tool['function']['name']}}
      {%- set ns.is_first = true -%}{%- endif %}
    {%- endfor %}
  {%- endif %}
  {%- if message['role'] == 'assistant' and message['content'] is not none %}
    {% set content = message['content'] %}
    {% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}
    {{'<｜Assistant｜>' + content + '<｜end｜>'}}
  {%- endif %}
{%- endfor -%}
{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}
""",
    "qwen3": """
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string
        and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}{%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if message.reasoning_content is string %}{%- set reasoning = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {%- for tool_call in message.tool_calls or [] %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' ~ tool_call.name ~ '", "arguments": ' }}
            {%- if tool_call.arguments is string %}{{- tool_call.arguments }}
            {%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif message.role == "user" or not tools %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""",
    "harmony": """
{%- macro type_of(spec, optional=false) -%}
    {%- if spec.enum is defined -%}{{ '"' + spec.enum|join('" | "') + '"' }}
    {%- elif spec.type == "string" -%}string{%- if optional %} | null{% endif -%}
    {%- elif spec.type is iterable and spec.type is not string -%}{{ spec.type|join(" | ") }}
    {%- else -%}any{%- endif -%}
{%- endmacro -%}
{%- macro namespace_of(tools) -%}
    {%- for tool in tools %}
{{ "// " + tool.function.description + "\\n" }}
{{- "type " + tool.function.name + " = (_: {\\n" }}
        {%- for name, spec in tool.function.parameters.properties.items() %}
{{- name + "?: " }}{{- type_of(spec, optional=name not in (tool.function.parameters.required or [])) }}
            {%- if not loop.last %},{% endif %}{{- "\\n" }}
        {%- endfor %}
}) => any;
    {%- endfor %}
{%- endmacro -%}
<|start|>system<|message|>Reasoning: {{ reasoning_effort | default("medium") }}<|end|>
{%- if tools %}{{- namespace_of(tools) }}{%- endif %}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and message.thinking is defined and not loop.last %}
        {{- "<|start|>assistant<|channel|>analysis<|message|>" + message.thinking + "<|end|>" }}
    {%- endif %}
    {%- if message.role == 'tool' %}{{- "<|start|>functions<|message|>" + message.content|tojson + "<|end|>" }}
    {%- elif message.content %}{{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
    {%- endif %}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
""",
    "smollm3": """
{# devices: a generation block, filter blocks, joined lists, break and continue #}
{%- for message in messages -%}
    {%- if message.role == "tool" -%}{%- continue -%}{%- endif -%}
    {%- if message.role == "assistant" -%}
        {% generation %}{{- "<|a|>" + (message.content or "") }}{% endgeneration %}
    {%- else -%}
        {{ ["<|", message.role, "|>"] | join("") }}{% filter trim %}  {{ message.content }}  {% endfilter %}
    {%- endif %}
    {%- if loop.index > 5 %}{% break %}{% endif %}
    {%- set words = message.content.split() if message.content else [] %}
    {{ words | length }}/{{ words | unique | sort | first if words else "-" }}:{{ loop.revindex }}
{% endfor -%}
{{ tools | map(attribute="function.name") | join(",") if tools else "no tools" }}{{ (3, "x", true, none, 1.5) }}
""",
}

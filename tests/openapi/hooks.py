"""Hooks of Schemathesis, for what the description cannot express."""

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    """Skips requests that are invalid only because of an undescribed header: HTTP allows any header."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schemathesis.hook
def before_call(context, case, kwargs):
    """Raises deadlines to a minute: whether a shorter one is missed depends on the machine."""
    for fields, name, raised in [(case.body, "timeout_ms", 60_000), (case.headers, "podium-timeout-ms", "60000")]:
        if hasattr(fields, "get") and str(fields.get(name)).isdigit() and 1 <= int(fields[name]) < 60_000:
            fields[name] = raised

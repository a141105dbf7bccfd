"""What the description cannot say to its tester."""

import schemathesis


@schemathesis.hook
def filter_case(context, case):
    """No header is forbidden in HTTP: one that nobody described makes no request wrong."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schemathesis.hook
def before_call(context, case, kwargs):
    """A deadline that can be missed says more of the machine than of the description: it becomes a minute."""
    for fields, name in [(case.body, "timeout_ms"), (case.headers, "podium-timeout-ms")]:
        if hasattr(fields, "get") and str(fields.get(name)).isdigit() and 1 <= int(fields[name]) < 60_000:
            fields[name] = 60_000 if isinstance(fields[name], int) else "60000"

"""Posts the example of every operation to the server at URL. Each must get 200.

    python examples.py URL OPENAPI_JSON
"""

import json
import sys
import urllib.request

url, path = sys.argv[1:]
with open(path, encoding="utf-8") as file:
    paths = json.load(file)["paths"]
count = 0
for path, item in paths.items():
    if "post" in item:
        example = item["post"]["requestBody"]["content"]["application/json"]["example"]
        body, headers = json.dumps(example).encode(), {"content-type": "application/json"}
        # The variable parts of a path may be anything.
        address = url + path.replace("{", "").replace("}", "")
        with urllib.request.urlopen(urllib.request.Request(address, body, headers)) as reply:
            assert reply.status == 200, f"{path}: {reply.status}"
        count += 1
print(f"{count} examples got 200")
assert count

"""Holds answers of the REST API to its description: check_answers.py DESCRIPTION ANSWERS.

ANSWERS is a list of {"method", "path" (as in the description), "status", "type" (Content-Type), "body"}.
"""

import json
import sys

try:
    import jsonschema_rs
except ImportError:
    sys.exit("the Python module jsonschema_rs is missing: scripts/test installs it (package schemathesis)")

description = json.load(open(sys.argv[1]))
answers = json.load(open(sys.argv[2]))
wrong = []
for answer in answers:
    name = f"{answer['method']} {answer['path']} {answer['status']}"
    operation = description["paths"][answer["path"]][answer["method"].lower()]
    response = operation["responses"][str(answer["status"])]
    if "$ref" in response:
        response = description["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    media = answer["type"].split(";")[0]
    content = response["content"].get(media)
    if content is None:
        wrong.append(f"{name}: the type {answer['type']!r} is not described")
        continue
    body = json.loads(answer["body"]) if media == "application/json" else answer["body"]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "components": description["components"],
        **content["schema"],
    }
    for error in jsonschema_rs.validator_for(schema).iter_errors(body):
        wrong.append(f"{name}: {error.message} at {list(error.instance_path)}")
print("\n".join(wrong) if wrong else f"{len(answers)} answers are as described")
sys.exit(bool(wrong))

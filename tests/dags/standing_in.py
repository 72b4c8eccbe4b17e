"""A small program that keeps to the commands' contract in their place, for tests of what Airflow makes of their answers."""

from __future__ import annotations

import sys

MISSING = (
    "Scene 'Run' has no labelled window in cohort 'town' at lake version 12; 5 are needed, see [data] min_windows."
)
REAL = "few"
"""The cohort for which the real commands run: it has too few labels."""
TOO_FEW = "40 labelled windows of cohort 'city' are new; 60 more are needed."
REASON = "The recovery ratio is 0.930, 0.030 above the threshold 0.9."
BEHIND = "Champion of cohort 'city' is version 2: recovery ratio 0.600, below [care] recovery_threshold = 0.75: it has fallen behind."
TASKS = ("pin", "open_run", "make_room", "shards", "embed", "cohort.rescore", "cohort.finetune", "cohort.evaluate", "cohort.gate",
         "cohort.approve", "cohort.promote", "clear_room", "close_run")  # fmt: skip

STAND_IN = f"""#!{sys.executable} -S
import json, os, pathlib, sys

place, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
calls = place / "calls.jsonl"
before = [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
with calls.open("a") as file:
    file.write(json.dumps(arguments) + "\\n")

if {REAL!r} in arguments and arguments[0] != "track":  # there is no MLflow
    os.execv(sys.executable, [sys.executable, "-m", "sensorloop", *arguments])

def end(text, exit_code):
    print(text, file=sys.stderr)
    sys.exit(exit_code)

def option(name):
    return arguments[arguments.index(name) + 1]

def every(name):
    return [value for key, value in zip(arguments, arguments[1:]) if key == name]

versions = {{"lake_version": 12, "labels_version": 3}}
print("reading", *arguments, file=sys.stderr, flush=True)
match arguments:
    case ["lake", "pin", *_]:
        enough = place / "enough"
        if option("--min-windows") == "100" and "--force" not in arguments and not enough.exists():
            end({TOO_FEW!r}, 99)
        enough.unlink(missing_ok=True)
        answer = {{"cohorts": [{{"cohort": cohort, **versions, "fresh": 100}} for cohort in every("--cohort")]}}
    case ["lake", "shards", *_]:
        answer = {{"shards": [{{"fleet": "city", "day": f"2026-01-0{{day}}", **versions}} for day in (1, 2)]}}
    case ["track", *_]:
        answer = {{"mlflow_run_id": "above", "mlflow_url": "http://127.0.0.1:25000/#/above"}}
    case ["scratch", *_]:
        answer = {{"folder": str(place)}}
    case ["embed", *_]:
        if option("--day").endswith("02") and arguments not in before:
            end("error: the lake does not answer", 4)
        answer = {{"windows": 100, "embedded": 100}}
    case ["rescore", *_]:
        if option("--seed") == "3" and option("--cohort") == "town" and not (place / "mended").exists():
            end("error: " + {MISSING!r}, 3)
        answer = {{"run_key": option("--cohort") + "-s" + option("--seed"), "run_dir": os.environ["TMPDIR"]}}
    case ["finetune", *_]:
        answer = {{"run_key": option("--run-key"), "mlflow_run_id": "abc", "mlflow_url": "http://127.0.0.1:25000/#/abc",
                  "results": str(place / "results.json")}}
    case ["evaluate", *_]:
        answer = {{"run_key": option("--run-key"), "arm": option("--arm"), "candidate": {{"accuracy": 0.9}}}}
    case ["gate", *_]:
        key = option("--run-key")
        answer = {{"passed": "refused" not in key, "judged": False, "version": "2", "champion": "1", "reasons": [{REASON!r}],
                  "run_key": key, "cohort": key.partition("-")[0], "arm": option("--arm"), "version_url": "http://127.0.0.1:25000/#/models/2"}}
    case ["promote", *_]:
        answer = {{"passed": "--rejected-by" not in arguments, "version": "2", "champion": "2", "reasons": []}}
    case ["watch", *_]:
        answer = {{"behind": [{{"cohort": "city", "version": "2", "recovery_ratio": 0.6, "due": True, "text": {BEHIND!r}, **versions}},
                            {{"cohort": "town", "version": "4", "recovery_ratio": 0.7, "due": False, "text": "Judged.", **versions}}]}}
    case _:
        answer = {{}}
print("not the answer")
print(json.dumps(answer))
"""

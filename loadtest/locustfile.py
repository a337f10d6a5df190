"""Load on ferry's HTTP API: the console, /process, runs, and records that are pushed.

    docker compose up            # or scripts/cluster up, which says where it listens
    pip install -r loadtest/requirements.txt
    locust -f loadtest/locustfile.py                      # then http://localhost:8089
    locust -f loadtest/locustfile.py --headless -u 50 -r 10 -t 1m --host http://localhost:8080

--think 0.5 lets every user wait half a second between two requests; without it they do not wait. FERRY_API_KEY is
sent when it is set. The exit code is 1 when a request failed. The pipelines are those of loadtest/ferry.yaml; with
--pushes "" or --runs "" nothing is pushed or run, for a configuration that has no pipeline of that name.
"""

import os
import uuid

from locust import FastHttpUser, constant, events, task


@events.init_command_line_parser.add_listener
def _(parser):
    parser.add_argument("--think", type=float, default=0.0, help="seconds between two requests of a user")
    parser.add_argument("--runs", default="orders", help="pipeline to start runs of")
    parser.add_argument("--pushes", default="events", help="pipeline to push records to")


class Caller(FastHttpUser):
    host = "http://localhost:8080"
    network_timeout = 90.0
    connection_timeout = 10.0

    def wait_time(self):
        return constant(self.environment.parsed_options.think)(self)

    def on_start(self):
        key = os.environ.get("FERRY_API_KEY")
        self.headers = {"X-API-Key": key} if key else {}

    def ask(self, method, path, name, check=None, **arguments):
        with self.client.request(method, path, name=name, headers=self.headers, catch_response=True, **arguments) as answer:
            if answer.status_code not in (200, 202):
                answer.failure(f"{answer.status_code}: {answer.text[:200]}")
            elif check is not None and not check(answer.json()):
                answer.failure(f"not what was expected: {answer.text[:200]}")

    @task(20)
    def process(self):
        self.ask("GET", "/process", "/process", lambda a: a["message"] == "Data processed")

    @task(10)
    def push(self):
        if pipeline := self.environment.parsed_options.pushes:
            self.ask(
                "POST",
                f"/v1/pipelines/{pipeline}/records",
                "/v1/pipelines/{name}/records",
                lambda a: a["published"] == 1,
                json={"id": str(uuid.uuid4())},
            )

    @task(2)
    def console(self):
        self.ask("GET", "/", "/")

    @task(1)
    def start_run(self):
        if pipeline := self.environment.parsed_options.runs:
            self.ask("POST", f"/v1/pipelines/{pipeline}/runs", "/v1/pipelines/{name}/runs")

"""A stand-in for Kaggle on http://localhost:7777, for the official client.

By hand, in one terminal (a titanic-shaped competition of made-up passengers; `--data DIR` and
`--answers FILE` serve your own tables, with the answers to score against as a CSV of two columns):

    python packages/mlx-kaggle/tests/kaggle_server.py

and in another, in an empty folder:

    export KAGGLE_API_ENVIRONMENT=TEST KAGGLE_USERNAME=ada KAGGLE_KEY=stand-in-key
    mlx-kaggle download titanic
    mlx-kaggle train --train titanic/train.csv --members trees,linear --output runs/titanic
    mlx-kaggle predict --run runs/titanic --test titanic/test.csv --output submission.csv
    mlx-kaggle submit titanic submission.csv --run runs/titanic
    mlx-kaggle kaggle submissions titanic

It answers the calls that `kaggle` 2.2 makes for these commands, with the status codes and the
redirects to signed addresses of Kaggle, and scores submissions: accuracy against hidden answers.
"""

import argparse
import base64
import csv
import io
import json
import random
import re
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ADDRESS = ("127.0.0.1", 7777)
USER, KEY, TOKEN = "ada", "stand-in-key", "KGAT_stand_in_token"
SERVICE = "/api/v1/competitions.CompetitionApiService/"
RULES = "You must accept this competition's rules before you'll be able to download files."


def titanic(rows: int = 200, asked: int = 60, seed: int = 0) -> tuple[dict[str, bytes], dict]:
    """Return the files of a titanic-shaped competition, and its hidden answers by id."""
    draw = random.Random(seed)
    lines = []
    for number in range(1, rows + asked + 1):
        sex, pclass = draw.choice(("male", "female")), draw.randint(1, 3)
        survived = int((sex == "female" and pclass < 3) != (draw.random() < 0.1))
        age = "" if number % 7 == 0 else draw.randint(1, 79)
        lines.append((number, survived, pclass, sex, age, round(draw.gammavariate(2, 15), 2)))
    names = ("PassengerId", "Survived", "Pclass", "Sex", "Age", "Fare")
    train, test = lines[:rows], lines[rows:]
    files = {
        "gender_submission.csv": [names[:2], *((n, int(s == "female")) for n, _, _, s, *_ in test)],
        "test.csv": [names[:1] + names[2:], *((each[0], *each[2:]) for each in test)],
        "train.csv": [names, *train],
    }
    answers = {str(number): str(survived) for number, survived, *_ in test}
    return {name: _as_csv(table) for name, table in files.items()}, answers


def _as_csv(rows: list) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


@dataclass
class Competition:
    """A competition, what its user sent, and the faults that a test asks for."""

    name: str
    files: dict[str, bytes]
    answers: dict[str, str]
    rules_accepted: bool = True
    limit: int = 10
    polls: int = 1
    """How often a new submission is still pending when asked for."""
    faults: list[str] = field(default_factory=list)
    """Each happens once: cut download, cut upload, fail upload, fail create, fail list; `busy` (of
    downloads that go on) as long as it is here."""
    extra_members: dict[str, bytes] = field(default_factory=dict)
    """In the archive, but not in the list of files."""
    calls: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    submissions: list[dict[str, Any]] = field(default_factory=list)

    def fails(self, fault: str) -> bool:
        """Whether this fault was asked for; then it is over."""
        found = fault in self.faults
        if found:
            self.faults.remove(fault)
        return found

    def archive(self) -> bytes:
        """Return the ZIP file of all files."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in (self.files | self.extra_members).items():
                file.writestr(zipfile.ZipInfo(name), content)
        return packed.getvalue()

    def score(self, blob: bytes) -> tuple[float | None, str]:
        """Return the accuracy of a file, or why it has none."""
        rows = list(csv.reader(io.StringIO(blob.decode())))
        given = dict(row for row in rows[1:] if len(row) == 2)
        if len(rows) - 1 != len(self.answers) or set(given) != set(self.answers):
            return None, f"Submission must have {len(self.answers)} rows with the ids of the sample"
        right = sum(given[key] == answer for key, answer in self.answers.items())
        return right / len(self.answers), ""

    def submit(self, token: str, message: str) -> dict[str, Any]:
        """Score an uploaded file."""
        score, error = self.score(self.blobs[token])
        found = {
            "ref": 5000 + len(self.submissions),
            "date": _now(),
            "description": message,
            "fileName": self.names[token],
            "totalBytes": len(self.blobs[token]),
            "submittedBy": USER,
            "polls": self.polls,
            "final": {"status": "ERROR", "errorDescription": error}
            if score is None
            else {"status": "COMPLETE", "publicScore": f"{score:.5f}"},
        }
        self.submissions.insert(0, found)
        return found


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _seen(submission: dict[str, Any]) -> dict[str, Any]:
    """Return a submission as the API shows it: pending at first."""
    shown = {name: each for name, each in submission.items() if name not in ("polls", "final")}
    submission["polls"] -= 1
    return shown | ({"status": "PENDING"} if submission["polls"] >= 0 else submission["final"])


class Refusal(Exception):
    """An answer with an error status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One connection of the client."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *arguments: object) -> None:
        if self.server.shown:
            super().log_message(format, *arguments)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        asked = json.loads(self.rfile.read(length) or b"{}")
        try:
            if self.path.endswith("/IntrospectToken"):
                known = asked.get("token") == TOKEN
                self._json({"active": known, "username": USER} if known else {"active": False})
                return
            self._check_user()
            if not self.path.startswith(SERVICE):
                raise Refusal(404, "Not found")
            method = self.path.removeprefix(SERVICE)
            competition = self.server.competition
            competition.calls.append(method)
            name = asked.get("competitionName", competition.name)
            if name != competition.name:
                raise Refusal(404, "Competition not found")
            if not competition.rules_accepted and method != "GetLeaderboard":
                raise Refusal(403, RULES)
            getattr(self, f"call_{method}")(competition, asked)
        except Refusal as error:
            self._json({"code": error.status, "message": str(error)}, error.status)

    def _check_user(self) -> None:
        kind, _, given = (self.headers.get("Authorization") or "").partition(" ")
        basic = base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if (kind, given) not in (("Bearer", TOKEN), ("Basic", basic)):
            raise Refusal(401, "Unauthenticated")

    def call_ListDataFiles(self, competition: Competition, asked: dict) -> None:
        if competition.fails("fail list"):
            raise Refusal(500, "Internal error")
        # Two a page, so that the client must go on.
        names, start = sorted(competition.files), int(asked.get("pageToken") or 0)
        page = [
            {"name": name, "totalBytes": len(competition.files[name]), "creationDate": _now()}
            for name in names[start : start + 2]
        ]
        after = {"nextPageToken": str(start + 2)} if start + 2 < len(names) else {}
        self._json({"files": page, **after})

    def call_DownloadDataFiles(self, competition: Competition, asked: dict) -> None:
        self._redirect(f"/storage/{competition.name}.zip?signature=s3cret")

    def call_DownloadDataFile(self, competition: Competition, asked: dict) -> None:
        if asked["fileName"] not in competition.files:
            raise Refusal(404, "File not found")
        # As Kaggle does with large files: train.csv comes as train.csv.zip.
        packed = ".zip" if asked["fileName"] == "train.csv" else ""
        self._redirect(f"/storage/{asked['fileName']}{packed}?signature=s3cret")

    def call_StartSubmissionUpload(self, competition: Competition, asked: dict) -> None:
        token = f"blob-{len(competition.names)}"
        competition.names[token] = asked["fileName"]
        host, port = "localhost", self.server.server_address[1]
        self._json({"token": token, "createUrl": f"http://{host}:{port}/upload/{token}"})

    def call_CreateSubmission(self, competition: Competition, asked: dict) -> None:
        if competition.fails("fail create"):
            raise Refusal(503, "Service unavailable")
        if asked["blobFileTokens"] not in competition.blobs:
            raise Refusal(400, "The file was not uploaded")
        if len(competition.submissions) >= competition.limit:
            raise Refusal(400, "Submission limit reached")
        message = asked.get("submissionDescription", "")
        found = competition.submit(asked["blobFileTokens"], message)
        self._json({"message": "Successfully submitted", "ref": found["ref"]})

    def call_GetSubmission(self, competition: Competition, asked: dict) -> None:
        for each in competition.submissions:
            if each["ref"] == asked["ref"]:
                return self._json(_seen(each))
        raise Refusal(404, "Submission not found")

    def call_ListSubmissions(self, competition: Competition, asked: dict) -> None:
        self._json({"submissions": [_seen(each) for each in competition.submissions]})

    def call_GetSubmissionLimits(self, competition: Competition, asked: dict) -> None:
        used = len(competition.submissions)
        left = {"numAllowedNow": competition.limit - used}
        self._json({"numToday": used, "numTotal": used, **left})

    def call_GetLeaderboard(self, competition: Competition, asked: dict) -> None:
        mine = [each["final"].get("publicScore", "0") for each in competition.submissions]
        teams = [("gender model", "0.76555"), *([(USER, max(mine))] if mine else [])]
        teams.sort(key=lambda each: -float(each[1]))
        rows = [
            {"teamId": number, "teamName": name, "submissionDate": _now(), "score": score}
            for number, (name, score) in enumerate(teams)
        ]
        self._json({"submissions": rows})

    def do_GET(self) -> None:
        competition = self.server.competition
        found = re.fullmatch(r"/storage/([^?]+)\?signature=s3cret", self.path)
        name = found[1] if found else ""
        if name == f"{competition.name}.zip":
            content = competition.archive()
        elif name.removesuffix(".zip") in competition.files:
            inner = name.removesuffix(".zip")
            content = competition.files[inner]
            if name != inner:
                content = Competition("", {inner: content}, {}).archive()
        else:
            return self._json({"code": 404, "message": "Not found"}, 404)
        self._content(competition, content)

    def _content(self, competition: Competition, content: bytes) -> None:
        """Answer with a file, from the byte that the client asks for."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        if wanted:
            competition.calls.append("range")
            if "busy" in competition.faults:
                return self._json({"code": 429, "message": "Busy"}, 429, {"Retry-After": "0"})
        self.send_response(206 if wanted else 200)
        if wanted:
            end = len(content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Sat, 01 Nov 2025 00:00:00 GMT")
        self.end_headers()
        cut = competition.fails("cut download")
        self.wfile.write(content[start : len(content) // 2 if cut else None])
        self.close_connection |= cut

    def do_PUT(self) -> None:
        competition, length = self.server.competition, int(self.headers["Content-Length"])
        token = self.path.removeprefix("/upload/")
        competition.calls.append("PUT")
        if competition.fails("cut upload"):
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        content = self.rfile.read(length)
        if token not in competition.names or competition.fails("fail upload"):
            return self._json({"code": 500, "message": "Internal error"}, 500)
        competition.blobs[token] = content
        self._json({})

    def _json(self, values: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _redirect(self, address: str) -> None:
        self.send_response(302)
        self.send_header("Location", address)
        self.send_header("Content-Length", "0")
        self.end_headers()


class Server(ThreadingHTTPServer):
    """Serves one competition; raises `OSError` if the port is taken."""

    def __init__(self, competition: Competition, shown: bool = False):
        super().__init__(ADDRESS, Handler)
        self.competition, self.shown = competition, shown


@contextmanager
def serving(competition: Competition) -> Iterator[None]:
    """Serve in a thread."""
    with Server(competition) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield
        server.shutdown()
        thread.join()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--name", default="titanic", help="of the competition")
    parser.add_argument("--data", type=Path, help="folder of its files; made up without it")
    parser.add_argument("--answers", type=Path, help="CSV of ids and answers; needed with --data")
    parser.add_argument("--rules-not-accepted", action="store_true")
    given = parser.parse_args()
    if given.data:
        if not given.answers:
            parser.error("--data needs --answers")
        files = {path.name: path.read_bytes() for path in given.data.iterdir() if path.is_file()}
        rows = list(csv.reader(given.answers.read_text("utf-8").splitlines()))
        answers = dict(row[:2] for row in rows[1:])
    else:
        files, answers = titanic()
    competition = Competition(given.name, files, answers, not given.rules_not_accepted)
    print(__doc__)
    with Server(competition, shown=True) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

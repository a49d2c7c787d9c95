"""The Kaggle API through its official client, with errors that say what to do.

The client finds the credentials by its own rules; this module never reads or writes them. Facts
about the client below are of its version 2.2.5.
"""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_kaggle.tables.competition import as_number

logger = logging.getLogger(__name__)

SITE = "https://www.kaggle.com"
# More pages of the list of files are not read: a competition of images has thousands.
MOST_PAGES, PAGE_SIZE = 10, 100
CREDENTIALS = (
    f"create a token at {SITE}/settings/api and set KAGGLE_API_TOKEN, or save it in "
    f"~/.kaggle/access_token (or run: kaggle auth login)"
)
INSTALL = "the Kaggle client is not installed ({error}): pip install 'mlx-kaggle[kaggle]'"
UNCERTAIN = (
    "; whether Kaggle has the submission is not known, so before you send it again look at: "
    "mlx-kaggle kaggle submissions {competition}"
)


class KaggleError(ValueError):
    """Kaggle cannot be asked, or refuses; the message says what to do."""


class Kaggle:
    """The competitions of Kaggle, for whom the client finds credentials.

    Raises `KaggleError` if the client is not installed, has no valid credentials or no network.
    """

    def __init__(self) -> None:
        # Importing it authenticates, and prints an explanation where that fails.
        with _explained("Kaggle"):
            import kaggle  # pyright: ignore[reportMissingImports]

            testing = os.environ.get("KAGGLE_API_ENVIRONMENT") == "TEST"
            self.api: Any = _stand_in_api() if testing else kaggle.api
            if "auth_method" not in self.api.config_values:
                try:
                    self.api.authenticate()
                except SystemExit:
                    raise KaggleError(
                        f"no Kaggle credentials, or Kaggle does not know them; {CREDENTIALS}"
                    ) from None

    def files(self, competition: str) -> tuple[list[dict[str, Any]], bool]:
        """Return name, bytes and date of the files, and whether these are all."""
        found: list[dict[str, Any]] = []
        token = None
        for _ in range(MOST_PAGES):
            with _explained(competition):
                answer = self.api.competition_list_files(competition, token, PAGE_SIZE)
            found += [
                {"name": each.name, "bytes": each.total_bytes, "date": _time(each.creation_date)}
                for each in answer.files
            ]
            token = answer.next_page_token
            if not token:
                return found, True
        return found, False

    def fetch(self, competition: str, name: str | None, folder: Path) -> Path:
        """Download the archive of all files, or one file, into an empty folder; return its path.

        The client continues a download that breaks, five times. A large file comes as `name.zip`.
        """
        options = {"force": True, "quiet": not sys.stderr.isatty()}
        with _explained(competition):
            if name is None:
                self.api.competition_download_files(competition, str(folder), **options)
            else:
                self.api.competition_download_file(competition, name, str(folder), **options)
        (found,) = (each for each in folder.rglob("*") if each.is_file())
        return found

    def limits(self, competition: str) -> dict[str, Any]:
        """Return the submissions of today, of all time, and how many are left now."""
        with _explained(competition):
            found = self.api.competition_get_submission_limits(competition)
        return {
            "today": found.num_today,
            "total": found.num_total,
            "left": found.num_allowed_now,
            "limited_by_total": found.limited_by_total,
        }

    def submissions(self, competition: str, count: int = 20) -> list[dict[str, Any]]:
        """Return the latest submissions, the newest first."""
        with _explained(competition):
            found = self.api.competition_submissions(competition, page_size=count)
        return [_submission(each) for each in found or []]

    def leaderboard(self, competition: str, count: int = 20) -> list[dict[str, Any]]:
        """Return the first teams of the public leaderboard."""
        with _explained(competition):
            found = self.api.competition_leaderboard_view(competition, page_size=count)
        return [
            {"rank": rank, "team": each.team_name, "score": _score(each.score),
             "date": _time(each.submission_date)}
            for rank, each in enumerate(found or [], 1)
        ]  # fmt: skip

    def submit(self, competition: str, file: Path, message: str) -> int:
        """Upload a file and submit it; return its reference, 0 if Kaggle names none."""
        with _explained(competition, UNCERTAIN.format(competition=competition)):
            answer = self.api.competition_submit(
                str(file), message, competition, quiet=not sys.stderr.isatty()
            )
        # The client prints why an upload failed, and returns this instead of raising.
        if answer.message == self.api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
            raise KaggleError(f"the upload of {file} failed, and nothing was submitted; try again")
        return answer.ref

    def submission(self, competition: str, ref: int) -> dict[str, Any] | None:
        """Return a submission; `None` while Kaggle does not show it yet."""
        try:
            with _explained(competition):
                return _submission(self.api.get_submission(ref))
        except _NotFound:
            return None


class _NotFound(KaggleError):
    pass


def _submission(found: Any) -> dict[str, Any]:
    return {
        "ref": found.ref,
        "date": _time(found.date),
        "file": found.file_name,
        "message": found.description,
        "status": found.status.name.lower(),
        "public_score": _score(found.public_score),
        "private_score": _score(found.private_score),
        "error": found.error_description or None,
    }


def _score(text: str) -> float | str | None:
    number = as_number(text)
    return (text or None) if number is None else number


def _time(found: Any) -> str | None:
    return found.isoformat(timespec="seconds") if found else None


def _stand_in_api() -> Any:
    """Return the client for http://localhost:7777.

    KAGGLE_API_ENVIRONMENT=TEST names that endpoint in the client's SDK, but `KaggleApi` passes it
    the endpoint of Kaggle whatever the variable says.
    """
    from kaggle.api.kaggle_api_extended import (  # pyright: ignore[reportMissingImports]
        KaggleApi,
        KaggleClient,
        KaggleEnv,
    )

    class StandInApi(KaggleApi):
        def build_kaggle_client(self) -> Any:
            found: Any = self.config_values
            return KaggleClient(
                env=KaggleEnv.TEST,
                username=found.get(self.CONFIG_NAME_USER),
                password=found.get(self.CONFIG_NAME_KEY),
                api_token=found.get(self.CONFIG_NAME_TOKEN),
                response_processor=self.get_response_processor(),
            )

    return StandInApi()


@contextlib.contextmanager
def _explained(competition: str, doubt: str = "") -> Iterator[None]:
    """Turn the client's errors into `KaggleError`, and keep what it prints off standard output.

    No message has the text of a connection error: it may contain a signed address. `doubt` is added
    where a request may have succeeded though its answer did not arrive.
    """
    try:
        import requests  # pyright: ignore[reportMissingModuleSource]
    except ModuleNotFoundError as error:
        raise KaggleError(INSTALL.format(error=error)) from None
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except ModuleNotFoundError as error:
        raise KaggleError(INSTALL.format(error=error)) from None
    except requests.HTTPError as error:
        raise _refusal(error, competition, doubt) from error
    except requests.RequestException as error:
        raise KaggleError(
            f"no answer from Kaggle ({type(error).__name__}); is there a network?{doubt}"
        ) from error
    except json.JSONDecodeError as error:
        raise KaggleError(f"the answer is not from Kaggle, as it is no JSON: is a proxy or a "
                          f"login page between?{doubt}") from error  # fmt: skip
    finally:
        for line in filter(None, map(str.strip, printed.getvalue().splitlines())):
            # A warning of the client is that others can read kaggle.json.
            logger.log(logging.WARNING if line.startswith("Warning") else logging.DEBUG, line)


def _refusal(error: Any, competition: str, doubt: str) -> KaggleError:
    """Say what a status means and what to do."""
    response = error.response
    status = 0 if response is None else response.status_code
    said = _words_of(response)
    if status == 401:
        return KaggleError(f"Kaggle does not accept the credentials (401{said}); {CREDENTIALS}")
    if status == 403:
        return KaggleError(
            f"Kaggle refuses access to {competition!r} (403{said}); accept its rules at "
            f"{SITE}/competitions/{competition}/rules with the account of the credentials"
        )
    if status == 404:
        return _NotFound(
            f"Kaggle knows no {competition!r} (404{said}); take the name from the competition's "
            f"address: {SITE}/competitions/NAME"
        )
    if status == 429:
        return KaggleError(f"too many requests to Kaggle (429{said}); wait, and try again")
    if status >= 500:
        return KaggleError(f"Kaggle fails at the moment ({status}{said}); try again later{doubt}")
    return KaggleError(f"Kaggle refuses the request ({status}{said})")


def _words_of(response: Any) -> str:
    """Return the message of an answer in JSON, after a colon."""
    try:
        message = response.json().get("message")
    except (AttributeError, ValueError):
        return ""
    return f": {message}" if isinstance(message, str) and message else ""

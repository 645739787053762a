"""VCG-Bench answers scored from 0 to 5 by a model behind an OpenAI-compatible endpoint.

The user names the endpoint and the model; nothing is sent anywhere else, and nothing without being
asked to. Questions, right answers and predictions are sent, no videos. Judging reads a finished or
unfinished run and appends to its ``judgements.jsonl``, so it needs no video model and can be
stopped and resumed by itself. Lost connections and busy servers are retried by the client library,
with growing pauses; a reply without a score is recorded as such, reported, and asked again next
time. Requests ask for temperature 0; a model that refuses it is asked at its own.

The wording of the requests is this project's own: scores compare methods judged by the same model.
They are near the paper's only as far as the judge is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunevid_kernels.adapters.checkpoint.json_text import parse_json, read_bytes

from ..datasets.sample import Sample
from ..datasets.vcgbench import DIMENSIONS
from ..support.terminal import Progress
from .judge_replies import parse_score
from .run_log import JUDGEMENTS, Judgement, Record, Run, append_lines

if TYPE_CHECKING:
    from openai import OpenAI

SETTINGS = "judge.json"
MAX_RETRIES = 6  # the client's pauses grow from half a second to eight
REQUESTS_AT_ONCE = 8

_SYSTEM = (
    "You grade answers that a model gave to questions about a video. You do not see the video: the"
    " reference answer is what is true. Synonyms and other words for the same thing are fine.\n"
    "{criterion}\n"
    "Give one number from 0 (nothing is right) to 5 (everything is right). Reply with a JSON object"
    ' and nothing else: {{"score": 3.5}}'
)
_CRITERIA = {
    "CI": "Grade correctness of information: are the facts of the answer those of the reference,"
    " with nothing invented and nothing misread?",
    "DO": "Grade detail orientation: does the answer cover all major points of the reference, and"
    " are its details specific to the video rather than general?",
    "CU": "Grade contextual understanding: does the answer fit the overall story and the main theme"
    " that the reference tells?",
    "TU": "Grade temporal understanding: are events in the same order as in the reference, and do"
    " its statements about time agree?",
    "CO": "The same question was asked twice in other words. Grade consistency: do both answers say"
    " the same, and do they agree with the reference?",
}


class JudgeError(ValueError):
    """Judging that cannot begin or go on; the message is one line."""


@dataclass(frozen=True)
class Request:
    """What one judgement is about: a question and its answer, or a pair of them.

    Attributes:
        id: dimension and question.
        questions, predictions: one of each, or two for consistency.
        reference: the right answer.
    """

    id: str
    dimension: str
    questions: tuple[str, ...]
    predictions: tuple[str, ...]
    reference: str

    def messages(self) -> list[dict[str, str]]:
        """The conversation that is sent."""
        numbers = ("",) if len(self.questions) == 1 else (" 1", " 2")
        lines = [f"Question{n}: {text}" for n, text in zip(numbers, self.questions, strict=True)]
        lines.append(f"Reference answer: {self.reference}")
        lines += [
            f"Answer{n}: {text or '(empty)'}"
            for n, text in zip(numbers, self.predictions, strict=True)
        ]
        system = _SYSTEM.format(criterion=_CRITERIA[self.dimension])
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": "\n".join(lines)},
        ]


def requests(samples: Sequence[Sample], records: Mapping[str, Record]) -> Iterator[Request]:
    """Everything that can be judged: each answered question in each dimension of its file.

    A pair of which one question has no answer is left out.
    """
    for dimension, task in DIMENSIONS.items():
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.task == task:
                name = sample.id if task != "consistency" else sample.id.rpartition("/")[0]
                groups.setdefault(name, []).append(sample)
        for name, group in groups.items():
            found = [records.get(sample.id) for sample in group]
            responses = tuple(r.response for r in found if r and r.response is not None)
            if len(responses) == len(group):
                questions = tuple(sample.question for sample in group)
                reference = str(group[0].gold)
                yield Request(f"{dimension}/{name}", dimension, questions, responses, reference)


def judge(
    run: Run,
    samples: Sequence[Sample],
    url: str,
    model: str,
    progress: Progress,
) -> None:
    """Ask for every score that the run does not have yet.

    Args:
        run: what was predicted, and judged so far.
        samples: the benchmark's questions.
        url: the endpoint, up to and with its version ("http://localhost:8000/v1").
        model: the judge's name there.
        progress: shows how far it is, and replies without a score.

    Raises:
        JudgeError: the run has scores of another judge; the endpoint cannot be reached or refuses.
    """
    from openai import OpenAI, OpenAIError

    _check_judge(run.folder, url, model)
    client = OpenAI(
        base_url=url,
        api_key=os.environ.get("OPENAI_API_KEY", "none"),  # local servers want none
        max_retries=MAX_RETRIES,
        timeout=120.0,
    )
    wanted = list(requests(samples, run.records))
    scored = {item.id for item in run.judgements.values() if item.score is not None}
    todo = [item for item in wanted if item.id not in scored]
    pool = ThreadPoolExecutor(REQUESTS_AT_ONCE)
    with (
        append_lines(run.folder / JUDGEMENTS) as log,
        progress("judging", len(wanted), len(wanted) - len(todo)) as advance,
    ):
        try:
            for item in pool.map(_Judge(client, model).ask, todo):
                log.write(item)
                bad = f"{item.id}: the judge gave no score from 0 to 5: {item.reply!r}"
                advance(None if item.score is not None else bad)
        except json.JSONDecodeError as error:
            raise JudgeError(f"--judge-url: {url}: its answer is not JSON: {error}") from error
        except JudgeError as error:
            raise JudgeError(f"--judge-url: {url}: {error}") from error
        except OpenAIError as error:
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise JudgeError(f"--judge-url: {url}: {first_line}") from error
        finally:
            pool.shutdown(cancel_futures=True)


class _Judge:
    """The model behind the endpoint; several threads ask it at once."""

    def __init__(self, client: OpenAI, model: str) -> None:
        self._client = client
        self._model = model
        self._options: dict[str, Any] = {"temperature": 0}

    def ask(self, request: Request) -> Judgement:
        from openai import BadRequestError

        options = self._options
        try:
            answer = self._complete(request, options)
        except BadRequestError as error:
            if not options or "temperature" not in str(error).lower():
                raise
            self._options = {}  # some models take their own temperature only
            answer = self._complete(request, {})
        reply = _words(answer)
        return Judgement(request.id, request.dimension, parse_score(reply), reply)

    def _complete(self, request: Request, options: Mapping[str, Any]) -> Any:
        return self._client.chat.completions.create(
            model=self._model,
            messages=request.messages(),  # type: ignore[arg-type]
            **options,
        )


def _words(answer: Any) -> str:
    """What a chat completion says; empty where it says nothing.

    Raises:
        JudgeError: it is none, as from a web page that answers every address.
    """
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list):
        raise JudgeError(
            "the endpoint does not answer with chat completions; its address usually ends in /v1"
        )
    content = getattr(getattr(choices[0], "message", None), "content", None) if choices else None
    if isinstance(content, list):  # in parts
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(text for text in parts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _check_judge(folder: Path, url: str, model: str) -> None:
    """One run, one judge: write down which, or compare."""
    file = folder / SETTINGS
    if not file.exists():
        file.write_text(json.dumps({"url": url, "model": model}) + "\n", encoding="utf-8")
        return
    try:
        known = parse_json(read_bytes(file))["model"]
        if not isinstance(known, str):
            raise TypeError(f"model must be a name, got {known!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise JudgeError(f"{file}: does not say which judge the scores are of") from error
    if known != model:
        raise JudgeError(
            f"{folder}: was judged by {known!r}, not {model!r}; delete {file.name}"
            f" and {JUDGEMENTS} to judge it anew"
        )

"""The sample app: a newspaper's desk that sums up an article and sorts the ticket that a reader sent about it.

An ordinary program that happens to record itself: `@qbawa.step` on its functions, `qbawa.llm_call` after each model
call. Its models are mediocre on purpose, so that the flywheel has something to find.
"""

import json
import time
from pathlib import Path
from typing import Any

import qbawa
from qbawa.cli.demo_app import articles as all_articles
from qbawa.cli.demo_app import tickets as all_tickets
from qbawa.engine.offline_models.models import complete, estimate_tokens
from qbawa.errors import InputError, QbawaError

SUMMARY_MODEL = "offline/lead"
TRIAGE_MODEL = "offline/triage-first-match"

SUMMARY_PROMPT = "Sum this article up in one sentence.\n\n{article}"
TRIAGE_PROMPT = """Triage this ticket from a reader. Return JSON with the keys
- category: billing, login, bug, delivery, correction, privacy, feedback or other
- priority: low, normal, high or urgent
- sentiment: negative, neutral or positive

Ticket: {ticket}"""


@qbawa.step
def handle(article: str, ticket: str) -> dict[str, Any]:
    """What the desk sees of one submission."""
    return {"summary": summarise(article), "triage": json.loads(triage(ticket))}


@qbawa.step
def summarise(article: str) -> str:
    """One sentence."""
    return _ask(SUMMARY_MODEL, SUMMARY_PROMPT.format(article=article), temperature=0.0)


@qbawa.step
def triage(ticket: str) -> str:
    """JSON text with category, priority and sentiment."""
    return _ask(TRIAGE_MODEL, TRIAGE_PROMPT.format(ticket=ticket), temperature=0.0)


def _ask(model: str, prompt: str, **params: Any) -> str:
    messages = [{"role": "user", "content": prompt}]
    began = time.perf_counter()
    text = complete(model, messages, params)
    qbawa.llm_call(
        model=model,
        messages=messages,
        output=text,
        parameters=params,
        input_tokens=estimate_tokens(prompt),
        output_tokens=estimate_tokens(text),
        cost_usd=0.0,
        latency_s=time.perf_counter() - began,
    )
    return text


def record_demo(journal_folder: Path, articles: int = 30) -> list[str]:
    """Identifiers of the requests that went through the pipeline and were recorded into `journal_folder`, in order.

    The n-th request is `demo-n` and holds the n-th article and ticket, every time. Ends this process's recording, so
    that the journal's segment is closed and can be ingested. Raises QbawaError where the journal did not take all.

    """
    material = list(zip(all_articles(), all_tickets(), strict=False))
    if not 1 <= articles <= len(material):
        raise InputError(
            f"{articles} articles asked for; the demo has {len(material)} articles. Ask for 1 to {len(material)}."
        )
    qbawa.configure(journal_folder, pipeline="newsdesk")
    requests = []
    for number, (article, ticket) in enumerate(material[:articles], start=1):
        request_id = f"demo-{number:02d}"
        with qbawa.request(request_id=request_id, user=f"reader-{number % 7}", tags={"consent": True}):
            handle(article.text, ticket.text)
        requests.append(request_id)
    complete_on_disk = qbawa.flush()
    qbawa.configure(None)
    if not complete_on_disk:
        raise QbawaError(
            f"The recordings did not all reach {journal_folder}. Is the disk full or the folder read-only?"
        )
    return requests

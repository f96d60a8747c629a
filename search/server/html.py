"""The front page: studies, their state and progress, their fronts as plots; and the login form before it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from search.reporting import formatting
from search.reporting.plots import front_plot
from search.reporting.queries import with_progress
from search.server.access import login
from search.server.access.auth import LOGIN, Gate
from search.server.access.rate_limit import RateLimitedError
from search.server.middleware import client_of
from search.server.studies import Reading, Study
from search.server.svg import front_svg, spark_svg
from search.storage.store import Store
from search.types import OPEN_STATES, Front, Progress, StudyRecord

FAINT_POINTS = 400  # of what is not on the front, the latest are drawn
ASSETS = {"app.css": "text/css", "app.js": "text/javascript"}
STATE_WORDS = {"created": "waiting"}

router = APIRouter(include_in_schema=False)
TEMPLATES = Environment(loader=PackageLoader("search.server", "page"), autoescape=select_autoescape())


@dataclass(frozen=True)
class Card:
    """What the page shows of one study."""

    study: StudyRecord
    progress: Progress
    front: Front | None
    plot: Markup
    spark: Markup

    @property
    def state(self) -> str:
        return STATE_WORDS.get(self.study.state, self.study.state)

    @property
    def share(self) -> float:
        return self.progress.done / self.progress.total

    @property
    def actions(self) -> list[str]:
        if self.study.state in OPEN_STATES:
            return ["pause", "stop"]
        return {"paused": ["resume", "stop"], "stopped": ["resume"]}.get(self.study.state, [])

    @property
    def path(self) -> str:
        return f"/api/v1/studies/{quote(self.study.name)}"


def card(store: Store, study: StudyRecord, progress: Progress) -> Card:
    front = store.front(study.id)
    if front is None:
        return Card(study, progress, None, Markup(), Markup())
    evaluations = store.evaluations(study.id, max(0, progress.done - FAINT_POINTS))
    picture = front_plot.picture(study, front, evaluations)
    volumes = [row[-1] for row in store.front_history(study.id)]
    return Card(study, progress, front, Markup(front_svg(picture)), Markup(spark_svg(volumes)))


@router.get("/", response_class=HTMLResponse)
def index(request: Request, store: Reading) -> str:
    """The page with every study, the latest first."""
    cards = [card(store, study, progress) for study, progress in reversed(list(with_progress(store)))]
    return TEMPLATES.get_template("index.html").render(
        cards=cards, formatting=formatting, dashboard=_dashboard(request), version=request.app.version
    )


@router.get("/cards/{name}", response_class=HTMLResponse)
def one_card(request: Request, study: Study, store: Reading) -> str:
    """One study's card, to take the place of an older one."""
    made = card(store, study, store.progress(study.id))
    return TEMPLATES.get_template("card.html").render(card=made, formatting=formatting, dashboard=_dashboard(request))


def _dashboard(request: Request) -> str | None:
    """Address of Optuna Dashboard: what the server was told, else by the name that the browser used for it."""
    if request.app.state.dashboard_url is not None:
        return str(request.app.state.dashboard_url)
    port = request.app.state.dashboard_port
    host = urlsplit(str(request.base_url)).hostname or "127.0.0.1"
    return None if port is None else f"http://{f'[{host}]' if ':' in host else host}:{port}/dashboard"


@router.get("/static/{name}")
def asset(name: str) -> Response:
    """The page's own style and script."""
    if name not in ASSETS:
        return Response(status_code=404)
    content = (files("search.server") / "page" / name).read_bytes()
    return Response(content, media_type=ASSETS[name])


@router.get(LOGIN)
def login_form(request: Request, next: str = "/") -> Response:
    if request.app.state.gate.token is None:
        return RedirectResponse("/", 303)
    return Response(login.page(next), headers=dict(login.HEADERS))


@router.post(LOGIN)
async def log_in(request: Request) -> Response:
    """Set the cookie if the form holds the token."""
    gate: Gate = request.app.state.gate
    if gate.token is None:
        return RedirectResponse("/", 303)
    shown, wanted = login.submitted(await request.body())
    try:
        if gate.admits(shown, client_of(request.scope)):
            return RedirectResponse(wanted, 303, {"Set-Cookie": login.cookie_header(gate.token)})
    except RateLimitedError as refusal:
        headers = {**dict(login.HEADERS), "Retry-After": str(refusal.wait_s)}
        return Response(login.page(wanted, f"{refusal}."), 429, headers)
    return Response(login.page(wanted, "This is not the token."), 401, dict(login.HEADERS))

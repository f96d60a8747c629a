"""The front page: studies, their state and progress, their fronts as plots; and the login form before it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from search.reporting import formatting
from search.reporting.plots import front_plot
from search.reporting.queries import with_progress
from search.server.middleware import needs_root
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
        return f"api/v1/studies/{quote(self.study.name)}"  # from the page, which a proxy may show under a prefix


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
        cards=cards,
        formatting=formatting,
        version=request.app.version,
        dashboard_is_away=needs_root(root_path) if (root_path := request.app.state.root_path) else "",
    )


@router.get("/cards/{name}", response_class=HTMLResponse)
def one_card(study: Study, store: Reading) -> str:
    """One study's card, to take the place of an older one."""
    made = card(store, study, store.progress(study.id))
    return TEMPLATES.get_template("card.html").render(card=made, formatting=formatting)


@router.get("/page/{name}")
def asset(name: str) -> Response:
    """The page's own style and script."""
    if name not in ASSETS:
        return Response(status_code=404)
    content = (files("search.server") / "page" / name).read_bytes()
    return Response(content, media_type=ASSETS[name])

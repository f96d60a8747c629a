"""The page: studies, their state and progress, their fronts as plots."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, select_autoescape

from search.config.spec import StudyRecord
from search.reporting import formatting
from search.reporting.front_notes import disturbed_notes, volume_note
from search.reporting.plots import canvas, front_plot
from search.reporting.queries import lack, the_front, with_progress
from search.server.dashboard.application import needs_root
from search.server.dashboard.plots import front_id
from search.server.studies import Reading, Study
from search.storage.store import Store
from search.types import AT_WORK_STATES, OPEN_STATES, Front, Progress

ASSETS = {"app.css": "text/css", "app.js": "text/javascript"}
ORDERS = {
    "pause": "No worker begins another trial until it is resumed; trials under way are finished.",
    "resume": "Workers go on where it was left.",
    "stop": "The search ends here. What was found stays, and it can be resumed.",
    "rename": "Trials, evaluations and fronts go with the study to its new name.",
    "delete": "Its trials, evaluations and fronts are removed for good: nothing brings them back.",
}

router = APIRouter(include_in_schema=False)
TEMPLATES = Environment(
    loader=PackageLoader("search.server", "page"),
    autoescape=select_autoescape(),
    # whatever is shown: notes, reasons and names of files may be somebody else's words
    finalize=lambda value: formatting.printable(value) if isinstance(value, str) else value,
)
TEMPLATES.globals.update(formatting=formatting, volume_note=volume_note, disturbed_notes=disturbed_notes)


@dataclass(frozen=True)
class Card:
    """What the page shows of one study. volumes: hypervolume of each version of the front. why: there is none.

    Addresses are relative to the page, which a proxy may show under a prefix.
    """

    study: StudyRecord
    progress: Progress
    front: Front | None
    volumes: list[float]
    why: str

    @property
    def seconds_left(self) -> float:
        """Until trials or time are used up, at the pace so far; 0 if they are, or nobody knows."""
        done, seconds = self.progress.done, self.progress.seconds
        if self.study.state != "running" or done < 2:
            return 0.0
        return self.progress.seconds_left(done / seconds if seconds else None) or 0.0

    @property
    def orders(self) -> dict[str, str]:
        """What may be ordered of the study, each with what it means."""
        state = "open" if self.study.state in OPEN_STATES else self.study.state
        names = {"open": ("pause", "stop"), "paused": ("resume", "stop"), "stopped": ("resume",)}
        orders = {name: ORDERS[name] for name in names.get(state, ())}
        if state == "done" and self.front and self.front.is_disturbed:
            orders["resume"] = "Finalists whose clock other work disturbed are timed again."
        if self.study.state not in AT_WORK_STATES:
            orders["rename"] = ORDERS["rename"]
        return orders if state == "open" else orders | {"delete": ORDERS["delete"]}

    @property
    def path(self) -> str:
        return f"api/v1/studies/{quote(self.study.name)}"

    @property
    def plot(self) -> str:
        """A new picture has a new address, for browsers keep pictures by address."""
        assert self.front is not None
        return f"cards/{quote(self.study.name)}/front.png?{front_id(self.study, self.front)}-{self.study.state}"


def make_card(store: Store, study: StudyRecord, progress: Progress) -> Card:
    front, volumes = store.front(study.id), [row[-1] for row in store.front_history(study.id)]
    why = lack(store, study, progress) if progress.done else "No front yet: the dense model is measured first."
    return Card(study, progress, front, volumes, why)


@router.get("/", response_class=HTMLResponse)
def index(request: Request, store: Reading) -> str:
    """The page with every study, the latest first."""
    return TEMPLATES.get_template("index.html").render(
        cards=[make_card(store, study, progress) for study, progress in reversed(list(with_progress(store)))],
        version=request.app.version,
        dashboard_is_away=needs_root(root_path) if (root_path := request.scope["root_path"]) else "",
    )


@router.get("/cards/{name}", response_class=HTMLResponse)
def show_card(study: Study, store: Reading) -> str:
    """One study's card, to take the place of an older one."""
    card = make_card(store, study, store.progress(study.id))
    return TEMPLATES.get_template("card.html").render(card=card)


@router.get("/cards/{name}/front.png")
def show_plot(study: Study, store: Reading) -> Response:
    """The front as it is now."""
    png = canvas.png(front_plot.picture(study, the_front(store, study), store.evaluations(study.id)))
    return Response(png, headers={"Cache-Control": "private, max-age=86400"}, media_type="image/png")


@router.get("/page/{name}")
def asset(name: str) -> Response:
    """The page's own style and script."""
    if name not in ASSETS:
        return Response(status_code=404)
    content = (files("search.server") / "page" / name).read_bytes()
    return Response(content, media_type=ASSETS[name])

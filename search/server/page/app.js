// Keeps the page up to date: an event tells that a study changed, and its card is fetched again.
"use strict";

const list = document.getElementById("studies");
const live = document.getElementById("live");
const waiting = new Map();

function cardOf(name) {
  return document.getElementById(`study-${name}`);
}

async function refresh(name) {
  waiting.delete(name);
  const answer = await fetch(`cards/${encodeURIComponent(name)}`);
  const old = cardOf(name);
  if (answer.status === 404) return old?.remove();
  if (answer.status === 401) return location.reload(); // the session ended: to the login form
  if (!answer.ok) return;
  const box = document.createElement("template");
  box.innerHTML = await answer.text();
  const fresh = box.content.querySelector("article");
  fresh.querySelector("details")?.toggleAttribute("open", old?.querySelector("details")?.open ?? false);
  if (old) old.replaceWith(fresh);
  else list.prepend(fresh);
  document.getElementById("empty").hidden = true;
}

function keyOf({ done, confirmed, hypervolume, running }) {
  return `${done} ${confirmed} ${hypervolume.toFixed(9)} ${running}`;
}

function soon(name) {
  // a trial may come with a front: one fetch for both
  if (!waiting.has(name)) waiting.set(name, setTimeout(refresh, 150, name));
}

const events = new EventSource("api/v1/events");
for (const kind of ["progress", "removed"]) {
  events.addEventListener(kind, (event) => {
    const { study, progress } = JSON.parse(event.data);
    const card = cardOf(study)?.dataset;
    // the first events tell how things stand, and the page shows most of it already
    const known =
      kind === "progress" && card?.state === progress.state && card?.key === keyOf(progress);
    if (!known) soon(study);
  });
}
events.onopen = () => live.classList.add("on");
events.onerror = () => {
  live.classList.remove("on");
};

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  button.disabled = true;
  const answer = await fetch(button.dataset.post, { method: "POST" });
  if (!answer.ok) alert((await answer.json()).error.message);
  soon(button.closest("article").dataset.name);
});

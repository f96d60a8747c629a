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

function keyOf({ done, confirmed, hypervolume, running, abandoned_s, clock_s }) {
  return `${done} ${confirmed} ${hypervolume.toFixed(9)} ${running} ${(abandoned_s ?? 0).toFixed(1)} ${clock_s.toFixed(1)}`;
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

const question = document.getElementById("question").content.firstElementChild;

function ask(title, text, order) {
  // a dialog of its own: "close" of one that was just answered may come after the next is open
  const dialog = document.body.appendChild(question.cloneNode(true));
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("p").textContent = text;
  dialog.querySelector("[value=yes]").textContent = order;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

async function send(order, name) {
  const path = `api/v1/studies/${encodeURIComponent(name)}`;
  try {
    const answer =
      order === "delete"
        ? await fetch(`${path}?confirm=${encodeURIComponent(name)}`, { method: "DELETE" })
        : await fetch(`${path}/${order}`, { method: "POST" });
    return answer.ok ? "" : (await answer.json()).error.message;
  } catch {
    return "the server does not answer";
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-order]");
  if (!button) return;
  const { order } = button.dataset;
  const { name } = button.closest("article").dataset;
  if (!(await ask(`${order} ${name}?`, button.title, order))) return;
  button.disabled = true;
  const error = await send(order, name);
  if (error) {
    button.disabled = false;
    await ask(`${name}: ${order} failed`, error, "close");
  }
  soon(name);
});

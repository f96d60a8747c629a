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

// name: of the study, where another is asked for. The answer: whether it is yes, or the other name.
function ask(title, text, order, name) {
  // a dialog of its own: "close" of one that was just answered may come after the next is open
  const dialog = document.body.appendChild(question.cloneNode(true));
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("p").textContent = text;
  const yes = dialog.querySelector("[value=yes]");
  yes.textContent = order;
  const field = dialog.querySelector("input");
  field.hidden = field.disabled = name === undefined;
  field.required = !field.hidden;
  field.value = name ?? "";
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return; // it would press the first button, which is to cancel
    event.preventDefault();
    yes.click();
  });
  dialog.showModal();
  if (name !== undefined) field.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" && (field.hidden || field.value.trim()));
    });
  });
}

async function send(order, name, to) {
  const path = `api/v1/studies/${encodeURIComponent(name)}`;
  const more = order === "rename" ? `?to=${encodeURIComponent(to)}` : "";
  try {
    const answer =
      order === "delete"
        ? await fetch(`${path}?confirm=${encodeURIComponent(name)}`, { method: "DELETE" })
        : await fetch(`${path}/${order}${more}`, { method: "POST" });
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
  const asked = order === "rename" ? name : undefined;
  const answer = await ask(`${order} ${name}?`, button.title, order, asked);
  if (!answer || answer === asked) return;
  button.disabled = true;
  const error = await send(order, name, answer);
  if (error) {
    button.disabled = false;
    await ask(`${name}: ${order} failed`, error, "close");
  }
  soon(name);
});

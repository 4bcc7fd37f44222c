// The form of a critique: what is typed is sent to be kept at once, and keys do everything.
import { listenToKeys } from "./keys.js";
import { recall, remember, setUp } from "./page.js";

const PAUSE_MS = 300; // without typing, until it is sent
const RETRY_MS = 3000; // after a failure; the program may be started again meanwhile
const DRAFT_MS = 3000;
const LEFT_MS = 10_000; // after the page was left; what it sent has arrived by then
const KEEPALIVE_BYTES = 60_000; // browsers allow 64 KiB when the page is left
const click = (selector) => document.querySelector(selector)?.click();
const bodyOf = (form) => {
  const body = new URLSearchParams(new FormData(form));
  body.set("action", "keep");
  return body;
};
const fieldsOf = (body) => {
  const fields = new URLSearchParams(body);
  for (const name of ["tab", "seen"]) fields.delete(name);
  return String(fields);
};

// Keeps what is typed. One request is sent at a time, so that the last one has the newest texts.

function keepInput(form) {
  const state = form.querySelector("[data-state]");
  let kept = String(bodyOf(form));
  let timer = 0;
  let sending = null;
  let isSubmitted = false; // a button has sent the texts, with what to do with them
  const path = form.getAttribute("action");
  const post = (body) => {
    const headers = { accept: "application/json", "content-type": "application/x-www-form-urlencoded" };
    return fetch(path, { method: "POST", headers, body, keepalive: body.length < KEEPALIVE_BYTES });
  };

  async function send(isLast = false) {
    if (isSubmitted) return;
    const body = String(bodyOf(form));
    if ((sending && !isLast) || body === kept) return;
    sending = body;
    if (isLast) remember(path, JSON.stringify([Date.now(), body]), "sessionStorage");
    try {
      const response = await post(body);
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.error);
      kept = body;
      show(form, state, answer);
    } catch (error) {
      const isGone = error instanceof TypeError; // no response at all
      state.textContent = isGone ? "Not kept: mondrian label has ended. Start it again and leave this page open." : `Not kept: ${error.message}`;
      state.classList.add("not-saved");
      schedule(RETRY_MS);
    }
    sending = null;
    if (String(bodyOf(form)) !== kept && !state.classList.contains("not-saved")) schedule(PAUSE_MS);
  }
  function schedule(pause) {
    clearTimeout(timer);
    timer = setTimeout(() => send(), pause);
  }
  form.addEventListener("input", () => schedule(PAUSE_MS));
  form.addEventListener("submit", () => {
    clearTimeout(timer);
    isSubmitted = true;
  });
  window.addEventListener("pagehide", () => send(true));
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  // What this tab sent when it left the page may have arrived after the page was rendered again.
  const [leftAt, last] = JSON.parse(recall(path, "sessionStorage") || "[0]");
  remember(path, "[0]", "sessionStorage");
  if (Date.now() - leftAt < LEFT_MS && fieldsOf(last) !== fieldsOf(kept)) {
    post(last).then((response) => {
      if (response.ok && String(bodyOf(form)) === kept) location.reload();
    }, () => {});
  }
}

function show(form, state, { missing, mean }) {
  state.classList.remove("not-saved");
  state.textContent = missing ? `Kept. ${missing} of ${form.dataset.label} required fields are empty` : "Kept. Ready to finish";
  form.elements.overall_score.placeholder = mean ?? "mean";
}

// A slider next to each number; it is pale until the score is set

function installSlider(slider) {
  const number = document.getElementById(slider.dataset.slider);
  const showUnset = () => {
    const isUnset = number.value === "";
    slider.classList.toggle("unset", isUnset);
    if (isUnset) slider.setAttribute("aria-valuetext", "not set");
    else slider.removeAttribute("aria-valuetext");
  };
  const setScore = () => {
    number.value = slider.value;
    showUnset();
    number.dispatchEvent(new Event("input", { bubbles: true }));
  };
  slider.hidden = false;
  slider.addEventListener("input", setScore);
  slider.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    setScore(); // as it stands
  });
  number.addEventListener("input", () => {
    if (number.value !== "" && document.activeElement !== slider) slider.value = number.value;
    showUnset();
  });
  showUnset();
}

// Waits for the draft of the model in the background

function waitForDraft(line) {
  if (line.dataset.draft) return;
  const timer = setInterval(async () => {
    const response = await fetch(`${location.pathname}/draft`).catch(() => null);
    if (!response?.ok) return;
    const { ready, expected } = await response.json();
    if (ready) {
      line.querySelector("button").hidden = false;
      line.querySelector("[data-draft-state]").textContent = "The draft is there. Your own words stay.";
    }
    if (ready || !expected) clearInterval(timer);
  }, DRAFT_MS);
}

function installTyping(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      click("[value=finish]");
    } else if (event.key === "Enter" && event.target.matches("[type=number]")) {
      event.preventDefault(); // it would submit the form
    } else if (event.key === "Escape") {
      event.target.blur();
    }
  });
}

function focusScore(i) {
  const slider = document.querySelector(`[data-slider="dimensions.${i}.score"]`);
  slider?.focus();
  slider?.closest(".part").scrollIntoView({ block: "nearest" });
}

setUp("[data-slider]", installSlider);
setUp("[data-draft]", waitForDraft);
setUp("[data-label]", (form) => {
  keepInput(form);
  installTyping(form);
  if (form.dataset.preload) new Image().src = form.dataset.preload;
});

listenToKeys({
  ...Object.fromEntries([...Array(7).keys()].map((i) => [i + 1, () => focusScore(i)])),
  0: () => document.getElementById("image_description")?.focus(),
  s: () => click("[value=finish]"),
  x: () => click("[value=skip]"),
  d: () => click("[value=draft]:not([hidden])"),
  n: () => click("[data-next]"),
  p: () => click("[data-previous]"),
  f: () => click("[data-enlarge]"),
  g: () => click("[data-thirds]"),
});

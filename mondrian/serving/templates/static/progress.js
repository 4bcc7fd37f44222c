// Progress of critiques: `watchJobs` for any page, and the cards of a critique's page.
import { openStream } from "./live.js";
import { asArray, element, list, setUp } from "./page.js";
import { parsePartialJSON } from "./partial_json.js";

const SHOW_END_MS = 400; // so that 100 % is seen

const watchers = new Map(); // id -> functions
let port = null;
let closeStream = () => {};

// onState gets {step, share, text, place}, {ended, status} at the end, and {lost} if the connection
// is lost or back. All tabs share one event stream, if the browser has shared workers.
export function watchJobs(ids, onState) {
  for (const id of ids) watchers.set(id, [...(watchers.get(id) ?? []), onState]);
  sendIds();
}

function sendIds() {
  const ids = [...watchers.keys()];
  if (typeof SharedWorker === "undefined") {
    closeStream();
    closeStream = ids.length ? openStream(ids, receive) : () => {};
    return;
  }
  if (port === null) {
    port = new SharedWorker("/static/live_worker.js", { type: "module", name: "live" }).port;
    port.onmessage = (event) => receive(event.data);
  }
  port.postMessage(ids);
}

function receive(state) {
  const called = state.id ? (watchers.get(state.id) ?? []) : new Set([...watchers.values()].flat());
  if (state.ended) watchers.delete(state.id);
  for (const onState of called) onState(state);
}

addEventListener("pagehide", () => port?.postMessage([]));
addEventListener("pageshow", (event) => {
  if (event.persisted && watchers.size) sendIds(); // after the browser's back button
});

export const LOST = "Connection lost, retrying…";

function showProgress(block) {
  const step = block.querySelector("[data-step]");
  const bar = block.querySelector("progress");
  let lastStep = step.textContent;
  const setStep = (text) => {
    if (step.textContent !== text) step.textContent = text;
  };
  watchJobs([block.dataset.live.split("/").pop()], (state) => {
    if ("lost" in state) {
      setStep(state.lost ? LOST : lastStep);
    } else if (state.ended) {
      setStep("Complete");
      bar.value = 100;
      setTimeout(reloadOrNotify, SHOW_END_MS);
    } else {
      lastStep = state.step;
      setStep(state.step);
      bar.value = state.share;
      if (state.text) block.querySelector("[data-text]").replaceChildren(...critiqueNodes(state.text));
    }
  });
}

function reloadOrNotify() {
  const fields = [...document.querySelectorAll("main :is(textarea, input:not([type=hidden], [type=checkbox]))")];
  if (fields.some((field) => field.value !== field.defaultValue)) {
    document.querySelector("[data-arrived]").hidden = false; // a reload would lose the input
  } else {
    location.reload();
  }
}

// Without scores: those of an adapter may be calibrated at the end, which would also show that a
// critique whose model is hidden is the adapter's.
function critiqueNodes(text) {
  const critique = parsePartialJSON(text);
  if (critique === null || typeof critique !== "object") return [element("pre", text)];
  const nodes = [];
  const section = (title, content) => {
    if (content !== undefined) nodes.push(element("h3", title), content);
  };
  if (critique.image_description) nodes.push(element("p", critique.image_description));
  for (const dimension of asArray(critique.dimensions)) {
    if (!dimension || !dimension.name) continue;
    const { name, comment, recommendation } = dimension;
    nodes.push(element("h3", name));
    if (comment) nodes.push(element("p", comment));
    if (recommendation) nodes.push(element("p", `How to improve: ${recommendation}`));
  }
  if (critique.key_strengths) section("Strengths", list(critique.key_strengths));
  if (critique.priority_improvements) section("Priorities", list(critique.priority_improvements));
  if (critique.technical_notes) section("Technical notes", element("p", critique.technical_notes));
  return nodes;
}

setUp("[data-live]", showProgress);

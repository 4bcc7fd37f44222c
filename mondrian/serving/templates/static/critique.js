// A critique's page: progress while it is generated.
import { asArray, element, list, setUp } from "./page.js";
import { parsePartialJSON } from "./partial_json.js";

function showProgress(block) {
  const source = new EventSource(block.dataset.live);
  const step = block.querySelector("[data-step]");
  const bar = block.querySelector("progress");
  source.onmessage = (event) => {
    const progress = JSON.parse(event.data);
    if (progress.ended) {
      source.close();
      reloadOrNotify();
      return;
    }
    if (step.textContent !== progress.step) step.textContent = progress.step;
    bar.value = progress.share;
    if (progress.text) block.querySelector("[data-text]").replaceChildren(...critiqueNodes(progress.text));
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
}

function reloadOrNotify() {
  const fields = [...document.querySelectorAll("textarea, input[type=number]")];
  if (fields.some((field) => field.value !== field.defaultValue)) {
    document.querySelector("[data-arrived]").hidden = false; // a reload would lose the input
  } else {
    location.reload();
  }
}

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
    const { name, score, comment, recommendation } = dimension;
    nodes.push(element("h3", score === undefined ? name : `${name}: ${score}/10`));
    if (comment) nodes.push(element("p", comment));
    if (recommendation) nodes.push(element("p", `How to improve: ${recommendation}`));
  }
  if (critique.overall_score !== undefined) section("Overall grade", element("p", `${critique.overall_score}/10`));
  if (critique.key_strengths) section("Strengths", list(critique.key_strengths));
  if (critique.priority_improvements) section("Priorities", list(critique.priority_improvements));
  if (critique.technical_notes) section("Technical notes", element("p", critique.technical_notes));
  return nodes;
}

setUp("[data-live]", showProgress);

// Correcting a critique in place: sliders, the radar, the mean, and unsaved input that survives a
// reload. Without this script the number fields and texts work the same.
import { recall, remember, setUp } from "./page.js";

const isTyped = (field) => field.name && field.type !== "hidden" && field.value !== undefined && field.tagName !== "BUTTON";
const fieldsOf = (form) => [...form.elements].filter(isTyped);
const scoreFields = (form) => fieldsOf(form).filter((field) => /^dimensions\.\d+\.score$/.test(field.name));

function correctInPlace(form) {
  restoreInput(form);
  scoreRelations(form);
  const button = form.querySelector("[data-edit]");
  if (button) showEditButton(form, button);
  form.addEventListener("input", () => {
    markChanges(form);
    keepInput(form);
  });
  markChanges(form);
}

function showEditButton(form, button) {
  const editors = [...form.querySelectorAll("details.edit")];
  const update = () => {
    const open = editors.some((editor) => editor.open);
    button.setAttribute("aria-pressed", String(open));
    button.textContent = open ? "Stop correcting" : "Correct it";
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    editors.forEach((editor) => { editor.open = open; });
    update();
  });
  editors.forEach((editor) => editor.addEventListener("toggle", update));
  update();
}

function markChanges(form) {
  for (const editor of form.querySelectorAll("details.edit")) {
    const fields = [...editor.querySelectorAll("input[name], textarea")];
    editor.classList.toggle("changed", fields.some((field) => field.value !== field.defaultValue));
  }
}

// A slider next to each number; the overall score is their mean until it is changed itself

function scoreRelations(form) {
  const overall = form.elements.overall_score;
  const overallSlider = form.querySelector(`[data-slider="${overall?.id}"]`);
  let meanFollows = overall && overall.value === overall.defaultValue;
  for (const slider of form.querySelectorAll("[data-slider]")) {
    const number = document.getElementById(slider.dataset.slider);
    slider.hidden = false;
    slider.value = number.value;
    slider.addEventListener("input", () => { number.value = slider.value; });
    number.addEventListener("input", () => { slider.value = number.value; });
  }
  form.addEventListener("input", ({ target }) => {
    if (target === overall || target === overallSlider) {
      meanFollows = false;
    } else if (meanFollows && target.matches("[type=number], [type=range]")) {
      const scores = scoreFields(form).map((field) => Number(field.value));
      const changed = scoreFields(form).some((field) => field.value !== field.defaultValue);
      const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
      overall.value = changed ? String(Math.round(mean * 10) / 10) : overall.defaultValue;
      overallSlider.value = overall.value;
    }
    if (target.matches("[type=number], [type=range]")) drawRadar(form);
  });
}

function drawRadar(form) {
  const svg = form.querySelector("svg.radar");
  const corners = svg.querySelector("polygon").getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
  const scores = scoreFields(form).map((field) => Math.min(10, Math.max(0, Number(field.value))));
  const points = corners.map(([x, y], i) => `${100 + ((x - 100) * scores[i]) / 10},${100 + ((y - 100) * scores[i]) / 10}`);
  correctedPolygon(svg).setAttribute("points", points.join(" "));
  form.querySelectorAll(".key, [data-corrected]").forEach((node) => { node.hidden = false; });
}

function correctedPolygon(svg) {
  const existing = svg.querySelector(".two");
  if (existing) return existing;
  const polygon = svg.querySelector(".one").cloneNode();
  polygon.setAttribute("class", "two");
  polygon.setAttribute("stroke", "var(--two)");
  svg.append(polygon);
  return polygon;
}

// Unsaved input is kept in this tab: the buttons of other forms, and reloads, do not lose it

const storageKey = (form) => `draft ${form.dataset.critique}`;

function keepInput(form) {
  const changed = fieldsOf(form).filter((field) => field.value !== field.defaultValue);
  const entries = changed.map((field) => [field.name, [field.defaultValue, field.value]]);
  remember(storageKey(form), JSON.stringify(Object.fromEntries(entries)), "sessionStorage");
}

function restoreInput(form) {
  const draft = JSON.parse(recall(storageKey(form), "sessionStorage") || "{}");
  for (const field of fieldsOf(form)) {
    const [before, typed] = draft[field.name] || [];
    if (typed === undefined || field.defaultValue !== before) continue; // saved meanwhile
    field.value = typed;
    const editor = field.closest("details.edit");
    if (editor) editor.open = true;
  }
  keepInput(form);
}

setUp("form[data-critique]", correctInPlace);

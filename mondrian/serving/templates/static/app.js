// The pages work without this script. It previews a photo, shows a critique while it is generated,
// and shows times in the local time zone. Model output is inserted as text only, never as HTML.
"use strict";

const setUp = (selector, install) => document.querySelectorAll(selector).forEach(install);

// Choosing a photo, or dropping one anywhere on the page

function choosePhoto(form) {
  const input = form.querySelector("input[type=file]");
  const zone = form.querySelector("[data-drop]");
  const fault = form.querySelector("[data-fault]");
  const maxMB = Number(form.dataset.maxMb);
  form.querySelector("[data-only-js]").hidden = false;

  function isTooLarge() {
    const file = input.files[0];
    const tooLarge = file && file.size > maxMB * 1e6 - 1e5; // the other fields are sent with it
    fault.textContent = tooLarge ? `The photo has ${formatSize(file)}; at most ${maxMB} MB are accepted.` : "";
    fault.hidden = !tooLarge;
    return tooLarge;
  }
  input.addEventListener("change", () => {
    isTooLarge();
    preview(form.querySelector("[data-preview]"), input.files[0]);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    zone.classList.add("over");
  });
  document.addEventListener("dragleave", () => zone.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    const transfer = new DataTransfer();
    transfer.items.add(event.dataTransfer.files[0]);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change"));
  });
  form.addEventListener("submit", (event) => {
    if (isTooLarge()) event.preventDefault();
  });
}

function preview(figure, file) {
  const image = figure.querySelector("img");
  const caption = figure.querySelector("figcaption");
  if (image.src) URL.revokeObjectURL(image.src);
  figure.hidden = !file;
  if (!file) return;
  const name = `${file.name}, ${formatSize(file)}`;
  image.hidden = true; // until it has loaded: few browsers can show HEIC
  caption.textContent = `${name}; this browser cannot show it, but the service can read it`;
  image.onload = () => {
    image.hidden = false;
    caption.textContent = name;
  };
  image.src = URL.createObjectURL(file);
}

function formatSize(file) {
  return file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
}

// A pressed button shows that it works and cannot be pressed twice

function disableWhileSending(button) {
  const label = button.textContent;
  button.form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    button.disabled = true;
    button.textContent = button.dataset.busy;
  });
  window.addEventListener("pageshow", () => { // after the browser's back button
    button.disabled = false;
    button.textContent = label;
  });
}

// A critique while it is generated

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

function element(tag, text) {
  const node = document.createElement(tag);
  node.textContent = String(text);
  return node;
}

function list(texts) {
  const node = document.createElement("ul");
  node.append(...asArray(texts).map((text) => element("li", text)));
  return node;
}

const asArray = (value) => (Array.isArray(value) ? value : []);

// Parses JSON that may end anywhere. Numbers stay text. Returns null if it is not an object.

function parsePartialJSON(text) {
  let position = 0;
  const skipSpace = () => {
    while (" \n\r\t,:".includes(text[position] || "x")) position += 1;
  };
  function parseString() {
    const literal = /^"(?:[^"\\]|\\.)*"?/s.exec(text.slice(position))[0];
    position += literal.length;
    const isClosed = literal.length > 1 && /[^\\](?:\\\\)*"$/.test(literal);
    try {
      return JSON.parse(isClosed ? literal : `${literal.replace(/\\(?:u[\da-f]{0,3})?$/i, "")}"`);
    } catch {
      return literal.slice(1);
    }
  }
  function parseItems(close, parseItem) {
    position += 1;
    for (skipSpace(); position < text.length && text[position] !== close; skipSpace()) {
      const start = position;
      parseItem();
      if (position === start) position = text.length; // not JSON: stop
    }
    position += 1;
  }
  function parseValue() {
    skipSpace();
    if (text[position] === '"') return parseString();
    if (text[position] === "[") {
      const array = [];
      parseItems("]", () => array.push(parseValue()));
      return array;
    }
    if (text[position] === "{") {
      const object = Object.create(null);
      parseItems("}", () => {
        if (text[position] !== '"') return;
        const key = parseString();
        object[key] = parseValue();
      });
      return object;
    }
    const word = /^[-+.\w]+/.exec(text.slice(position));
    position += word ? word[0].length : 0;
    return word ? word[0] : undefined;
  }
  skipSpace();
  return text[position] === "{" ? parseValue() : null;
}

// The radar of a corrected critique follows the score fields

function updateRadar(form) {
  const article = form.closest("article");
  const svg = article.querySelector("svg.radar");
  const corners = svg.querySelector("polygon").getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
  const score = (i) => Number(form.elements[`dimensions.${i}.score`].value);

  function redraw() {
    const scores = corners.map((_, i) => Math.min(10, Math.max(0, score(i))));
    const points = corners.map(([x, y], i) => `${100 + ((x - 100) * scores[i]) / 10},${100 + ((y - 100) * scores[i]) / 10}`);
    correctedPolygon().setAttribute("points", points.join(" "));
    article.querySelectorAll(".key, [data-corrected]").forEach((node) => { node.hidden = false; });
  }
  function correctedPolygon() {
    const existing = svg.querySelector(".two");
    if (existing) return existing;
    const polygon = svg.querySelector(".one").cloneNode();
    polygon.setAttribute("class", "two");
    polygon.setAttribute("stroke", "var(--two)");
    svg.append(polygon);
    return polygon;
  }
  form.addEventListener("input", (event) => {
    if (event.target.type === "number") redraw();
  });
}

// Times in the local time zone

function localizeTime(time) {
  const date = new Date(time.dateTime);
  if (!Number.isNaN(date.getTime())) {
    time.textContent = date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

setUp("form.ask", choosePhoto);
setUp("button[data-busy]", disableWhileSending);
setUp("[data-live]", showProgress);
setUp("form[data-radar]", updateRadar);
setUp("time", localizeTime);

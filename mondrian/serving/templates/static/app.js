// The pages work without this: it previews a photograph, shows a critique while it is written, and
// tells times as this machine does. What a model wrote becomes text alone, never HTML.
"use strict";

const each = (selector, act) => document.querySelectorAll(selector).forEach(act);

// A photograph: chosen, or dropped anywhere on the page

function choose(form) {
  const input = form.querySelector("input[type=file]");
  const zone = form.querySelector("[data-drop]");
  const fault = form.querySelector("[data-fault]");
  const most = Number(form.dataset.most);
  form.querySelector("[data-only-js]").hidden = false;

  function tooLarge() {
    const file = input.files[0];
    const told = file && file.size > most * 1e6 - 1e5; // the other fields are sent with it
    fault.textContent = told ? `The photograph has ${size(file)}; at most ${most} MB are taken.` : "";
    fault.hidden = !told;
    return told;
  }
  input.addEventListener("change", () => {
    tooLarge();
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
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    input.dispatchEvent(new Event("change"));
  });
  form.addEventListener("submit", (event) => {
    if (tooLarge()) event.preventDefault();
  });
}

function preview(figure, file) {
  const picture = figure.querySelector("img");
  const caption = figure.querySelector("figcaption");
  if (picture.src) URL.revokeObjectURL(picture.src);
  figure.hidden = !file;
  if (!file) return;
  const name = `${file.name}, ${size(file)}`;
  picture.hidden = true; // until it is known that this browser can show it; few can show HEIC
  caption.textContent = `${name}; this browser cannot show it, the service can read it`;
  picture.onload = () => {
    picture.hidden = false;
    caption.textContent = name;
  };
  picture.src = URL.createObjectURL(file);
}

function size(file) {
  return file.size < 1e6 ? `${Math.ceil(file.size / 1e3)} kB` : `${(file.size / 1e6).toFixed(1)} MB`;
}

// A button that was pressed says so, and is not pressed twice

function busy(button) {
  const told = button.textContent;
  button.form.addEventListener("submit", (event) => {
    if (event.defaultPrevented) return;
    button.disabled = true;
    button.textContent = button.dataset.busy;
  });
  window.addEventListener("pageshow", () => { // back from the next page
    button.disabled = false;
    button.textContent = told;
  });
}

// A critique while it is written

function watch(block) {
  const source = new EventSource(block.dataset.live);
  const step = block.querySelector("[data-step]");
  const bar = block.querySelector("progress");
  source.onmessage = (event) => {
    const told = JSON.parse(event.data);
    if (told.ended) {
      source.close();
      arrived();
      return;
    }
    if (step.textContent !== told.step) step.textContent = told.step;
    bar.value = told.share;
    if (told.text) block.querySelector("[data-text]").replaceChildren(...readable(told.text));
  };
  source.onerror = () => {
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  };
}

function arrived() {
  const typed = [...document.querySelectorAll("textarea, input[type=number]")];
  if (typed.some((field) => field.value !== field.defaultValue)) {
    document.querySelector("[data-arrived]").hidden = false; // something is being written: no reload
  } else {
    location.reload();
  }
}

function readable(text) {
  const told = unfinished(text);
  if (told === null || typeof told !== "object") return [element("pre", text)];
  const nodes = [];
  const section = (title, content) => {
    if (content !== undefined) nodes.push(element("h3", title), content);
  };
  if (told.image_description) nodes.push(element("p", told.image_description));
  for (const one of listed(told.dimensions)) {
    if (!one || !one.name) continue;
    nodes.push(element("h3", one.score === undefined ? one.name : `${one.name}: ${one.score}/10`));
    if (one.comment) nodes.push(element("p", one.comment));
    if (one.recommendation) nodes.push(element("p", `How to improve: ${one.recommendation}`));
  }
  if (told.overall_score !== undefined) section("Overall grade", element("p", `${told.overall_score}/10`));
  if (told.key_strengths) section("Strengths", list(told.key_strengths));
  if (told.priority_improvements) section("Priorities", list(told.priority_improvements));
  if (told.technical_notes) section("Technical notes", element("p", told.technical_notes));
  return nodes;
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = String(text);
  return made;
}

function list(texts) {
  const made = document.createElement("ul");
  made.append(...listed(texts).map((text) => element("li", text)));
  return made;
}

const listed = (value) => (Array.isArray(value) ? value : []);

// JSON that may end anywhere: what there is of it. Numbers stay the text that they are.

function unfinished(text) {
  let at = 0;
  const space = () => {
    while (" \n\r\t,:".includes(text[at] || "x")) at += 1;
  };
  function string() {
    const end = /^"(?:[^"\\]|\\.)*"?/s.exec(text.slice(at))[0];
    at += end.length;
    const whole = end.length > 1 && /[^\\](?:\\\\)*"$/.test(end) ? end : `${end.replace(/\\(?:u[\da-f]{0,3})?$/i, "")}"`;
    try {
      return JSON.parse(whole);
    } catch {
      return end.slice(1);
    }
  }
  function many(close, add) {
    at += 1;
    for (space(); at < text.length && text[at] !== close; space()) {
      const before = at;
      add();
      if (at === before) at = text.length; // no JSON: nothing more is to be had
    }
    at += 1;
  }
  function value() {
    space();
    if (text[at] === '"') return string();
    if (text[at] === "[") {
      const made = [];
      many("]", () => made.push(value()));
      return made;
    }
    if (text[at] === "{") {
      const made = Object.create(null);
      many("}", () => {
        if (text[at] !== '"') return;
        const key = string();
        made[key] = value();
      });
      return made;
    }
    const word = /^[-+.\w]+/.exec(text.slice(at));
    at += word ? word[0].length : 0;
    return word ? word[0] : undefined;
  }
  space();
  return text[at] === "{" ? value() : null;
}

// The scores of a correction, drawn while they are changed

function draw(form) {
  const article = form.closest("article");
  const svg = article.querySelector("svg.radar");
  const far = svg.querySelector("polygon").getAttribute("points").split(" ").map((point) => point.split(",").map(Number));
  const score = (i) => Number(form.elements[`dimensions.${i}.score`].value);

  function redraw() {
    const scores = far.map((_, i) => Math.min(10, Math.max(0, score(i))));
    const points = far.map(([x, y], i) => `${100 + ((x - 100) * scores[i]) / 10},${100 + ((y - 100) * scores[i]) / 10}`);
    shape().setAttribute("points", points.join(" "));
    article.querySelectorAll(".key, [data-corrected]").forEach((part) => { part.hidden = false; });
  }
  function shape() {
    const drawn = svg.querySelector(".two");
    if (drawn) return drawn;
    const made = svg.querySelector(".one").cloneNode();
    made.setAttribute("class", "two");
    made.setAttribute("stroke", "var(--two)");
    svg.append(made);
    return made;
  }
  form.addEventListener("input", (event) => {
    if (event.target.type === "number") redraw();
  });
}

// Times as this machine tells them

function local(time) {
  const when = new Date(time.dateTime);
  if (!Number.isNaN(when.getTime())) {
    time.textContent = when.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
}

each("form.ask", choose);
each("button[data-busy]", busy);
each("[data-live]", watch);
each("form[data-radar]", draw);
each("time", local);

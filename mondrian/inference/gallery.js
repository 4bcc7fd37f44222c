"use strict";
(() => {
  const critiques = JSON.parse(document.getElementById("critiques").textContent);
  const form = document.querySelector(".controls");
  const sheet = document.querySelector(".sheet");
  const items = [...sheet.children];
  const dialog = document.querySelector("dialog");
  const dimensions = [...form.elements.score.options].slice(1).map((option) => option.text);
  const find = (selector) => dialog.querySelector(selector);
  let visible = items;
  let current = 0;

  const add = (parent, tag, text) => {
    const element = document.createElement(tag);
    element.textContent = text;
    parent.append(element);
    return element;
  };

  const addList = (parent, title, texts) => {
    add(parent, "h4", title);
    const list = add(parent, "ul", "");
    for (const text of texts) add(list, "li", text);
  };

  const update = () => {
    const score = Number(form.elements.score.value);
    const minimum = Number(form.elements.minimum.value);
    const scoreOf = (item) => critiques[item.dataset.index].arms[0].scores[score];
    form.elements.at_least.value = minimum;
    visible = items.filter((item) => scoreOf(item) >= minimum);
    visible.sort((a, b) => scoreOf(b) - scoreOf(a) || a.dataset.index - b.dataset.index);
    sheet.replaceChildren(...visible);
    for (const item of visible) {
      item.querySelectorAll("[data-scores] b").forEach((node, i) => {
        node.textContent = critiques[item.dataset.index].arms[i].scores[score].toFixed(1);
      });
    }
    document.querySelector("[data-none]").hidden = visible.length > 0;
    document.querySelector("[data-count]").textContent =
      visible.length === items.length ? `${items.length} photos` : `${visible.length} of ${items.length} photos`;
  };

  const showCritique = (section, arm) => {
    const body = section.querySelector("div");
    body.replaceChildren();
    add(body, "p", arm.description);
    dimensions.forEach((name, i) => {
      const heading = add(body, "h4", name);
      add(heading, "span", arm.scores[i + 1].toFixed(1));
      const [comment, recommendation] = arm.dimensions[i];
      add(body, "p", comment);
      add(body, "p", recommendation).className = "soft";
    });
    addList(body, "Strengths", arm.strengths);
    addList(body, "To improve", arm.improvements);
    add(body, "h4", "Technique");
    add(body, "p", arm.notes);
  };

  const show = (position) => {
    current = (position + visible.length) % visible.length;
    const item = visible[current];
    const { arms, link } = critiques[item.dataset.index];
    const name = item.querySelector(".file").textContent;
    const image = item.querySelector("img");
    find("#photo-name").textContent = name;
    find("[data-original]").href = link;
    find("[data-photo]").src = image ? image.src : "";
    find("[data-photo]").alt = name;
    const polygons = [...dialog.querySelectorAll("polygon[class]")];
    const overall = [...dialog.querySelectorAll("[data-overall]")];
    arms.forEach((arm, i) => {
      polygons[i].setAttribute("points", arm.radar);
      overall[i].textContent = arm.scores[0].toFixed(1);
      showCritique(find(`[data-arm="${i}"]`), arm);
    });
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  };

  document.querySelector("[data-no-script]").remove();
  form.hidden = false;
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  sheet.addEventListener("click", (event) => {
    const item = event.target.closest("li");
    if (item) show(visible.indexOf(item));
  });
  dialog.addEventListener("click", (event) => {
    const { step, close } = event.target.dataset;
    if (step) show(current + Number(step));
    if (close !== undefined || event.target === dialog) dialog.close();
  });
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(current + step);
  });
  dialog.addEventListener("close", () => visible[current].querySelector("button").focus());
  update();
})();

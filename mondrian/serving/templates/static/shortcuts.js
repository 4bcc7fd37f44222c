// Keyboard shortcuts of a critique's page. They act on the critique that is in view.
import { listenToKeys } from "./keys.js";

const click = (selector, root = document) => root.querySelector(selector)?.click();

function currentForm() {
  const forms = [...document.querySelectorAll("form[data-critique]")];
  const focused = document.activeElement.closest("form[data-critique]");
  return focused || forms.find((form) => form.getBoundingClientRect().bottom > innerHeight / 3) || forms.at(-1);
}

function moveToPart(direction) {
  const parts = [...document.querySelectorAll(".part, .opinion")];
  const focused = parts.indexOf(document.activeElement.closest(".part, .opinion"));
  const part = parts[Math.min(parts.length - 1, Math.max(0, focused + direction))];
  if (!part) return;
  part.tabIndex = -1;
  part.focus();
  part.scrollIntoView({ block: "nearest" });
}

const inForm = (selector) => () => {
  const form = currentForm();
  if (form) click(selector, form);
};

const SHORTCUTS = {
  j: () => moveToPart(1),
  k: () => moveToPart(-1),
  e: inForm("[data-edit]"),
  s: inForm(".opinion [name=correct]"),
  u: inForm("[name=thumbs][value=up]"),
  d: inForm("[name=thumbs][value=down]"),
  1: () => click("[data-vote] [value=left]"),
  2: () => click("[data-vote] [value=right]"),
  0: () => click("[data-vote] [value=equal]"),
  f: () => click("[data-enlarge]"),
  g: () => click("[data-thirds]"),
};

listenToKeys(SHORTCUTS);

// Keyboard shortcuts of a page: typing is never one, and ? lists them. They can be switched off,
// because programs for speech input type letters (WCAG 2.1.4).
import { recall, remember, setUp } from "./page.js";

const TYPING = "input:not([type=checkbox], [type=range]), textarea, select, [contenteditable]";

const areOn = () => recall("shortcuts") !== "off";
const showHelp = () => document.querySelector("[data-help]").showModal();

// shortcuts  functions by key, in lower case
export function listenToKeys(shortcuts) {
  const runs = { ...shortcuts, "?": showHelp };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
    if (!areOn() || event.target.closest(TYPING)) return;
    const run = runs[event.key.toLowerCase()];
    if (!run) return;
    event.preventDefault();
    run();
  });
}

setUp("[data-shortcuts]", (button) => {
  const showState = () => { button.textContent = areOn() ? "Keyboard shortcuts" : "Keyboard shortcuts (off)"; };
  button.hidden = false;
  button.addEventListener("click", showHelp);
  setUp("[data-use-shortcuts]", (box) => {
    box.checked = areOn();
    box.addEventListener("change", () => {
      remember("shortcuts", box.checked ? "on" : "off");
      showState();
    });
  });
  showState();
});
